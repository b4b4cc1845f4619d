"""The Workload API, followed: updates, and what holds of them when it is away, makes no sense, or takes back."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from exchanged.authenticate.bundles import Bundle
from exchanged.errors import KeysUnavailable, Reason, StoreUnavailable
from exchanged.workload import client
from exchanged.workload.client import FromWorkloadApi, WorkloadApi
from tests.spiffe.answers import Identity
from tests.spiffe.endpoint import SECURITY_HEADER
from tests.spiffe.malformed import Malformed
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi as Server
from tests.svids import Clock

LIMIT = timedelta(hours=1)
ACME, PARTNER = "acme.example", "partner.example"
X509, JWT = "FetchX509SVID", "FetchJWTBundles"
PATIENCE_SECONDS = 20


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are opened anew without long pauses."""
    monkeypatch.setattr(client, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Workload API whose caller has two identities, and a federated trust domain."""
    home, partner = TrustDomain(ACME), TrustDomain(PARTNER, jwt="RSA")
    identities = [Identity(), Identity(path="/internal", under=home.intermediate())]
    with Server.served(tmp_path / "api.sock", home, federated=[partner], identities=identities) as serving:
        yield serving


class Following:
    """A client that follows, and its clock."""

    def __init__(self, socket: str) -> None:
        self.clock = Clock()
        self.api = WorkloadApi(socket=socket, clock=self.clock, elapsed=lambda: self.clock.elapsed)
        self.acme, self.partner = self.api.of(ACME, LIMIT), self.api.of(PARTNER, LIMIT)

    @property
    def keys(self) -> tuple[int | None, ...]:
        """How many authorities and JWT keys of both trust domains are known; None of what is not known."""
        bundles = [each.fresh() or Bundle(None, None) for each in (self.acme, self.partner)]
        kinds = [kind for bundle in bundles for kind in (bundle.authorities, bundle.jwt_keys)]
        return tuple(None if kind is None else len(kind) for kind in kinds)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when it holds."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < until, (self.keys, self.api.failure, self.api.svids)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.api.updated(), 0.02)

    async def until_keys(self, *keys: int | None) -> None:
        """Returns when so many are known."""
        await self.until(lambda: self.keys == keys)


@asynccontextmanager
async def following(socket: str) -> AsyncIterator[Following]:
    """A client that follows until the end."""
    made = Following(socket)
    running = asyncio.create_task(made.api.run())
    try:
        yield made
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def follower(server: Server) -> AsyncIterator[Following]:
    """A client that has heard all."""
    async with following(server.address) as made:
        await made.until_keys(1, 1, 1, 1)
        yield made


async def test_what_it_says(server: Server, follower: Following) -> None:
    """The daemon's own SVIDs in their order, and the keys of all trust domains, each for itself."""
    assert [each.spiffe_id for each in follower.api.svids] == [
        "spiffe://acme.example/ns/web/sa/deployer",
        "spiffe://acme.example/internal",
    ]
    first, second = follower.api.svids
    assert first.chain_pem == server.svid().chain_pem
    assert second.chain_pem.count(b"BEGIN CERTIFICATE") == 2
    assert first.authorities_pem == server.home.x509_pem
    assert first.key_pem == server.svid().key_pem
    assert "PRIVATE" not in repr(first)
    for bundle, domain in ((follower.acme, server.home), (follower.partner, server.federated[0])):
        known = await bundle.get()
        assert known.authorities == tuple(domain.authorities)
        assert [key.kid for key in known.jwt_keys or ()] == [domain.kid]
        assert bundle.unready() is None
    nobody = await follower.api.of("elsewhere.example", LIMIT).get()
    assert (nobody.authorities, nobody.jwt_keys) == ((), ())
    assert follower.api.failure == ""
    await follower.acme.run()


async def test_rotation(server: Server, follower: Following) -> None:
    """New SVIDs, new keys beside old ones, and old ones that are gone: each as soon as it is said, in one stream."""
    before = follower.api.svids
    server.rotate_svid()
    await follower.until(lambda: follower.api.svids is not before)
    assert follower.api.svids[0].chain_pem == server.svid().chain_pem
    server.rotate_authorities()
    await follower.until_keys(2, 2, 1, 1)
    server.home.drop_old()
    server.push()
    await follower.until_keys(1, 1, 1, 1)
    assert (await follower.acme.get()).authorities == tuple(server.home.authorities)
    assert (server.calls[X509], server.calls[JWT]) == (1, 1)


async def test_identities_that_are_taken_back(server: Server, follower: Following) -> None:
    """An SVID that is not said any more is not the daemon's any more."""
    server.identities = server.identities[1:]
    server.push()
    await follower.until(lambda: len(follower.api.svids) == 1)
    assert follower.api.svids[0].spiffe_id == "spiffe://acme.example/internal"


async def test_a_socket_that_is_not_there_yet(tmp_path: Path) -> None:
    """The client waits for the socket, says why nothing is known, and follows as soon as it is there."""
    path = tmp_path / "later.sock"
    async with following(f"unix://{path}") as made:
        await made.until(lambda: "UNAVAILABLE" in made.api.failure)
        assert str(path) in made.api.failure
        assert (made.keys, made.api.svids) == ((None,) * 4, ())
        with pytest.raises(KeysUnavailable, match=r"later\.sock") as error:
            await made.acme.get()
        assert (error.value.reason, bool(error.value.retry_after)) == (Reason.KEYS_UNAVAILABLE, True)
        assert made.acme.unready() == made.api.failure
        with Server.served(path, TrustDomain(ACME)):
            await made.until_keys(1, 1, 0, 0)
            assert made.acme.unready() is None


async def test_a_server_that_says_nothing(server: Server) -> None:
    """While it accepts calls and says nothing, nothing is known, and the daemon waits without end."""
    server.hang()
    async with following(server.address) as made:
        await asyncio.to_thread(server.wait_open, 2)
        assert made.keys == (None,) * 4
        assert "has not answered yet" in made.api.failure
        with pytest.raises(KeysUnavailable, match="has not answered yet"):
            await made.acme.get()
        server.recover()
        await made.until_keys(1, 1, 1, 1)


@pytest.mark.parametrize("way", ["break", "end", "restart"])
async def test_a_stream_that_ends_is_opened_anew(server: Server, follower: Following, way: str) -> None:
    """However it ends, what was said holds meanwhile, and what is said next counts."""
    server.home.rotate()
    if way == "restart":
        server.stop()
        await follower.until(lambda: bool(follower.api.failure))
        assert follower.keys == (1, 1, 1, 1)
        server.start()
    elif way == "break":
        server.break_streams()
    else:
        server.end_streams()
    await follower.until_keys(2, 2, 1, 1)
    assert follower.api.failure == ""


@pytest.mark.parametrize("step", [timedelta(0), timedelta(days=-1)])
async def test_what_was_said_last_holds_for_a_while(server: Server, follower: Following, step: timedelta) -> None:
    """After the limit nobody is vouched for, though a clock be set back meanwhile, until the server is back."""
    bundle = await follower.acme.get()
    server.stop()
    await follower.until(lambda: "UNAVAILABLE" in follower.api._x509.failure and bool(follower.api._jwt.failure))
    follower.clock.later(LIMIT)
    assert (await follower.acme.get()).authorities == bundle.authorities
    follower.clock.time += step
    follower.clock.later(timedelta(seconds=1))
    with pytest.raises(KeysUnavailable, match="UNAVAILABLE"):
        await follower.acme.get()
    assert (await follower.acme.again(), follower.acme.fresh()) == (None, None)
    assert follower.acme.unready() == follower.api.failure
    assert follower.acme.last is not None
    assert follower.acme.last.authorities == bundle.authorities
    server.start()
    await follower.until_keys(1, 1, 1, 1)


async def test_a_server_that_never_stays_away_for_long(server: Server, follower: Following) -> None:
    """Each answer begins the time anew: it is the age of what was said last that counts."""
    for _ in range(3):
        opened = server.calls[X509]
        server.break_streams()
        await follower.until(lambda opened=opened: server.calls[X509] > opened)  # type: ignore[misc] # each its own
        await follower.until_keys(1, 1, 1, 1)
        follower.clock.later(LIMIT - timedelta(minutes=1))
        assert follower.keys == (1, 1, 1, 1)


@pytest.mark.parametrize(("method", "left"), [(X509, (None, 1, None, 1)), (JWT, (1, None, 1, None))])
async def test_one_stream_is_away(server: Server, follower: Following, method: str, left: Any) -> None:
    """Of what the one does not say any more nothing is known after the limit; the other goes on."""
    server.fail(grpc.StatusCode.UNAVAILABLE, method)
    server.break_streams()
    stream = follower.api._x509 if method == X509 else follower.api._jwt
    other = follower.api._jwt if method == X509 else follower.api._x509
    await follower.until(lambda: bool(stream.failure) and not other.failure and server.open_streams() == 1)
    assert follower.keys == (1, 1, 1, 1)
    follower.clock.later(LIMIT + timedelta(seconds=1))
    assert follower.keys == left
    server.recover()
    await follower.until_keys(1, 1, 1, 1)


async def test_who_has_no_identity(server: Server, follower: Following) -> None:
    """Where the server has nothing for the daemon, what it said holds to the limit: one that starts says the same."""
    server.fail(grpc.StatusCode.PERMISSION_DENIED)
    server.break_streams(grpc.StatusCode.PERMISSION_DENIED)
    await follower.until(lambda: "PERMISSION_DENIED refused by the test" in follower.api.failure)
    assert follower.keys == (1, 1, 1, 1)
    follower.clock.later(LIMIT + timedelta(seconds=1))
    await follower.until(lambda: follower.keys == (None,) * 4)


LEFT_ASIDE: dict[Malformed, tuple[bool, bool]] = {
    "no-svids": (True, False),
    "without-spiffe-id": (True, False),
    "without-certificate": (True, False),
    "without-bundle": (True, False),
    "garbage-certificate": (True, False),
    "garbage-bundle": (True, False),
    "other-id": (True, False),
    "no-bundles": (False, True),
}
"""Whether what is said of certificates, and of JWT keys, makes no sense."""


@pytest.mark.parametrize("kind", LEFT_ASIDE)
async def test_a_message_that_makes_no_sense(server: Server, follower: Following, kind: Malformed) -> None:
    """It is left aside, and the last good one holds for a while, also where the server goes on so for ever."""
    of_x509, of_jwt = LEFT_ASIDE[kind]
    before = (await follower.acme.get()).authorities
    server.home.rotate()
    server.malformed(kind)
    await follower.until(lambda: "makes no sense" in follower.api.failure)
    await follower.until_keys(1 if of_x509 else 2, 1 if of_jwt else 2, 1, 1)
    if of_x509:
        assert (await follower.acme.get()).authorities == before
    follower.clock.later(LIMIT)
    server.push()
    follower.clock.later(timedelta(seconds=1))
    assert follower.keys == (
        None if of_x509 else 2,
        None if of_jwt else 2,
        None if of_x509 else 1,
        None if of_jwt else 1,
    )
    server.recover()
    await follower.until_keys(2, 2, 1, 1)
    assert follower.api.failure == ""
    assert (server.calls[X509], server.calls[JWT]) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "partner"), [("empty-federated-bundle", (0, 0)), ("garbage-federated-bundle", (None, None))]
)
async def test_a_foreign_bundle_takes_nobody_else_down(
    server: Server, follower: Following, kind: Malformed, partner: Any
) -> None:
    """A federated trust domain without keys, or with what are none, has no workloads here; all others are as before."""
    server.home.rotate()
    server.malformed(kind)
    await follower.until_keys(2, 2, *partner)
    assert follower.api.failure == ""
    assert len(follower.api.svids) == 2
    server.recover()
    await follower.until_keys(2, 2, 1, 1)


@pytest.mark.parametrize("kind", ["jwks-not-json", "jwks-without-kid"])
async def test_jwt_keys_of_our_own_that_are_none(server: Server, follower: Following, kind: Malformed) -> None:
    """A key set that cannot be read leaves its own trust domain without; keys without an id are keys."""
    server.malformed(kind)
    await follower.until_keys(1, None if kind == "jwks-not-json" else 1, 1, 1)


@asynccontextmanager
async def _speaking(path: Path, *answers: bytes) -> AsyncIterator[str]:
    """A server that says these bytes to each call, and then nothing."""
    over = threading.Event()

    def answer(_: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        assert SECURITY_HEADER in context.invocation_metadata()
        yield from answers
        over.wait(PATIENCE_SECONDS)

    serving = grpc.server(futures.ThreadPoolExecutor(8))
    handlers: dict[str, Any] = {name: grpc.unary_stream_rpc_method_handler(answer) for name in (X509, JWT)}
    serving.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", handlers)])
    serving.add_insecure_port(f"unix:{path}")
    serving.start()
    try:
        yield f"unix:{path}"
    finally:
        over.set()
        await asyncio.to_thread(serving.stop(None).wait)


async def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    """What is not of the contract is left aside, and told; the stream goes on."""
    async with _speaking(tmp_path / "s", b"\xff\xff") as socket, following(socket) as made:
        await made.until(lambda: "no message of its contract" in made.api.failure)
        assert made.keys == (None,) * 4


async def test_a_message_beyond_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is too long is not taken."""
    monkeypatch.setattr(client, "_CHANNEL", (("grpc.max_receive_message_length", 100),))
    async with _speaking(tmp_path / "s", b"\x0a" * 200) as socket, following(socket) as made:
        await made.until(lambda: "RESOURCE_EXHAUSTED" in made.api.failure)


class Told:
    """Notes which trust domains were removed; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.names: list[str] = []
        self._failures = failures

    async def __call__(self, trust_domain: str) -> None:
        """See `WorkloadApi.on_removed`."""
        self.names.append(trust_domain)
        if len(self.names) <= self._failures:
            raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "told to fail")


async def test_a_trust_domain_that_is_removed(server: Server, follower: Following) -> None:
    """It is told once, when neither kind of its keys is there any more; what returns may be removed again."""
    follower.api.on_removed = told = Told()
    partner = server.federated[0]
    for count in (1, 2):
        server.hang(JWT)
        server.remove_federated(PARTNER)
        await follower.until_keys(1, 1, 0, 1)
        assert len(told.names) == count - 1
        server.recover()
        await follower.until(lambda count=count: told.names == [PARTNER] * count)  # type: ignore[misc] # each its own
        assert follower.keys == (1, 1, 0, 0)
        server.push()
        server.add_federated(partner)
        await follower.until_keys(1, 1, 1, 1)
    assert told.names == [PARTNER] * 2


async def test_nobody_is_told(server: Server, follower: Following) -> None:
    """Who does not want to be told is not, and the streams go on."""
    server.remove_federated(PARTNER)
    await follower.until_keys(1, 1, 0, 0)
    server.home.rotate()
    server.push()
    await follower.until_keys(2, 2, 0, 0)


async def test_what_makes_no_sense_removes_nobody(server: Server, follower: Following) -> None:
    """A bundle that is there and cannot be read is no redaction: no grants end for it."""
    follower.api.on_removed = told = Told()
    server.malformed("garbage-federated-bundle")
    await follower.until_keys(1, 1, None, None)
    server.malformed("empty-federated-bundle")
    await follower.until_keys(1, 1, 0, 0)
    server.recover()
    await follower.until_keys(1, 1, 1, 1)
    assert told.names == []


async def test_a_removal_is_told_until_all_is_done(
    server: Server, follower: Following, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the grants of a trust domain cannot be ended yet it is told again, and both streams go on meanwhile."""
    monkeypatch.setattr(client, "FAILURE_PAUSE", timedelta(seconds=0.01))
    follower.api.on_removed = told = Told(failures=2)
    server.remove_federated(PARTNER)
    await follower.until(lambda: len(told.names) == 3)
    server.home.rotate()
    server.push()
    await follower.until_keys(2, 2, 0, 0)
    assert told.names == [PARTNER] * 3
    assert "not all is done" in caplog.text
    assert (server.calls[X509], server.calls[JWT]) == (1, 1)


async def test_the_end(server: Server) -> None:
    """Whoever stops following leaves no stream behind."""
    async with following(server.address) as made:
        await made.until_keys(1, 1, 1, 1)
        assert isinstance(made.acme, FromWorkloadApi)
    await asyncio.to_thread(server.wait_open, 0)
