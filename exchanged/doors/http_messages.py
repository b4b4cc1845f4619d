"""What goes over a connection of the HTTP door: requests as they come, and replies as they are sent."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from httptools import parse_url

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}


class BodyLost(Exception):
    """The body will not be whole any more: nobody could read on."""


class BodyTooLarge(BodyLost):
    """More of a body came than there may be."""


class Request:
    """A request whose header has come; its body may still be on its way."""

    __slots__ = (
        "_body",
        "_error",
        "_go_on",
        "_headers",
        "_largest",
        "_waiting",
        "is_whole",
        "method",
        "path",
        "source",
    )

    def __init__(
        self,
        *,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        source: str,
        largest_body: int,
        go_on: Callable[[], None],
    ) -> None:
        self.method = method
        self.path = path
        self.source = source
        self.is_whole = False
        self._headers = headers
        self._largest = largest_body
        self._go_on = go_on
        self._body = bytearray()
        self._error: BodyLost | None = None
        self._waiting: asyncio.Future[None] | None = None

    def header(self, name: str) -> str:
        """The value of a header, or "" if there is none."""
        return self._headers.get(name.encode(), b"").decode("latin-1")

    async def body(self) -> bytes:
        """The whole body, as soon as it has come.

        Raises:
            BodyTooLarge: there is more of it than there may be.
            BodyLost: it ended in the middle.
        """
        if not self.is_whole and self._error is None:
            if self.header("expect").lower() == "100-continue":
                self._go_on()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._error is not None:
            raise self._error
        return bytes(self._body)

    def add(self, data: bytes) -> None:
        """More of the body.

        Raises:
            BodyTooLarge: that is too much.
        """
        if len(self._body) + len(data) > self._largest:
            error = BodyTooLarge()
            self.fail(error)
            raise error
        self._body += data

    def complete(self) -> None:
        """Its body has come."""
        self.is_whole = True
        self._wake()

    def fail(self, error: BodyLost) -> None:
        """No more of the body will come. What failed first counts."""
        if not self.is_whole and self._error is None:
            self._error = error
            self._body.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer. Its headers are the daemon's own text, never a caller's."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def encoded(self, *, date: str, is_last: bool, with_body: bool) -> bytes:
        """As it is sent (RFC 9112 §4). Whoever asked by HEAD gets the same header and no body (RFC 9110 §9.3.2)."""
        headers = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        last = "Connection: close\r\n" if is_last else ""
        head = f"{_STATUS_LINES[self.status]}{headers}Content-Length: {len(self.body)}\r\nDate: {date}\r\n{last}\r\n"
        return head.encode("latin-1") + self.body if with_body else head.encode("latin-1")


def plain(status: int, headers: Mapping[str, str]) -> Reply:
    """A reply that says what its status is called, and nothing else."""
    return Reply(status=status, headers={**headers, **TEXT}, body=HTTPStatus(status).phrase.encode())


def path_of(target: bytes) -> str:
    """The path that is asked for, as it was written; RFC 9112 §3.2.2 has servers take a whole URL too.

    Raises:
        HttpParserError: the target is neither.
    """
    if not target.startswith(b"/"):
        target = parse_url(target).path or b"/"
    return target.partition(b"?")[0].decode("latin-1")
