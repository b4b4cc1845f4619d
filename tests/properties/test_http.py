"""Any bytes on a connection of the HTTP door: an answer that is one, or none; never more, and never an error."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.doors.test_http_connection import GET, POST, _connect, _server, _settle

PIECES = st.sampled_from(
    [
        GET,
        POST,
        b"\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Upgrade: h2c\r\n",
        b"\r\nabc",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=40), max_size=12))
def test_any_bytes(parts: list[bytes]) -> None:
    """Whatever comes, in whatever parts: what is written are whole answers, no more than there were requests."""
    transport = asyncio.run(_after(parts))
    answers = transport.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").split(b"HTTP/1.1 ")
    assert answers[0] == b""
    assert all(answer[:3] in {b"200", b"400", b"431", b"505"} for answer in answers[1:])
    assert len(answers) - 1 <= sum(part.count(b"HTTP/1.1") for part in parts) + 1


async def _after(parts: list[bytes]) -> Any:
    connection, transport = _connect(_server())
    for part in parts:
        connection.data_received(part)
        await _settle()
    connection.connection_lost(None)
    await _settle()
    return transport
