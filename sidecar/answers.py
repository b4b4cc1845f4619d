"""HTTP as far as a probe and a local reader need it: one GET a connection, bounded in bytes, seconds and number."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 8192
SECONDS = 5.0
CONNECTIONS = 64
"""Open at the same time; who comes beyond is hung up on."""
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"} | {
    503: "Service Unavailable"
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path says."""

    status: int
    body: str
    kind: str = "text/plain; charset=utf-8"


class Responder:
    """Answers connections; `answer` has the path, `admits` whether who connected may ask at all."""

    def __init__(
        self,
        answer: Callable[[str], Answer],
        admits: Callable[[asyncio.StreamWriter], bool] = lambda _: True,
    ) -> None:
        self._answer = answer
        self._admits = admits
        self._open = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    # Who reads nothing is not waited for, and who was not heard out would see a reset.
                    await self._talk(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            # The process ends, and nobody awaits this; raised further, asyncio would log it as a fault of ours.
            return
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        answer, without_body = self._answered(head, writer)
        body = answer.body.encode()
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if without_body else body))
        await writer.drain()

    def _answered(self, head: bytes, writer: asyncio.StreamWriter) -> tuple[Answer, bool]:
        if not self._admits(writer):
            return Answer(403, "not for this user\n"), False
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):  # noqa: PLR2004 - RFC 9112 §3
            return Answer(400, "a request line is METHOD /path HTTP/1.1\n"), False
        if words[0] not in {b"GET", b"HEAD"}:
            return Answer(405, "there is only GET\n"), False
        path = words[1].split(b"?", 1)[0].decode("ascii", errors="replace")
        return self._answer(path), words[0] == b"HEAD"
