"""HTTP as far as a probe and a local reader need it: one GET a connection, bounded in bytes, seconds and number."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 8192
SECONDS = 5.0
CONNECTIONS = 64
"""Open at the same time; for one more, the oldest is hung up on."""
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
        self._open: dict[bool, dict[asyncio.StreamWriter, None]] = {True: {}, False: {}}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        admitted = self._admits(writer)
        # Who may not ask takes no room from those who may.
        mine = self._open[admitted]
        if len(mine) >= CONNECTIONS:
            # Who asks is answered at once: the oldest is one that says nothing, and a probe has to come through.
            oldest = next(iter(mine))
            del mine[oldest]
            oldest.transport.abort()
        mine[writer] = None
        try:
            async with asyncio.timeout(SECONDS):
                # Who reads nothing is not waited for, and who was not heard out would see a reset.
                await self._talk(reader, writer, admitted=admitted)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            # The process ends, and nobody awaits this; raised further, asyncio would log it as a fault of ours.
            return
        finally:
            mine.pop(writer, None)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(SECONDS):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, admitted: bool) -> None:
        if not admitted:
            await _say(writer, Answer(403, "not for this user\n"))
        head = await reader.readuntil(b"\r\n\r\n")
        if admitted:
            await _say(writer, *self._answered(head))

    def _answered(self, head: bytes) -> tuple[Answer, bool]:
        """What there is to say, and whether it is without its body."""
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):  # noqa: PLR2004 - RFC 9112 §3
            return Answer(400, "a request line is METHOD /path HTTP/1.1\n"), False
        if words[0] not in {b"GET", b"HEAD"}:
            return Answer(405, "there is only GET\n"), False
        path = words[1].split(b"?", 1)[0].decode("ascii", errors="replace")
        return self._answer(path), words[0] == b"HEAD"


async def _say(writer: asyncio.StreamWriter, answer: Answer, without_body: bool = False) -> None:  # noqa: FBT001, FBT002 - HEAD
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
