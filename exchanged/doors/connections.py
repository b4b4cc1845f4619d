"""Connections of the HTTP door: as many as there is room for, so that the other doors keep theirs.

What nobody bounds takes every descriptor there is, the local socket's and the authorizer's too. Beyond the bound a
connection waits with the kernel, where it costs the daemon nothing.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

log = logging.getLogger(__name__)

BACKLOG = 1_024
"""Connections that the kernel keeps for us: of many who come at once none has to come again."""
HANDSHAKE_SECONDS = 10.0
"""How long TLS may take until it stands."""
PAUSE_SECONDS = 1.0
"""Before the next is taken in when one could not be; descriptors may be short for a while."""


class Connections:
    """Takes in connections for protocols that `make` makes."""

    def __init__(self, *, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None, most: int) -> None:
        self._make = make
        self._context = context
        self._room = asyncio.Semaphore(most)
        self._handshakes: set[asyncio.Task[None]] = set()

    async def take_in(self, listening: list[socket.socket]) -> None:
        """Takes in what comes to these sockets until cancelled, and closes them."""
        try:
            async with asyncio.TaskGroup() as accepting:
                for each in listening:
                    accepting.create_task(self._accept(each))
        finally:
            for each in listening:
                each.close()
            for handshake in self._handshakes:
                handshake.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._room.release()
                log.warning("a connection could not be taken in", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            handshake = loop.create_task(self._connect(connection))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _connect(self, connection: socket.socket) -> None:
        protocol = _Counted(self._make(), self._room.release)
        limit = None if self._context is None else HANDSHAKE_SECONDS
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=limit
            )
        except OSError as error:
            # Whoever does not speak TLS, or not in time, is nobody's fault here.
            log.debug("no connection came of it", extra={"detail": type(error).__name__})
            protocol.leave()
        except BaseException:
            protocol.leave()
            raise


class _Counted(asyncio.Protocol):
    """Another protocol, whose end is told once."""

    def __init__(self, inner: asyncio.Protocol, left: Callable[[], None]) -> None:
        self._inner = inner
        self._left: Callable[[], None] | None = left
        # Straight to the other one: what it is told for each piece of data takes no detour.
        self.connection_made = inner.connection_made  # type: ignore[method-assign]
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol.connection_lost`."""
        self.leave()
        self._inner.connection_lost(exc)

    def leave(self) -> None:
        """Makes room for the next."""
        left, self._left = self._left, None
        if left is not None:
            left()


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at every address of this host.

    Raises:
        OSError: an address cannot be had.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            each = socket.create_server(address, family=family, backlog=BACKLOG)
            each.setblocking(False)
            listening.append(each)
    except OSError:
        for each in listening:
            each.close()
        raise
    return listening
