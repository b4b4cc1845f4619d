import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from exchanged.doors.connections import Connections, listen


class Echo(asyncio.Protocol):
    """Answers what it is told."""

    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol.connection_made`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        self.transport.write(data)


@asynccontextmanager
async def _taking_in(most: int, make: Callable[[], asyncio.Protocol] = Echo) -> AsyncIterator[int]:
    listening = await listen("127.0.0.1", 0)
    port = int(listening[0].getsockname()[1])
    working = asyncio.create_task(Connections(make=make, context=None, most=most).take_in(listening))
    try:
        yield port
    finally:
        working.cancel()
        await asyncio.wait([working])
        assert all(each.fileno() == -1 for each in listening)


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"x")
    try:
        async with asyncio.timeout(0.3):
            return await reader.read(1) == b"x"
    except TimeoutError:
        return False


async def test_beyond_the_bound_a_connection_waits_until_another_ends() -> None:
    """It is there, with the kernel, costs nothing, and is served as soon as there is room."""
    async with _taking_in(2) as port:
        each = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert [await _answered(*one) for one in each] == [True, True, False]
        each[0][1].close()
        assert await each[2][0].read(1) == b"x"
        for _, writer in each[1:]:
            writer.close()


async def test_a_connection_that_cannot_be_taken_in_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With no descriptor left the next attempt comes a little later, and no place is lost."""
    monkeypatch.setattr("exchanged.doors.connections.PAUSE_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, 3

    async def fails(listening: socket.socket) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", fails)
    async with _taking_in(1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _answered(reader, writer)
        writer.close()
    assert caplog.text.count("could not be taken in") == 3


async def test_an_address_that_is_taken_is_told() -> None:
    """Nobody serves where somebody else does."""
    (taken,) = await listen("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
