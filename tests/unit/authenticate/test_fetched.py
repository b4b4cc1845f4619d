"""Bundles from a file and from an endpoint: fetched ahead of need, honoured in their hints, and kept for a while."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exchanged.authenticate.bundles import Bundle
from exchanged.authenticate.fetched import FAILURE_PAUSE, UNKNOWN_KEY_PAUSE, Age, Fetched
from exchanged.config import SpiffeIssuer
from exchanged.errors import KeysUnavailable
from exchanged.issuers import _Builder
from exchanged.metrics import Metrics
from exchanged.model import IssuerName
from tests.spiffe.bundle_endpoint import BundleEndpoint
from tests.spiffe.pki import TrustDomain
from tests.svids import Clock, Published


class Configured:
    """The bundle of an issuer as the daemon makes it of its configuration, and a clock."""

    def __init__(self, **settings: Any) -> None:
        nothing: Any = None
        self.clock = Clock()
        self.metrics = Metrics()
        issuer = SpiffeIssuer.model_validate({"type": "spiffe", "trustDomain": "acme.example", "bundle": settings})
        builder = _Builder(nothing, nothing, nothing, self.metrics, self.clock)
        made = builder._bundle(IssuerName("acme"), issuer, frozenset(issuer.algorithms))
        assert isinstance(made, Fetched)
        self.bundle: Fetched[Bundle] = made
        made._elapsed = lambda: self.clock.elapsed

    async def again(self) -> Bundle:
        """Fetched anew, as soon as that is done again."""
        self.clock.later(UNKNOWN_KEY_PAUSE)
        found = await self.bundle.again()
        assert found is not None
        return found

    async def failing(self, why: str) -> None:
        """A fetch fails for this, and the bundle stays as it was."""
        before = self.bundle.last
        assert await self.again() is before
        assert why in self.bundle._failure
        assert await self.bundle.get() is before


def _write(file: Path, domain: TrustDomain, **changes: Any) -> None:
    file.write_text(json.dumps(domain.bundle() | changes))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the bundle of a trust domain."""
    path = tmp_path / "bundle.json"
    _write(path, TrustDomain("acme.example"))
    return path


async def test_a_file(file: Path) -> None:
    """A bundle in a file is read again as it hints; what is wrong with the file changes nothing, for a while."""
    made, domain = Configured(file=str(file)), TrustDomain("acme.example")
    first = await made.bundle.get()
    assert first.authorities
    _write(file, domain, spiffe_refresh_hint=60)
    assert await made.bundle.get() is first
    assert (await made.again()).authorities == tuple(domain.authorities)
    domain.rotate()
    domain.drop_old()
    _write(file, domain)
    found = await made.again()
    assert (found.authorities, len(found.jwt_keys or ())) == (tuple(domain.authorities), 1)
    for content in ("{", "[]", "{}", '{"keys": 1}', '{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["!"]}]}'):
        file.write_text(content)
        await made.failing("")
    file.unlink()
    await made.failing("No such file")
    made.clock.later(timedelta(hours=1, minutes=5))
    with pytest.raises(KeysUnavailable, match="No such file"):
        await made.bundle.get()


async def test_keys_that_are_taken_back(file: Path) -> None:
    """An empty bundle is no fault, and takes the place of the one before at once."""
    made = Configured(file=str(file))
    assert (await made.bundle.get()).authorities
    file.write_text('{"keys": []}')
    found = await made.again()
    assert (found.authorities, found.jwt_keys) == ((), ())


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[BundleEndpoint]:
    """A bundle endpoint."""
    async with BundleEndpoint.serve(tmp_path, TrustDomain("acme.example")) as serving:
        yield serving


def _from(endpoint: BundleEndpoint, **more: Any) -> Configured:
    usual = {"endpoint": endpoint.url, "certificateAuthority": str(endpoint.certificate_authority)}
    return Configured(**(usual | more))


async def test_an_endpoint(endpoint: BundleEndpoint) -> None:
    """A rotation at the endpoint is seen at the next fetch: the new keys beside the old ones, then without them."""
    made = _from(endpoint)
    assert len((await made.bundle.get()).authorities or ()) == 1
    endpoint.rotate()
    found = await made.again()
    assert (found.authorities, len(found.jwt_keys or ())) == (tuple(endpoint.domain.authorities), 2)
    endpoint.domain.drop_old()
    assert (await made.again()).authorities == tuple(endpoint.domain.authorities)
    assert endpoint.requests == ["/bundle"] * 3


async def test_an_endpoint_that_leads_elsewhere(endpoint: BundleEndpoint) -> None:
    """A redirect is not followed, also not to the same host."""
    made = _from(endpoint)
    await made.bundle.get()
    endpoint.redirect = endpoint.url.replace("/bundle", "/moved")
    await made.failing("answered 307")
    assert "/moved" not in endpoint.requests


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 404}, "answered 404"),
        ({"body": b"<html>"}, "not JSON"),
        ({"body": b"["}, "not JSON"),
        ({"body": b"[]"}, "not a JSON object"),
        ({"body": b"{}"}, "no list of keys"),
        ({"body": b"[" * 100_000}, "not JSON"),
        ({"body": b" " * (512 * 1024 + 1)}, "larger than"),
        ({"body": b'{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["MII="]}]}'}, "x5c holds no certificate"),
    ],
)
async def test_an_endpoint_that_answers_nothing_useful(endpoint: BundleEndpoint, fault: Any, why: str) -> None:
    """The last good bundle is kept, and the fault told; once the endpoint is well, its bundle counts again."""
    made = _from(endpoint)
    await made.bundle.get()
    for name, value in fault.items():
        setattr(endpoint, name, value)
    await made.failing(why)
    endpoint.status, endpoint.body = 200, None
    endpoint.rotate()
    assert (await made.again()).authorities == tuple(endpoint.domain.authorities)
    assert b'issuer="acme",outcome="failed"} 1.0' in made.metrics.text()


async def test_an_endpoint_that_does_not_answer(endpoint: BundleEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: a fetch ends, and the last good bundle is kept until its time is over."""
    made = _from(endpoint)
    await made.bundle.get()
    endpoint.silent = True
    monkeypatch.setattr("exchanged.authenticate.sources.TIME_OUT", aiohttp.ClientTimeout(total=0.05))
    await made.failing("did not answer: TimeoutError")
    made.clock.later(timedelta(hours=1, minutes=5))
    with pytest.raises(KeysUnavailable):
        await made.bundle.get()


@pytest.mark.parametrize("authority", [None, "stranger.crt"])
async def test_an_endpoint_that_is_somebody_else(endpoint: BundleEndpoint, tmp_path: Path, authority: Any) -> None:
    """A server that the configured authority, or public ones, do not vouch for is not asked."""
    (tmp_path / "stranger.crt").write_bytes(endpoint.domain.x509_pem)
    made = _from(endpoint, certificateAuthority=str(tmp_path / authority) if authority else None)
    with pytest.raises(KeysUnavailable, match="did not answer"):
        await made.bundle.get()
    assert endpoint.requests == []


async def _pauses(made: Fetched[Bundle], monkeypatch: pytest.MonkeyPatch, fetches: int) -> list[float]:
    """The pauses after so many fetches of the background."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == fetches:
            raise asyncio.CancelledError

    monkeypatch.setattr("exchanged.authenticate.fetched.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await made.run()
    return pauses


@pytest.mark.parametrize(
    ("hint", "settings", "seconds"),
    [
        (60, {}, 60),
        (1, {}, 5),
        (86_400, {}, 3_600),
        (None, {}, 300),
        (60, {"refresh": "10m"}, 600),
        (86_400, {"refresh": "1d"}, 86_400),
    ],
)
async def test_hints_are_honoured(
    endpoint: BundleEndpoint, monkeypatch: pytest.MonkeyPatch, hint: Any, settings: Any, seconds: int
) -> None:
    """A bundle is fetched as often as it hints, within bounds, or as the configuration wants."""
    endpoint.refresh_hint = hint
    (pause,) = await _pauses(_from(endpoint, **settings).bundle, monkeypatch, 1)
    assert 0.8 * seconds <= pause <= seconds


async def test_a_hint_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest hint counts, and a failure is followed by a short pause."""
    made = Published.of("acme.example")
    bundle = made.bundle()
    (first,) = await _pauses(bundle, monkeypatch, 1)
    made.document = made.domain.bundle(refresh_hint=20)
    (second,) = await _pauses(bundle, monkeypatch, 1)
    made.broken = True
    (third,) = await _pauses(bundle, monkeypatch, 1)
    assert 240 <= first <= 300
    assert 16 <= second <= 20
    assert third <= FAILURE_PAUSE.total_seconds()


@pytest.mark.parametrize("hint", [60, 3_600])
async def test_how_long_a_bundle_holds(hint: int) -> None:
    """While its publisher is away a bundle is good for its refresh and the limit beyond, and no longer."""
    made = Published.of("acme.example")
    made.document = made.domain.bundle(refresh_hint=hint)
    bundle = made.bundle()
    assert bundle.fresh() is None
    assert bundle.unready() == "not fetched yet"
    kept = await bundle.get()
    made.broken = True
    made.clock.later(timedelta(hours=1, seconds=hint))
    assert bundle.fresh() is await bundle.get() is kept
    made.clock.later(timedelta(seconds=1))
    assert (bundle.fresh(), bundle.unready()) == (None, "its keys are too old")
    with pytest.raises(KeysUnavailable):
        await bundle.get()
    assert bundle.unready() == "broken"
    assert bundle.last is kept


def test_ages() -> None:
    """Something is too old by either clock: one may be set back, the other may have stood still."""
    clock = Clock()
    age, hour = Age(clock, lambda: clock.elapsed), timedelta(hours=1)
    assert not age.is_over(hour)
    clock.time -= timedelta(days=1)
    assert not age.is_over(hour)
    clock.elapsed += 3_601
    assert age.is_over(hour)
    clock.elapsed, clock.time = 0.0, clock.time + timedelta(days=1, hours=1, seconds=1)
    assert age.is_over(hour)
    assert not age.is_over(timedelta.max)
