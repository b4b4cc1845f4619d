"""HTTP/1.1 on one connection. The parser is llhttp; what is done with a request is asked of somebody else.

One request at a time: whoever sends a second one before the first is answered gets that answer and no other, which
RFC 9112 §9.3.2 has clients expect. So nothing waits in a connection but the request that is being answered.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from exchanged.doors.http_messages import BodyLost, Reply, Request, path_of, plain
from exchanged.doors.quiet import COULD_NOT, without_text

log = logging.getLogger(__name__)

IDLE_SECONDS = 75.0
"""How long a connection is kept on which nothing is asked."""
HEADER_SECONDS = 10.0
"""How long a header may take to come, from its first byte on."""
WRITE_SECONDS = 30.0
"""How long a caller may leave replies unread once the kernel keeps no more of them."""
LINGER_SECONDS = 5.0
"""How long a connection that is given up is listened to: closed at once, its reply would be lost with what the caller
still sends."""
HEADER_BYTES = 32 * 1024
"""Of a request line with its header. Proxies add to it; none adds so much."""
HEADER_LINES = 100
VERSIONS = {"1.0", "1.1"}

Answer = Callable[[Request], Awaitable[Reply]]


@dataclass(slots=True, kw_only=True)
class Shared:
    """What the connections of one door have in common."""

    answer: Answer
    largest_body: int
    headers_of_errors: Mapping[str, str]
    date: str = ""
    ending: bool = False
    open: set["HttpConnection"] = field(default_factory=set)


class Refused(Exception):
    """A header with which nothing can be done; the status says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpConnection(asyncio.Protocol):
    """One connection, from its first byte to its last."""

    def __init__(self, shared: Shared) -> None:
        self.until = math.inf
        """The loop's time at which patience ends."""
        self.task: asyncio.Task[None] | None = None
        """Answers the request that is under way."""
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        """None once nothing more is understood of what comes; what it held is free then."""
        self._transport: asyncio.Transport | None = None
        self._source = ""
        self._request: Request | None = None
        self._keeps = True
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._lines = 0
        self._came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol.connection_made`."""
        # A stream has one that reads and writes; uvloop's says so of itself to nobody.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._source = peer[0] if peer else ""
        self._shared.open.add(self)
        self._wait(IDLE_SECONDS)
        if self._shared.ending:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol.connection_lost`. Whoever hangs up is to have no live grant."""
        del exc
        self._shared.open.discard(self)
        self._transport = self._parser = None
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol.pause_writing`. Whoever reads no replies asks for none."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._wait(WRITE_SECONDS)

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol.resume_writing`."""
        if self._transport is not None:
            self._transport.resume_reading()
            self._wait(IDLE_SECONDS if self.task is None else math.inf)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        if self._parser is None:
            return
        begun = self._came
        self._came += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            # An upgrade may be ignored (RFC 9110 §7.8); what comes after it is no HTTP, though.
            refused = error.__context__
            self._give_up(refused.status if isinstance(refused, Refused) else 400)
        else:
            if self._request is None:
                self._still_a_header(begun)
            elif self._came > HEADER_BYTES + 2 * self._shared.largest_body:
                # Chunks of a byte each, or a trailer without an end, which the parser would keep.
                self._give_up(413)

    def _still_a_header(self, begun: int) -> None:
        if self._came > HEADER_BYTES:
            self._give_up(431)
        elif not begun:
            self._wait(HEADER_SECONDS)

    def on_message_begin(self) -> None:
        """Of the parser: a request begins."""
        if self._request is not None:
            raise Refused(400)
        self._url, self._headers, self._lines = b"", {}, 0

    def on_url(self, url: bytes) -> None:
        """Of the parser: a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the parser: a line of the header, or of a trailer, which nobody asks for."""
        self._lines += 1
        if self._lines > HEADER_LINES:
            raise Refused(431)
        if self._request is None:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Of the parser: the header has come. The rest of what came with it is read before the task begins."""
        if self._parser is None:
            return
        version = self._parser.get_http_version()
        if version not in VERSIONS:
            raise Refused(505)
        if version == "1.1" and b"host" not in self._headers:
            raise Refused(400)  # RFC 9112 §3.2: MUST
        self._keeps = version == "1.1" and self._parser.should_keep_alive()
        self._request = Request(
            method=self._parser.get_method().decode(),
            path=path_of(self._url),
            headers=self._headers,
            source=self._source,
            largest_body=self._shared.largest_body,
            go_on=self._go_on,
        )
        self._wait(math.inf)
        self.task = self._loop.create_task(self._serve(self._request))

    def on_body(self, data: bytes) -> None:
        """Of the parser: a part of the body."""
        if self._request is not None:
            self._request.add(data)

    def on_message_complete(self) -> None:
        """Of the parser: the request is whole."""
        if self._request is not None:
            self._request.complete()

    async def _serve(self, request: Request) -> None:
        try:
            reply = await self._shared.answer(request)
        except Exception as error:  # noqa: BLE001 - the door: a bug must not leave the caller without an answer
            log.error(COULD_NOT, extra=without_text(error))  # noqa: TRY400 - the error's text may be a caller's
            reply = plain(500, self._shared.headers_of_errors)
        self._finish(request, reply)

    def _finish(self, request: Request, reply: Reply) -> None:
        if self._transport is None:
            return
        lingers = self._parser is None or not request.is_whole
        is_last = lingers or not self._keeps or self._shared.ending
        with_body = request.method != "HEAD"
        self._transport.write(reply.encoded(date=self._shared.date, is_last=is_last, with_body=with_body))
        self._request = self.task = None
        self._came = 0
        if lingers:
            self._parser = None
            self._wait(LINGER_SECONDS)
        elif is_last:
            self.close()
        else:
            self._wait(IDLE_SECONDS)

    def _give_up(self, status: int) -> None:
        """Nothing more is understood of what comes; what is under way is answered."""
        self._parser = None
        if self._request is not None:
            self._request.fail(BodyLost())
        elif self._transport is not None:
            reply = plain(status, self._shared.headers_of_errors)
            self._transport.write(reply.encoded(date=self._shared.date, is_last=True, with_body=True))
            self._wait(LINGER_SECONDS)

    def _go_on(self) -> None:
        if self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def close(self) -> None:
        """Sends what is written, and ends; with whoever does not take it, before long."""
        self._parser = None
        self._wait(LINGER_SECONDS)
        if self._transport is not None:
            self._transport.close()

    def lose_patience(self) -> None:
        """The time is over that was given for what did not happen."""
        if self._parser is not None:
            self.close()
        elif self._transport is not None:
            self._transport.abort()

    def _wait(self, seconds: float) -> None:
        self.until = self._loop.time() + seconds
