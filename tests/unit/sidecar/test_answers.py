"""The answers to probes and to those who ask on the socket, and what is no question."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar import answers, ask, health
from sidecar.answers import HEAD_BYTES, Answer, Responder
from sidecar.hooks import Hooks
from sidecar.settings import SocketSettings
from tests.unit.sidecar.keeping import NO, kept
from tests.unit.sidecar.virtual import LIFETIME


@asynccontextmanager
async def _served(responder: Responder) -> AsyncIterator[Callable[[bytes], Any]]:
    server = await asyncio.start_server(responder, "127.0.0.1", 0, limit=HEAD_BYTES)
    host, port = server.sockets[0].getsockname()[:2]

    async def say(raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(raw)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    try:
        yield say
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /?a=b HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET\r\n\r\n", b"400 Bad Request"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 2 * HEAD_BYTES, b""),
    ],
)
async def test_questions(raw: bytes, status: bytes) -> None:
    """Each has its answer; what has no end within bounds has none."""
    async with _served(Responder(lambda path: Answer(200, path))) as say:
        found = await say(raw)
        assert found.startswith(b"HTTP/1.1 " + status if status else b"")
        assert bool(found) == bool(status)


async def test_head_has_no_body() -> None:
    """But its length (RFC 9110 §9.3.2)."""
    async with _served(Responder(lambda _: Answer(200, "four"))) as say:
        found = await say(b"HEAD / HTTP/1.1\r\n\r\n")
        assert b"Content-Length: 4" in found
        assert found.endswith(b"\r\n\r\n")


async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed when its seconds are over."""
    monkeypatch.setattr(answers, "SECONDS", 0.05)
    async with _served(Responder(lambda _: Answer(200, ""))) as say:
        assert await say(b"GET ") == b""


async def test_too_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is answered, however many say nothing: the oldest of them is hung up on, and the youngest is not."""
    monkeypatch.setattr(answers, "CONNECTIONS", 2)
    monkeypatch.setattr(answers, "SECONDS", 60)
    async with await asyncio.start_server(Responder(lambda _: Answer(200, "")), "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        silent = [await asyncio.open_connection(*address) for _ in range(2)]
        reader, asking = await asyncio.open_connection(*address)
        asking.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert await silent[0][0].read() == b""
        silent[1][1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await silent[1][0].read()).startswith(b"HTTP/1.1 200")
        for writer in (asking, silent[0][1], silent[1][1]):
            writer.close()
            await writer.wait_closed()


async def test_who_is_not_admitted_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """From those who are."""
    monkeypatch.setattr(answers, "CONNECTIONS", 1)
    monkeypatch.setattr(answers, "SECONDS", 60)
    admitted = [True, False, False]
    responder = Responder(lambda _: Answer(200, ""), lambda _: admitted.pop(0))
    async with await asyncio.start_server(responder, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        made = [await asyncio.open_connection(*address) for _ in range(3)]
        assert (await made[2][0].readline()).startswith(b"HTTP/1.1 403")
        made[0][1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await made[0][0].read()).startswith(b"HTTP/1.1 200")
        for _, writer in made:
            writer.close()
            await writer.wait_closed()


async def test_health(tmp_path: Path) -> None:
    """Alive is one thing, ready another: with each token good by both clocks and the daemon's last word."""
    async with kept(tmp_path) as made:
        answer = health.answering([(made.keeper, Hooks((), "prod"))])
        assert answer("/healthz").status == 200
        assert answer("/readyz").status == 200
        assert 'sidecar_token_ready{token="prod"} 1' in answer("/metrics").body
        made.daemon.says = NO
        await made.turned.run(LIFETIME * 0.65 + 0.1)
        assert answer("/healthz").status == 200
        told = answer("/readyz")
        assert told.status == 503
        assert told.body == "prod: no policy grants this [NO_POLICY, request r-1]\n"
        assert 'sidecar_exchanges_total{token="prod",outcome="refused"} 1' in answer("/metrics").body
        assert answer("/other").status == 404


async def test_a_suspended_token_is_not_ready_before_anybody_has_looked(tmp_path: Path) -> None:
    """Readiness asks the clocks itself."""
    async with kept(tmp_path) as made:
        made.turned.suspended += LIFETIME
        answer = health.answering([(made.keeper, Hooks((), "prod"))])
        assert answer("/readyz").body == "prod: it has ended\n"


async def test_a_token_on_the_socket(tmp_path: Path) -> None:
    """With all that one needs to use it; without one, why."""
    async with kept(tmp_path) as made:
        answer = ask.answering([made.keeper])
        told = json.loads(answer("/token/prod").body)
        assert (told["token"], told["server"], told["cluster"]) == ("token-1", "https://api.example:6443", "prod")
        assert told["expires_in"] == int(LIFETIME) - 1
        for path in ("/token/other", "/token", "/"):
            assert answer(path).status == 404
        made.daemon.says = NO
        await made.turned.run(LIFETIME * 0.65 + 0.1)
        refused = answer("/token/prod")
        assert refused.status == 503
        assert json.loads(refused.body)["reason"] == "NO_POLICY"


def _peer(uid: int, gid: int, groups: list[int]) -> Any:
    """A connection from somebody else, as the kernel describes it."""

    class Connection:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert level == socket.SOL_SOCKET
            if option == socket.SO_PEERCRED:
                return b"".join(each.to_bytes(4, "little") for each in (1234, uid, gid))
            assert 4 * len(groups) <= size <= 1024
            return b"".join(each.to_bytes(4, "little") for each in groups)

    return SimpleNamespace(get_extra_info=lambda _: Connection())


OTHER = 54_321


@pytest.mark.parametrize(
    ("peer", "admitted"),
    [
        (_peer(os.geteuid(), 9, []), True),
        (_peer(1000, 9, []), True),
        (_peer(OTHER, 2000, []), True),
        (_peer(OTHER, 9, [8, 2000]), True),
        (_peer(OTHER, 9, [8]), False),
        (_peer(2000, 1000, [1000]), False),
    ],
)
def test_who_may_ask(peer: Any, admitted: bool) -> None:  # noqa: FBT001 - a table
    """Our own user, and the users and groups that are named; a number of the other kind is no reason."""
    settings = SocketSettings(path=Path("x"), uids=frozenset({1000}), gids=frozenset({2000}))
    assert ask.admitting(settings)(peer) is admitted


async def test_the_kernel_says_who_asks(tmp_path: Path) -> None:
    """Over a real socket: our own user is let in, and the socket is nobody else's."""
    settings = SocketSettings(path=tmp_path / "new" / "s.sock")
    ask.prepare(settings)
    opened = ask.opened(settings)
    assert settings.path.stat().st_mode & 0o777 == 0o600
    server = await asyncio.start_unix_server(
        Responder(lambda path: Answer(200, path), ask.admitting(settings)), sock=opened
    )
    try:
        with pytest.raises(OSError, match="listens there"):
            ask.prepare(settings)
        reader, writer = await asyncio.open_unix_connection(settings.path)
        writer.write(b"GET /x HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"/x")
        writer.close()
    finally:
        server.close()
        await server.wait_closed()
    ask.prepare(settings)
    assert not settings.path.exists()


def test_the_kernel_says_in_which_groups_who_asks_is() -> None:
    """All of our own, of which one may have none."""
    here, there = socket.socketpair()
    with here, there:
        assert sorted(ask.further_groups(here, os.geteuid())) == sorted(os.getgroups())


ASKER = """
import os, socket, sys
os.setgroups([int(each) for each in sys.argv[3:]])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"GET /x HTTP/1.1\\r\\n\\r\\n")
print(connection.recv(100).split()[1].decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else makes processes of other users")
@pytest.mark.parametrize(("groups", "status"), [([8, 2000], "200"), ([8], "403"), ([2000, *range(3000, 3300)], "403")])
async def test_a_group_that_somebody_else_is_in(
    groups: list[int], status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A pod's fsGroup is one of these; who is in more than can be had is refused, and the log says why."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        settings = SocketSettings(path=Path(folder, "s.sock"), gids=frozenset({2000}))
        opened = ask.opened(settings)
        assert settings.path.stat().st_mode & 0o777 == 0o666
        responder = Responder(lambda path: Answer(200, path), ask.admitting(settings))
        async with await asyncio.start_unix_server(responder, sock=opened):
            command = (sys.executable, "-c", ASKER, str(settings.path), *(str(each) for each in (OTHER, *groups)))
            asker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            told, _ = await asker.communicate()
    assert told.decode().strip() == status
    assert ("groups of who asks are not known" in caplog.text) == (len(groups) > 256)


async def test_who_is_not_admitted_is_told_nothing() -> None:
    """Not even whether there is such a token."""
    async with _served(Responder(lambda _: Answer(200, "secret"), lambda _: False)) as say:
        found = await say(b"GET /token/prod HTTP/1.1\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 403")
        assert b"secret" not in found
