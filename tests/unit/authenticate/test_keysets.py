import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exchanged.authenticate.fetched import SourceError
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.sources import MAX_BYTES, FileSource, HttpSource
from exchanged.errors import KeysUnavailable
from tests.issuers import FakeIssuer
from tests.lab.pki import Authority


class Source:
    """A source that a test breaks."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self.issuer = issuer
        self.fetches = 0
        self.broken = False
        self.gate: asyncio.Event | None = None

    async def fetch(self) -> Mapping[str, Any]:
        """The keys, unless broken."""
        self.fetches += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise SourceError("broken")
        return self.issuer.jwks()


class Fixture:
    """A key set and its clock."""

    def __init__(self) -> None:
        self.issuer = FakeIssuer("https://ci.example", kind="EC")
        self.source = Source(self.issuer)
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.elapsed = 0.0
        self.fetched: list[bool] = []
        self.keys = KeySet(
            source=self.source,
            algorithms=frozenset({"ES256"}),
            refresh=timedelta(minutes=10),
            stale_limit=timedelta(hours=1),
            clock=lambda: self.time,
            on_fetch=self.fetched.append,
            elapsed=lambda: self.elapsed,
        )

    def later(self, by: timedelta) -> None:
        """Time goes by, on all clocks."""
        self.time += by
        self.elapsed += by.total_seconds()


async def test_one_fetch_for_many() -> None:
    """Many who ask at once wait for one fetch, and one who goes away does not take it along."""
    made = Fixture()
    made.source.gate = asyncio.Event()
    waiting = [asyncio.create_task(made.keys.find(made.issuer.kid)) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    made.source.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert made.source.fetches == 1
    assert all(len(found) == 1 for found in results[1:] if isinstance(found, tuple))
    assert made.fetched == [True]


async def test_a_new_key_is_found_and_an_invented_one_cools_down() -> None:
    """An unknown id leads to a fetch, but not to another within the pause."""
    made = Fixture()
    await made.keys.find(made.issuer.kid)
    made.issuer.rotate()
    assert await made.keys.find(made.issuer.kid) == ()
    made.later(timedelta(seconds=31))
    assert len(await made.keys.find(made.issuer.kid)) == 1
    assert made.source.fetches == 2
    for number in range(5):
        assert await made.keys.find(f"invented-{number}") == ()
    assert made.source.fetches == 2


async def test_good_keys_outlive_a_broken_issuer_for_a_while() -> None:
    """A failed fetch drops nothing; past the limit nobody is vouched for, until the issuer is back."""
    made = Fixture()
    assert made.keys.unready()
    await made.keys.find(made.issuer.kid)
    assert made.keys.unready() is None
    made.source.broken = True
    made.later(timedelta(minutes=69))
    assert len(await made.keys.find(made.issuer.kid)) == 1
    made.later(timedelta(minutes=2))
    with pytest.raises(KeysUnavailable) as error:
        await made.keys.find(made.issuer.kid)
    assert error.value.retry_after
    fetches = made.source.fetches
    with pytest.raises(KeysUnavailable):
        await made.keys.find(made.issuer.kid)
    assert made.source.fetches == fetches
    made.source.broken = False
    made.later(timedelta(seconds=6))
    assert len(await made.keys.find(made.issuer.kid)) == 1
    assert made.fetched == [True, False, True]


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(minutes=-50)])
async def test_a_clock_that_is_set_back_keeps_no_key_alive(step: timedelta) -> None:
    """Keys are fetched as before, a new one is found, a withdrawn one is forgotten, and old ones end in their time."""
    made = Fixture()
    (first,) = await made.keys.find(made.issuer.kid)
    made.time += step
    made.issuer.rotate()
    made.later(timedelta(seconds=31))
    assert await made.keys.find(made.issuer.kid) not in ((), (first,))
    assert await made.keys.find(first.kid) == ()
    made.source.broken = True
    made.later(timedelta(minutes=71))
    with pytest.raises(KeysUnavailable):
        await made.keys.find(made.issuer.kid)


async def test_a_clock_that_stood_still_keeps_no_key_alive() -> None:
    """A machine that slept, or was put away and taken out again, has old keys by the one clock or the other."""
    for asleep, away in ((timedelta(hours=2), timedelta(0)), (timedelta(0), timedelta(hours=2))):
        made = Fixture()
        await made.keys.find(made.issuer.kid)
        made.source.broken = True
        made.elapsed += asleep.total_seconds()
        made.time += away
        assert made.keys.unready()
        with pytest.raises(KeysUnavailable):
            await made.keys.find(made.issuer.kid)


async def test_what_is_known_is_told_without_a_fetch() -> None:
    """Whether an id is known is answered from what is there; none at all may be any of them."""
    made = Fixture()
    assert not made.keys.knows(made.issuer.kid)
    assert made.source.fetches == 0
    await made.keys.find(made.issuer.kid)
    assert made.keys.knows(made.issuer.kid)
    assert made.keys.knows(None)
    assert not made.keys.knows("another")


async def test_a_set_without_a_usable_key_is_none() -> None:
    """Keys that cannot be used are no keys."""
    made = Fixture()
    made.source.issuer = FakeIssuer("x")
    with pytest.raises(KeysUnavailable, match="no key that can be used"):
        await made.keys.find("x")


async def test_keys_are_fetched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background fetches at once, and again after each pause."""
    made = Fixture()
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        made.source.broken = True
        if len(pauses) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr("exchanged.authenticate.fetched.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await made.keys.run()
    assert made.source.fetches == 2
    assert 480 <= pauses[0] <= 600
    assert pauses[1] <= 5


async def test_files(tmp_path: Path) -> None:
    """A key set may be a file; one that is missing, large or no JSON object is told."""
    file = tmp_path / "keys.json"
    source = FileSource(file)
    for content in (None, "x" * (MAX_BYTES + 1), "[" * 100_000, "[]"):
        if content is not None:
            file.write_text(content)
        with pytest.raises(SourceError):
            await source.fetch()
    file.write_text(json.dumps(FakeIssuer("x").jwks()))
    assert (await source.fetch())["keys"]


Handler = Callable[[web.Request], Any]


class Server:
    """An HTTPS server that answers as a test wants."""

    def __init__(self) -> None:
        self.answers: dict[str, Handler] = {}
        self.url = ""
        self.ca = Path()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers."""
        answer: web.StreamResponse = self.answers[request.path](request)
        return answer

    def source(self, **changes: Any) -> HttpSource:
        """A source that trusts this server."""
        usual: dict[str, Any] = {
            "issuer": self.url,
            "url": None,
            "certificate_authority": self.ca,
            "bearer_token_file": None,
        }
        return HttpSource(**(usual | changes))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Such a server."""
    authority, made = Authority("x"), Server()
    made.ca = tmp_path / "ca.crt"
    made.ca.write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(tmp_path, "s"))
    application = web.Application()
    application.router.add_get("/{tail:.*}", made.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


DISCOVERY = "/.well-known/openid-configuration"


async def test_discovery_is_not_led_astray(server: Server) -> None:
    """Keys come from the issuer itself: not from another host, another issuer's document, or a redirect."""

    async def fails(document: Any, match: str) -> None:
        server.answers[DISCOVERY] = lambda _: web.json_response(document)
        with pytest.raises(SourceError, match=match):
            await server.source().fetch()

    await fails({"issuer": "https://other.example", "jwks_uri": f"{server.url}/keys"}, "another issuer's")
    await fails({"issuer": server.url, "jwks_uri": "https://evil.example/keys"}, "another host")
    await fails({"issuer": server.url, "jwks_uri": f"http{server.url[5:]}/keys"}, "another host")
    await fails({"issuer": server.url}, "another host")
    await fails([], "not a JSON object")
    server.answers["/keys"] = lambda _: web.Response(status=302, headers={"Location": "https://evil.example"})
    await fails({"issuer": server.url, "jwks_uri": f"{server.url}/keys"}, "answered 302")


async def test_fetching(server: Server, tmp_path: Path) -> None:
    """Discovery, a fixed URL and a bearer token work; a large answer, another CA and nobody at home are told."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    seen: list[str | None] = []

    def keys(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"keys": []})

    server.answers[DISCOVERY] = lambda _: web.json_response({"issuer": server.url, "jwks_uri": f"{server.url}/keys"})
    server.answers["/keys"] = keys
    for source in (server.source(), server.source(url=f"{server.url}/keys", bearer_token_file=token)):
        assert await source.fetch() == {"keys": []}
        assert await source.fetch() == {"keys": []}
    assert seen == [None, None, "Bearer secret", "Bearer secret"]
    server.answers["/keys"] = lambda _: web.Response(body=b"x" * (MAX_BYTES * 3))
    other = Authority("other")
    (tmp_path / "other.crt").write_bytes(other.pem)
    for source, match in (
        (server.source(), "larger than"),
        (server.source(certificate_authority=tmp_path / "other.crt"), "did not answer"),
        (server.source(certificate_authority=tmp_path / "none.crt"), "cannot be used"),
        (server.source(url="https://127.0.0.1:1/keys"), "did not answer"),
    ):
        with pytest.raises(SourceError, match=match):
            await source.fetch()
