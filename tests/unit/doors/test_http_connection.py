"""HTTP/1.1 as the door speaks it: what is answered, what is refused, and how long anything is waited for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from exchanged.doors.http_connection import (
    HEADER_BYTES,
    HEADER_LINES,
    HEADER_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    WRITE_SECONDS,
    HttpConnection,
)
from exchanged.doors.http_messages import BodyLost, BodyTooLarge, Reply, Request
from exchanged.doors.http_server import HttpServer

LARGEST_BODY = 1_000
POST = b"POST /token?x=y HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /keys HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport:
    """The other end: what was written, and how it ended."""

    def __init__(self) -> None:
        self.written = b""
        self.said: list[str] = []

    def get_extra_info(self, name: str) -> Any:
        """The peer's address."""
        return ("192.0.2.7", 4711) if name == "peername" else None

    def write(self, data: bytes) -> None:
        """Takes it."""
        self.written += data

    def close(self) -> None:
        """Is told to end."""
        self.said.append("close")

    def abort(self) -> None:
        """Is ended."""
        self.said.append("abort")

    def pause_reading(self) -> None:
        """Is not listened to."""
        self.said.append("pause")

    def resume_reading(self) -> None:
        """Is listened to again."""
        self.said.append("resume")


async def _told(request: Request) -> Reply:
    """Says what it was asked; a body that cannot be had is said too."""
    try:
        body = (await request.body()).decode()
    except BodyTooLarge:
        body = "too large"
    except BodyLost:
        body = "lost"
    text = f"{request.method} {request.path} {request.source} {request.header('content-type')} {body}"
    return Reply(status=200, headers={"X-Kind": "told"}, body=text.encode())


def _server(answer: Callable[[Request], Awaitable[Reply]] = _told) -> HttpServer:
    return HttpServer(
        answer=answer,
        largest_body=LARGEST_BODY,
        headers_of_errors={"Cache-Control": "no-store"},
        clock=lambda: datetime(2026, 11, 25, 12, tzinfo=UTC),
    )


def _connect(server: HttpServer) -> tuple[HttpConnection, Any]:
    connection, transport = server.connection(), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type] # like uvloop's, it is of no class of asyncio's
    return connection, transport


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _sent(*parts: bytes) -> Any:
    """What came of it, on a connection of its own."""
    connection, transport = _connect(_server())
    for part in parts:
        connection.data_received(part)
        await _settle()
    return transport


def _left(connection: HttpConnection) -> float:
    return round(connection.until - asyncio.get_running_loop().time())


async def test_a_request_is_answered_however_it_comes() -> None:
    """Whole, in two parts or byte by byte, a request is the same, and the connection is kept."""
    sent = POST + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
    head = b"HTTP/1.1 200 OK\r\nX-Kind: told\r\nContent-Length: 38\r\nDate: Wed, 25 Nov 2026 12:00:00 GMT\r\n\r\n"
    expected = head + b"POST /token 192.0.2.7 text/plain hello"
    for parts in ([sent], *([sent[:at], sent[at:]] for at in range(1, len(sent))), [bytes([one]) for one in sent]):
        transport = await _sent(*parts)
        assert transport.written == expected
        assert transport.said == []


async def test_chunks_are_a_body() -> None:
    """A body may come in chunks, with a trailer that nobody asks for."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nContent-Type: text/evil\r\n\r\n"
    transport = await _sent(POST + b"Content-Type: text/plain\r\n" + chunked)
    assert transport.written.endswith(b"text/plain hello")


async def test_one_request_after_the_other() -> None:
    """A connection serves many requests in turn."""
    connection, transport = _connect(_server())
    for number in range(1, 4):
        connection.data_received(GET)
        await _settle()
        assert transport.written.count(b"200 OK") == number
    assert transport.said == []


async def test_what_is_sent_behind_a_request_is_not_answered() -> None:
    """A second request before the first answer, an upgrade, or noise: the first is answered, as the last."""
    upgrade = b"GET /keys HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello"
    for sent in (
        GET + GET,
        GET + GET * 1_000,
        GET + b"\0noise",
        upgrade,
        GET[:-2] + b"Connection: close\r\n\r\n" + GET,
    ):
        connection, transport = _connect(_server())
        connection.data_received(sent)
        await _settle()
        assert transport.written.count(b"HTTP/1.1") == 1
        assert transport.written.startswith(b"HTTP/1.1 200 OK")
        assert b"\r\nConnection: close\r\n" in transport.written
        assert _left(connection) == LINGER_SECONDS
        connection.data_received(GET)
        await _settle()
        assert transport.written.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (400, b"\x16\x03\x01\x02\x00\x01\x00"),
        (400, b"subject_token=SECRET\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: x\n\n"),
        (400, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"),
        (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
        (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        (400, POST + b"Content-Length: +3\r\n\r\nabc"),
        (400, POST + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * HEADER_LINES + b"\r\n"),
        (431, b"GET /" + b"x" * HEADER_BYTES),
        (431, b"\r\n" * HEADER_BYTES),
        (505, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
        (505, b"GET / HTTP/0.9\r\nHost: x\r\n\r\n"),
    ],
)
async def test_headers_with_which_nothing_can_be_done(status: int, sent: bytes) -> None:
    """What is no request, or could be read in two ways, is refused, and nothing that follows is heard."""
    connection, transport = _connect(_server())
    connection.data_received(sent)
    connection.data_received(GET)
    await _settle()
    assert transport.written.startswith(f"HTTP/1.1 {status} ".encode())
    assert transport.written.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in transport.written
    assert b"SECRET" not in transport.written
    assert _left(connection) == LINGER_SECONDS


async def test_a_header_without_an_end_is_bounded() -> None:
    """However small the parts are in which it comes."""
    connection, transport = _connect(_server())
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
    for _ in range(HEADER_BYTES // 100 + 1):
        connection.data_received(b"b" * 100)
    assert transport.written.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        (b"too large", b"Content-Length: 1001\r\n\r\n" + b"x" * 1_001),
        (b"too large", b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n1f5\r\n" + b"x" * 501),
        (b"lost", b"Transfer-Encoding: chunked\r\n\r\nno number\r\n"),
        (b"lost", b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"b" * (HEADER_BYTES + 2 * LARGEST_BODY)),
        (b"lost", b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * HEADER_LINES),
    ],
)
async def test_bodies_that_are_none(what: bytes, sent: bytes) -> None:
    """Whoever answers learns that a body is too large, or will not come; no more of it is kept."""
    for parts in ([POST + sent], [POST + sent[:40], sent[40:]]):
        transport = await _sent(*parts)
        assert transport.written.endswith(what)
        assert b"\r\nConnection: close\r\n" in transport.written


async def test_a_body_is_asked_for() -> None:
    """RFC 9110 §10.1.1: who waits to be told gets a 100 once its body is wanted."""
    connection, transport = _connect(_server())
    connection.data_received(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    await _settle()
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"hello")
    await _settle()
    assert transport.written.endswith(b"hello")
    assert transport.said == []


async def test_an_answer_before_the_body_is_the_last() -> None:
    """What is answered without its body is listened to for a while, so that the answer arrives, and no longer."""

    async def at_once(request: Request) -> Reply:
        del request
        return Reply(status=413, headers={}, body=b"")

    connection, transport = _connect(_server(at_once))
    connection.data_received(POST + b"Content-Length: 900\r\n\r\n")
    await _settle()
    assert b"\r\nConnection: close\r\n" in transport.written
    connection.data_received(b"x" * 900 + GET)
    await _settle()
    assert transport.written.count(b"HTTP/1.1") == 1
    assert (transport.said, _left(connection)) == ([], LINGER_SECONDS)
    connection.lose_patience()
    assert transport.said == ["abort"]


async def test_who_wants_to_end_is_let_go() -> None:
    """RFC 9112 §9.3: after `close`, and after HTTP/1.0, the connection ends with the answer."""
    for sent in (GET[:-2] + b"Connection: close\r\n\r\n", b"GET /keys HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
        transport = await _sent(sent)
        assert transport.written.startswith(b"HTTP/1.1 200 OK")
        assert transport.said == ["close"]


async def test_targets_and_methods() -> None:
    """RFC 9112 §3.2.2: a target may be a whole URL; RFC 9110 §9.3.2: HEAD gets the header that GET would."""
    transport = await _sent(b"GET https://x.example/keys?a=b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"GET /keys 192.0.2.7" in transport.written
    transport = await _sent(GET.replace(b"GET", b"HEAD"))
    assert b"Content-Length: 22\r\n" in transport.written
    assert transport.written.endswith(b"\r\n\r\n")


async def test_patience() -> None:
    """Idle connections, slow headers and unread replies are waited for so long, an answer as long as it takes."""
    connection, transport = _connect(_server())
    assert _left(connection) == IDLE_SECONDS
    connection.data_received(GET[:10])
    assert _left(connection) == HEADER_SECONDS
    before = connection.until
    connection.data_received(GET[10:20])
    assert connection.until == before
    connection.data_received(GET[20:])
    assert connection.until == float("inf")
    await _settle()
    assert _left(connection) == IDLE_SECONDS
    connection.pause_writing()
    assert _left(connection) == WRITE_SECONDS
    connection.resume_writing()
    assert _left(connection) == IDLE_SECONDS
    connection.lose_patience()
    assert (transport.said, _left(connection)) == (["pause", "resume", "close"], LINGER_SECONDS)
    connection.lose_patience()
    assert transport.said[-1] == "abort"


async def test_who_hangs_up_is_answered_no_more() -> None:
    """What is done for a caller is cancelled when they are gone."""
    ended = asyncio.Event()

    async def long(request: Request) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return await _told(request)

    connection, transport = _connect(_server(long))
    connection.data_received(GET)
    await _settle()
    connection.connection_lost(None)
    await ended.wait()
    assert transport.written == b""


async def test_a_bug_is_answered_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is a 500 with a constant text; the log has its class and its line, and nothing of the caller's."""

    async def bug(request: Request) -> Reply:
        raise RuntimeError(request.path)

    connection, transport = _connect(_server(bug))
    with caplog.at_level(logging.DEBUG):
        connection.data_received(GET)
        await _settle()
    assert transport.written.startswith(b"HTTP/1.1 500 ")
    assert transport.written.endswith(b"Internal Server Error")
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["error"]) == ("a request could not be handled", "RuntimeError")
    assert "/keys" not in str(vars(record))


async def test_draining_lets_nobody_wait_and_loses_no_answer() -> None:
    """Idle connections end at once, the others with their answer, the last when time is over."""
    go = asyncio.Event()

    async def when_told(request: Request) -> Reply:
        await go.wait()
        return await _told(request)

    server = _server(when_told)
    _, idle = _connect(server)
    busy, waiting = _connect(server)
    busy.data_received(GET)
    await _settle()
    draining = asyncio.create_task(server.drain(60))
    await _settle()
    assert (idle.said, waiting.said) == (["close"], [])
    _, late = _connect(server)
    assert late.said == ["close"]
    go.set()
    await draining
    assert b"200 OK" in waiting.written
    assert b"\r\nConnection: close\r\n" in waiting.written
    assert waiting.said[0] == "close"


async def test_draining_has_an_end() -> None:
    """What takes longer than there is time is cancelled."""

    async def never(request: Request) -> Reply:
        await asyncio.Event().wait()
        return await _told(request)

    server = _server(never)
    connection, transport = _connect(server)
    connection.data_received(GET)
    await _settle()
    task = connection.task
    await server.drain(0)
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (transport.written, transport.said) == (b"", ["close"])
