"""Several calls on one connection, at a daemon's door whose answers the test gives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc as contract
from sidecar.exchange import Daemon
from sidecar.model import Ask, Fault, Subject
from tests.doors import listening
from tests.lab.pki import Authority

pytestmark = pytest.mark.timeout(30)


@dataclass
class Door(contract.TokenExchangeServicer):
    """Whoever has a token called slow waits until the test says so, and "broken" is hung up on without a reason."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)

    async def Exchange(self, request: pb.ExchangeRequest, _: Any) -> pb.ExchangeResponse:  # noqa: N802 - the contract's name
        """A token."""
        await self._answered(request.subject_token)
        return pb.ExchangeResponse(access_token="token", expires_in=60, expires_at=Timestamp(seconds=2_000_000_000))

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:  # noqa: N802 - as above
        """Given back."""
        if request.token == "broken":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "upstream connect error")
        await self._answered(request.token)
        self.ended.append(request.token)
        return pb.RevokeResponse()

    async def _answered(self, token: str) -> None:
        if token == "slow":
            self.begun.set()
            await self.go_on.wait()


class Garbler(grpc.GenericRpcHandler):
    """Answers whatever is called with bytes that are no message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.GenericRpcHandler.service`."""
        del handler_call_details

        async def garbled(_: bytes, __: Any) -> bytes:
            return b"\xff\xff\xff"

        return grpc.unary_unary_rpc_method_handler(garbled)


@asynccontextmanager
async def _served(add: Callable[[grpc.aio.Server], None]) -> AsyncIterator[Daemon]:
    authority, served = Authority("door"), grpc.aio.server()
    add(served)
    daemon = Daemon(listening(served, authority), authority.pem)
    await served.start()
    yield daemon
    await daemon.close()
    await served.stop(None)


@pytest.fixture
async def door() -> AsyncIterator[tuple[Door, Daemon]]:
    """A door, and who calls there."""
    made = Door()

    def add(served: grpc.aio.Server) -> None:
        contract.add_TokenExchangeServicer_to_server(made, served)  # type: ignore[no-untyped-call] # generated

    async with _served(add) as daemon:
        yield made, daemon


async def test_a_call_that_breaks_takes_no_other_along(door: tuple[Door, Daemon]) -> None:
    """What is under way on the same connection comes to its end."""
    made, daemon = door
    slow = asyncio.create_task(daemon.give_back("slow", Subject()))
    await made.begun.wait()
    with pytest.raises(Fault, match="upstream"):
        await daemon.give_back("broken", Subject())
    await daemon.give_back("quick", Subject())
    made.go_on.set()
    await slow
    assert made.ended == ["quick", "slow"]


async def test_an_answer_that_is_no_message() -> None:
    """Nothing is granted, alive or given back for that."""
    async with _served(lambda served: served.add_generic_rpc_handlers((Garbler(),))) as daemon:
        with pytest.raises(Fault, match="no message"):
            await daemon.exchange(Ask(), Subject(token="proof"))
        with pytest.raises(Fault, match="no message"):
            await daemon.lives("token", Subject())
        with pytest.raises(Fault, match="no message"):
            await daemon.give_back("token", Subject())


async def test_another_certificate_takes_no_call_along(door: tuple[Door, Daemon]) -> None:
    """An exchange by a new certificate goes on while something is given back by the last one."""
    made, daemon = door
    pair = Authority("workload").server()
    asking = asyncio.create_task(
        daemon.exchange(Ask(), Subject(token="slow", certificate=pair.certificate, key=pair.key))
    )
    await made.begun.wait()
    await daemon.give_back("quick", Subject())
    made.go_on.set()
    assert (await asking).token == "token"
