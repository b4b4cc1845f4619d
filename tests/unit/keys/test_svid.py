import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from exchanged.keys.svid import SvidCertificate
from exchanged.workload.messages import Svid
from tests.spiffe.pki import TrustDomain

DOMAIN = TrustDomain("acme.example")
FIRST, SECOND = "spiffe://acme.example/exchanged", "spiffe://acme.example/internal"


class Source:
    """Implements `Svids` with those that a test gives."""

    def __init__(self, *svids: Svid) -> None:
        self.svids = svids
        self._update = asyncio.Event()

    async def updated(self) -> None:
        """See `Svids.updated`."""
        self._update.clear()
        await self._update.wait()

    def give(self, *svids: Svid) -> None:
        """From now on these."""
        self.svids = svids
        self._update.set()


def _svid(path: str = "/exchanged", lifetime: timedelta = timedelta(hours=1)) -> Svid:
    made = DOMAIN.svid(path, lifetime=lifetime, under=DOMAIN.intermediate())
    return Svid(made.spiffe_id, made.chain_pem, made.key_pem, DOMAIN.x509_pem)


def test_the_first_or_the_one_that_is_named() -> None:
    """Without a name the first SVID is served (SPIFFE_Workload_API §8), with one that one, wherever it stands."""
    first, second = _svid(), _svid("/internal")
    source = Source(first, second)
    for named, expected in ((None, first), (FIRST, first), (SECOND, second)):
        pair = SvidCertificate(source=source, spiffe_id=named).current()
        assert (pair.chain_pem, pair.key_pem) == (expected.chain_pem, expected.key_pem)
        assert pair.ca_pem == DOMAIN.x509_pem
        assert pair.not_before < datetime.now(UTC) < pair.not_after


@pytest.mark.parametrize(("svids", "named"), [((), None), ((), FIRST), ((_svid("/internal"),), FIRST)])
def test_there_is_none_yet(svids: tuple[Svid, ...], named: str | None) -> None:
    """Without an SVID, or without the one that is named, nothing is served, and it is said what is missing."""
    certificate = SvidCertificate(source=Source(*svids), spiffe_id=named)
    with pytest.raises(ValueError, match=rf"has not given the daemon an SVID \({named or 'any'}\) yet"):
        certificate.current()


async def test_it_is_waited_for() -> None:
    """Whoever needs a certificate to begin waits until there is the right one, and it can be served."""
    source = Source()
    certificate = SvidCertificate(source=source, spiffe_id=FIRST)
    waiting = [asyncio.create_task(certificate.available()) for _ in range(2)]
    for svids in ((), (_svid("/internal"),), (replace(_svid(), key_pem=b"garbage"),)):
        source.give(*svids)
        done, _ = await asyncio.wait(waiting, timeout=0.02)
        assert not done
    source.give(_svid("/internal"), _svid())
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    await certificate.available()
    await certificate.run()


def test_a_renewed_one_takes_the_place_of_the_old() -> None:
    """A new SVID is a new pair; the same one is the same pair, so that nothing is served anew for it."""
    source = Source(_svid())
    certificate = SvidCertificate(source=source, spiffe_id=None)
    first = certificate.current()
    assert certificate.current() is first
    source.give(newer := _svid())
    second = certificate.current()
    assert (second is not first, second.chain_pem) == (True, newer.chain_pem)
    assert certificate.current() is second


BAD: dict[str, Callable[[], Svid]] = {
    "no chain": lambda: replace(_svid(), chain_pem=b""),
    "a chain that is garbage": lambda: replace(_svid(), chain_pem=b"garbage"),
    "no key": lambda: replace(_svid(), key_pem=b""),
    "a key that is garbage": lambda: replace(
        _svid(), key_pem=b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    ),
    "a key of another": lambda: replace(_svid(), key_pem=_svid().key_pem),
}


@pytest.mark.parametrize("name", BAD)
def test_one_that_cannot_be_served(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The SVID before stays, it is said once why, and nothing of a key is written down; the next good one counts."""
    source = Source(_svid())
    certificate = SvidCertificate(source=source, spiffe_id=None)
    before = certificate.current()
    source.give(bad := BAD[name]())
    caplog.clear()
    assert certificate.current() is certificate.current() is before
    assert [record.message for record in caplog.records] == ["the SVID before is kept: the new one cannot be used"]
    assert "PRIVATE" not in "".join(str(record.__dict__) for record in caplog.records) + repr(before) + repr(bad)
    source.give(good := _svid())
    assert certificate.current().chain_pem == good.chain_pem


def test_one_that_is_taken_back() -> None:
    """An SVID that is not there any more is served to its end; another in its place is not, where one is named."""
    source = Source(_svid())
    named, first = SvidCertificate(source=source, spiffe_id=FIRST), SvidCertificate(source=source, spiffe_id=None)
    pairs = (named.current(), first.current())
    source.give()
    assert (named.current(), first.current()) == pairs
    source.give(other := _svid("/internal"))
    assert named.current() is pairs[0]
    assert first.current().chain_pem == other.chain_pem
