"""A client that is closed under calls, at a daemon whose answers the test gives."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from exchanged.client import AsyncExchange, Exchange, calls
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc as contract
from tests.doors import listening
from tests.lab.pki import Authority
from tests.unit.client.kinds import Kind

LONG_SECONDS = 900


class Door(contract.TokenExchangeServicer):
    """Each exchange is answered when the test says so; what is given back is kept."""

    def __init__(self, folder: Path) -> None:
        self.asked, self.answer = threading.Semaphore(0), threading.Semaphore(0)
        self.away = False
        self.together = threading.Barrier(1)
        self.granted: list[str] = []
        self.given_back: list[str] = []
        authority, self.ca = Authority("door"), folder / "ca.crt"
        self.ca.write_bytes(authority.pem)
        self._served = grpc.server(ThreadPoolExecutor(8))
        contract.add_TokenExchangeServicer_to_server(self, self._served)  # type: ignore[no-untyped-call] # generated
        self.address = listening(self._served, authority)
        self._served.start()

    def Exchange(self, request: pb.ExchangeRequest, context: grpc.ServicerContext) -> pb.ExchangeResponse:  # noqa: N802 - the contract's name
        """A token, in the end."""
        self.asked.release()
        if self.away:
            status = Status(code=grpc.StatusCode.UNAVAILABLE.value[0])
            status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=LONG_SECONDS)))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        assert self.answer.acquire(timeout=10)
        self.granted.append(f"token {len(self.granted) + 1} for {request.subject_token}")
        return pb.ExchangeResponse(access_token=self.granted[-1], expires_in=100)

    def Revoke(self, request: pb.RevokeRequest, _: grpc.ServicerContext) -> pb.RevokeResponse:  # noqa: N802 - as above
        """Given back, when so many as are to come together have come."""
        self.together.wait(10)
        self.given_back.append(request.token)
        return pb.RevokeResponse()

    def end(self) -> None:
        """Ends."""
        self.answer.release(8)
        self._served.stop(None).wait()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A daemon's door, but for the daemon."""
    made = Door(tmp_path)
    yield made
    made.end()


@pytest.fixture
def exchange(kind: Kind, door: Door) -> Any:
    """A client of either kind, that has a connection and much patience."""
    made = kind.exchange(door.address, door.ca, 2 * LONG_SECONDS)
    kind.begin(made.revoke, "none").result(10)
    door.given_back.clear()
    return made


def test_a_call_under_way_is_told(kind: Kind, door: Door, exchange: Any) -> None:
    """Its caller, whom nobody cancelled, hears what the matter is."""
    waiting = kind.begin(exchange.token, "proof")
    assert door.asked.acquire(timeout=10)
    kind.begin(exchange.close).result(10)
    with pytest.raises(RuntimeError, match="this client is closed"):
        waiting.result(10)


def test_who_waits_to_try_again_is_told(kind: Kind, door: Door, exchange: Any) -> None:
    """At once, and not when the pause is over."""
    door.away = True
    waiting = kind.begin(exchange.token, lambda: "proof")
    assert door.asked.acquire(timeout=10)
    kind.begin(exchange.close).result(10)
    with pytest.raises(RuntimeError, match="this client is closed"):
        waiting.result(10)


def test_who_is_still_looking_for_a_proof_is_told(kind: Kind, door: Door, exchange: Any) -> None:
    """The daemon is not asked any more."""
    looking, found = threading.Event(), threading.Event()

    def proof() -> str:
        looking.set()
        assert found.wait(10)
        return "proof"

    waiting = kind.begin(exchange.token, kind.proof(proof))
    assert looking.wait(10)
    kind.begin(exchange.close).result(10)
    found.set()
    with pytest.raises(RuntimeError, match="this client is closed"):
        waiting.result(10)
    assert not door.asked.acquire(blocking=False)


def test_who_comes_as_the_connection_is_closed_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may close it after this one has taken it up, and before it calls."""
    exchange = Exchange(door.address, ca=door.ca)
    stub = exchange._stub

    def closed_meanwhile() -> Any:
        made = stub()
        exchange.close()
        return made

    monkeypatch.setattr(exchange, "_stub", closed_meanwhile)
    with pytest.raises(RuntimeError, match="this client is closed"):
        exchange.token("proof")


async def test_who_is_cancelled_is_cancelled(door: Door) -> None:
    """By somebody else, in the very moment in which the client is closed."""
    exchange = AsyncExchange(door.address, ca=door.ca)
    waiting = asyncio.create_task(exchange.token("proof"))
    assert await asyncio.to_thread(door.asked.acquire, timeout=10)
    waiting.cancel()
    await exchange.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_renewal_under_way_is_given_back(kind: Kind, door: Door, exchange: Any) -> None:
    """It is waited for; who was waiting for it gets none that has ended already."""
    credential = exchange.credential(lambda: "proof")
    waiting = kind.begin(credential.grant)
    assert door.asked.acquire(timeout=10)
    closing = kind.begin(exchange.close)
    while not exchange._closed.is_set():
        pass
    door.answer.release()
    closing.result(10)
    with pytest.raises(RuntimeError, match="this client is closed"):
        waiting.result(10)
    assert door.given_back == door.granted == ["token 1 for proof"]


def test_what_replaces_a_token_meanwhile_is_given_back(kind: Kind, door: Door, exchange: Any) -> None:
    """The one that is replaced ends by itself: requests may be under way with it."""
    credential = exchange.credential(lambda: "proof")
    door.answer.release()
    kind.begin(credential.grant).result(10)
    credential._held.due_at = 0
    assert kind.begin(credential.grant).result(10).token == "token 1 for proof"
    for _ in range(2):
        assert door.asked.acquire(timeout=10)
    closing = kind.begin(exchange.close)
    while not exchange._closed.is_set():
        pass
    door.answer.release()
    closing.result(10)
    assert door.given_back == ["token 2 for proof"]


def _renewing(kind: Kind, door: Door, exchange: Any, count: int) -> list[Any]:
    """So many credentials with a token each, whose renewal the daemon does not answer."""
    credentials = [exchange.credential(lambda: "proof") for _ in range(count)]
    door.answer.release(count)
    for each in credentials:
        kind.begin(each.grant).result(10)
    for each in credentials:
        each._held.due_at = 0
        kind.begin(each.grant).result(10)
    for _ in range(2 * count):
        assert door.asked.acquire(timeout=10)
    return credentials


def test_several_take_no_longer_than_one(
    kind: Kind, door: Door, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewals that hang are waited for together, and what there is is given back at once, whatever of it hangs."""
    monkeypatch.setattr(calls, "CLOSING_SECONDS", 1.0)
    _renewing(kind, door, exchange, 3)
    door.together = threading.Barrier(3)
    before = time.monotonic()
    kind.begin(exchange.close).result(10)
    assert time.monotonic() - before < 3 * calls.CLOSING_SECONDS
    assert sorted(door.given_back) == [f"token {each} for proof" for each in (1, 2, 3)]


def test_a_daemon_that_takes_nothing_back_is_not_waited_for(
    kind: Kind, door: Door, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several tokens for no longer than of one."""
    monkeypatch.setattr(calls, "CLOSING_SECONDS", 1.0)
    credentials = [exchange.credential(lambda: "proof") for _ in range(3)]
    door.answer.release(3)
    for each in credentials:
        kind.begin(each.grant).result(10)
    door.together = threading.Barrier(4)
    before = time.monotonic()
    kind.begin(exchange.close).result(10)
    assert time.monotonic() - before < 3 * calls.CLOSING_SECONDS
    door.together.abort()


def test_all_are_closed_at_once(kind: Kind, door: Door, exchange: Any) -> None:
    """None shows a token while another's renewal is waited for."""
    credentials = _renewing(kind, door, exchange, 2)
    closing = kind.begin(exchange.close)
    while not all(each._closed for each in credentials):
        assert not closing.done()
    assert door.given_back == []
    door.answer.release(2)
    closing.result(10)
    assert sorted(door.given_back) == ["token 3 for proof", "token 4 for proof"]


def test_tokens_are_given_back_where_no_thread_can_be_had(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the program ends: one after the other."""
    exchange = Exchange(door.address, ca=door.ca)
    door.answer.release(3)
    granted = [exchange.credential(lambda: "proof").grant().token for _ in range(3)]
    start, here = threading.Thread.start, threading.get_ident()

    def none(thread: threading.Thread) -> None:
        if threading.get_ident() == here:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none)
    exchange.close()
    assert door.given_back == granted
