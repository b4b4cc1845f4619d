"""The connections of the HTTP door together: who is waited for no longer, and how they end."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import format_datetime

from exchanged.doors.http_connection import Answer, HttpConnection, Shared

LOOK_SECONDS = 1.0
"""How often connections are looked at; so much later than their time they end, and so old may a reply's date be."""


class HttpServer:
    """Makes a protocol for each connection, and ends them."""

    def __init__(
        self,
        *,
        answer: Answer,
        largest_body: int,
        headers_of_errors: Mapping[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        self._clock = clock
        self._shared = Shared(answer=answer, largest_body=largest_body, headers_of_errors=headers_of_errors)
        self._set_date()

    def connection(self) -> HttpConnection:
        """The protocol of a new connection."""
        return HttpConnection(self._shared)

    async def watch(self) -> None:
        """Lets go of whoever is waited for in vain, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._set_date()
            now = loop.time()
            for connection in [each for each in self._shared.open if each.until < now]:
                connection.lose_patience()

    async def drain(self, seconds: float) -> None:
        """Ends all connections: those without a request now, the others with their reply, none later than in time."""
        self._shared.ending = True
        tasks = [each.task for each in self._shared.open if each.task is not None]
        for connection in [each for each in self._shared.open if each.task is None]:
            connection.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
        for connection in tuple(self._shared.open):
            connection.close()

    def _set_date(self) -> None:
        # RFC 9110 §5.6.7
        self._shared.date = format_datetime(self._clock(), usegmt=True)
