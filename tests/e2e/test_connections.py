"""Connections of strangers: whatever they do with them, nobody else is held up, and nothing of theirs is in the log."""

import http.client
import json
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.daemon import Daemon
from tests.fixtures import JWT, Running
from tests.issuers import FakeIssuer
from tests.policies import policy

FORM = "application/x-www-form-urlencoded"
POST = f"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\n".encode()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, WINDOW = 1, 4, 4


@contextmanager
def _daemon(folder: Path, *, keys: dict[str, str] | None = None, **limits: Any) -> Iterator[Running]:
    with FakeIssuer.served(folder / "issuer") as issuer:
        settings = issuer.settings(profile="github")
        settings["keys"] |= keys or {}
        daemon = Daemon.make(
            folder / "d",
            issuers={"github": settings},
            clusters={"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}},
            policies={"web.yaml": policy("deploy-web")},
            limits=limits,
        )
        yield Running(daemon, issuer)


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    """A channel to the gRPC door of the shared daemon."""
    with _channel(running.daemon) as made:
        yield made


def _channel(daemon: Daemon) -> grpc.Channel:
    return grpc.secure_channel(daemon.grpc, grpc.ssl_channel_credentials(daemon.ca.read_bytes()))


def _connected(daemon: Daemon, door: str = "http") -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=daemon.ca)
    if door == "grpc":
        context.set_alpn_protocols(["h2"])
    connection = socket.create_connection(("127.0.0.1", daemon.ports[door]), timeout=10)
    return context.wrap_socket(connection, server_hostname="127.0.0.1")


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _begin(path: str, stream: int, message: bytes, *, ends: bool = False) -> bytes:
    """The header of a call, and as much of a message as there is to be; unless it ends, the stream waits for more."""
    fields = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "x", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return _frame(HEADERS, 4, stream, block) + _frame(0, int(ends), stream, message)


def _until(what: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_watcher_that_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    """Health is told to all others, at every door, though one takes nothing; and the daemon ends when it is told to."""
    with _daemon(tmp_path, keys={"refresh": "1s", "staleLimit": "1s"}, drain="3s") as running:
        daemon = running.daemon
        with daemon.running(), _channel(daemon) as channel, _connected(daemon, "grpc") as deaf:
            deaf.sendall(PREFACE + _frame(SETTINGS, 0, 0, struct.pack(">HI", WINDOW, 0)))
            deaf.sendall(_begin("/grpc.health.v1.Health/Watch", 1, b"\0\0\0\0\0", ends=True))
            health = health_pb2_grpc.HealthStub(channel)
            watching = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
            statuses = health_pb2.HealthCheckResponse
            assert next(watching).status == statuses.SERVING
            running.issuer.broken = True
            assert next(watching).status == statuses.NOT_SERVING
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == statuses.NOT_SERVING
            told = running.get("/readyz")
            assert (told.status, told.body) == (503, {"ready": False, "reasons": ["issuer github"]})
            status = daemon.json("status")
            assert status["ready"] is False
            assert running.issuer.url in status["reasons"][0]
            running.issuer.broken = False
            assert next(watching).status == statuses.SERVING
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 15


def test_health_knows_its_services(channel: grpc.Channel) -> None:
    """A service that is not here is not found; who watches it is told that nobody knows it."""
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="elsewhere")
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watching = health.Watch(request, timeout=10)
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watching.cancel()


def test_calls_without_a_message_are_bounded_and_end_with_the_drain(tmp_path: Path) -> None:
    """Whoever opens calls and sends nothing gets so many, and keeps the daemon from ending no longer than its drain."""
    with _daemon(tmp_path, requestsInFlight=2, drain="2s") as running:
        daemon = running.daemon
        with daemon.running(), _channel(daemon) as channel, _connected(daemon, "grpc") as silent:
            stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
            silent.sendall(PREFACE + _frame(SETTINGS, 0, 0) + _frame(SETTINGS, 1, 0))
            for number in range(250):
                silent.sendall(_begin("/exchanged.v1.TokenExchange/Exchange", 1 + 2 * number, b"\0\0\0\xff\xff"))

            def refused() -> bool:
                try:
                    stub.Introspect(pb.IntrospectRequest(token="x"), timeout=5)
                except grpc.RpcError as error:
                    return bool(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
                return False

            _until(refused)
            assert running.post("/introspect", {"token": "x"}).status == 200
            began = time.monotonic()
            assert daemon.stop() == 0
            assert 1.5 < time.monotonic() - began < 10


def test_half_bodies_wait_within_a_bound(tmp_path: Path) -> None:
    """Of bodies that do not come, the oldest is let go when there are too many; a good request is answered."""
    with _daemon(tmp_path, requestBytes=4 * 1024 * 1024) as running, running.daemon.running(), ExitStack() as open_ones:
        began = time.monotonic()
        waiting = [open_ones.enter_context(_connected(running.daemon)) for _ in range(9)]
        for connection in waiting:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\ntoken=")
            time.sleep(0.05)
        assert b"MALFORMED" in _all(waiting[0])
        assert time.monotonic() - began < 8
        assert running.post("/token", running.form()).status == 200
        waiting[-1].sendall(b"x" * 994)
        assert b"PARAMETER_MISSING" in _all(waiting[-1])


def _all(connection: ssl.SSLSocket) -> bytes:
    """The whole of a small answer."""
    raw = connection.recv(4096)
    while raw.count(b"}") == 0 and (more := connection.recv(4096)):
        raw += more
    return raw


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_connections_leave_descriptors_for_the_rest(tmp_path: Path, door: str) -> None:
    """Whoever takes all connections of a door takes neither the socket nor the other doors, and leaves it when gone."""
    with _daemon(tmp_path) as running:
        daemon = running.daemon
        try:
            daemon.start(prefix=("sh", "-c", 'ulimit -n 256; exec "$@"', "sh"))
            daemon.wait_ready()
            with ExitStack() as taken:
                for _ in range(320):
                    taken.enter_context(socket.create_connection(("127.0.0.1", daemon.ports[door]), timeout=5))
                time.sleep(1)
                assert daemon.process is not None
                assert len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) < 200
                assert daemon.json("status")["ready"]
                with socket.create_connection(("127.0.0.1", daemon.ports["authorizer"]), timeout=5):
                    pass
                if door == "http":
                    with _channel(daemon) as channel:
                        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
                        assert not stub.Introspect(pb.IntrospectRequest(token="x"), timeout=5).active
                else:
                    assert running.get("/healthz").body == "ok"
            assert running.post("/token", running.form()).status == 200
            assert "Too many open files" not in daemon.log.read_text()
        finally:
            daemon.stop()


def test_whoever_hangs_up_has_no_live_grant(tmp_path: Path) -> None:
    """At the HTTP door as at the other: what nobody waits for is ended, and the count of calls under way is right."""
    with _daemon(tmp_path, requestsInFlight=2) as running, running.daemon.running():
        for _ in range(6):
            body = urlencode(running.form()).encode()
            with _connected(running.daemon) as connection:
                connection.sendall(POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wanted = ("grants", "list", "--all")
        _until(lambda: all(each["state"] == "withdrawn" for each in running.daemon.json(*wanted)["grants"]))
        assert running.post("/token", running.form()).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 1000\r\n\r\nsubject_token=SECRET",
        POST + b"Transfer-Encoding: chunked\r\n\r\nSECRET\r\n",
        POST + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\nSECRET",
        POST + b"Content-Encoding: br\r\nContent-Length: 6\r\n\r\nSECRET",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer SECRET\x01\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nsubject_token=SECRET / HTTP/1.1\r\n\r\n",
        b"subject_token=SECRET / HTTP/1.1\r\n\r\n",
    ],
    ids=["gone in the middle", "no chunk", "no gzip", "no brotli", "no header", "no second method", "no method"],
)
def test_nothing_of_a_caller_is_in_the_log(running: Running, sent: bytes) -> None:
    """Whatever cannot be read, the daemon's log has at most its kind: no text of the caller's, and no traceback."""
    before = len(running.daemon.log.read_text())
    with _connected(running.daemon) as connection:
        connection.sendall(sent)
        connection.settimeout(0.5)
        with suppress(TimeoutError):
            connection.recv(1000)
    time.sleep(0.2)
    said = running.daemon.log.read_text()[before:]
    assert "SECRET" not in said
    assert "traceback" not in said
    assert all(json.loads(line)["event"] == "a request could not be handled" for line in said.splitlines())


def test_whoever_speaks_no_tls_is_let_go(running: Running) -> None:
    """A connection that never becomes one is closed, without a word in the log."""
    before = running.daemon.log.read_text()
    with socket.create_connection(("127.0.0.1", running.daemon.ports["http"]), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nAuthorization: SECRET\r\n\r\n")
        connection.settimeout(5)
        while connection.recv(1000):
            pass
    assert running.daemon.log.read_text() == before


def test_not_ready_while_nothing_can_be_recorded(tmp_path: Path) -> None:
    """With the disk full the daemon says so at each door and in `status`; with room again it is ready by itself."""
    with _daemon(tmp_path) as running:
        daemon = running.daemon
        with daemon.running(), _channel(daemon) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert running.post("/token", running.form()).status == 200
            assert daemon.process is not None
            pid, unlimited = daemon.process.pid, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            log_size = (daemon.folder / "state" / "exchanged.sqlite-wal").stat().st_size
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (log_size, resource.RLIM_INFINITY))
            refused = running.post("/token", running.form())
            assert (refused.status, refused.body["error"]) == (503, "temporarily_unavailable")
            told = running.get("/readyz")
            assert (told.status, told.body) == (503, {"ready": False, "reasons": ["store"]})
            not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
            _until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == not_serving)
            status = daemon.json("status")
            assert status["ready"] is False
            assert "cannot be written" in status["reasons"][0]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            daemon.wait_ready()
            assert running.get("/readyz").status == 200
            assert running.post("/token", running.form()).status == 200
            kinds = [record["kind"] for record in daemon.json("records", "list")["records"]]
            assert "resumed" in kinds


def test_without_policies_the_daemon_is_ready_and_says_so(tmp_path: Path) -> None:
    """No policy is no fault of the daemon's, but whoever asks for its status is told that nothing will be granted."""
    with _daemon(tmp_path) as running:
        (running.daemon.folder / "policies" / "web.yaml").unlink()
        with running.daemon.running():
            status = running.daemon.json("status")
            assert (status["ready"], status["policies"]["count"]) == (True, 0)
            assert "no policy is in force" in status["remarks"][0]
            refused = running.post("/token", running.form())
            assert refused.body["reason"] == "NO_POLICY"


def test_messages_that_are_none(running: Running, channel: grpc.Channel) -> None:
    """Bytes that are no message, and times that are none, are wrong requests, without a traceback."""
    before = running.daemon.log.read_text()
    for call in ("Exchange", "Revoke", "Introspect"):
        raw: Any = channel.unary_unary(f"/exchanged.v1.TokenExchange/{call}")
        for sent in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x12\x02\xff\xfe"):
            with pytest.raises(grpc.RpcError) as refused:
                raw(sent, timeout=5)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    for seconds, nanos in ((2**62, 0), (-1, 0), (10, -5), (10, 2**31 - 1), (10**15, 0)):
        request = pb.ExchangeRequest(subject_token="x", subject_token_type=JWT)
        request.requested_lifetime.seconds, request.requested_lifetime.nanos = seconds, nanos
        with pytest.raises(grpc.RpcError) as refused:
            stub.Exchange(request, timeout=5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert running.daemon.log.read_text() == before


def test_a_kept_connection_serves_many_requests(running: Running) -> None:
    """Whoever keeps a connection is answered on it as often as they ask."""
    context = ssl.create_default_context(cafile=running.daemon.ca)
    connection = http.client.HTTPSConnection("127.0.0.1", running.daemon.ports["http"], context=context)
    for _ in range(3):
        connection.request("POST", "/token", urlencode(running.form()), {"Content-Type": FORM})
        reply = connection.getresponse()
        assert (reply.status, b"access_token" in reply.read()) == (200, True)
    connection.close()


def test_paths_and_methods(running: Running) -> None:
    """Documents can be had by GET, their headers by HEAD; other methods are told so, and other paths are not there."""
    for path in ("/keys", "/healthz", "/readyz", "/metrics", "/.well-known/openid-configuration"):
        whole, head = running.get(path), running.ask("HEAD", path, None, {})
        assert (whole.status, head.status, head.body) == (200, 200, "")
        assert whole.headers["content-type"] == head.headers["content-type"]
        refused = running.post(path, {})
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/token", "/revoke", "/introspect"):
        refused = running.get(path)
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
    for path in ("/", "/token/", "/keys/..", "//token", "/nothing"):
        assert running.get(path).status == 404


def test_a_request_in_pieces(running: Running) -> None:
    """Whoever sends byte by byte, and waits to be told to go on, is answered like everybody else."""
    body = urlencode(running.form()).encode()
    with _connected(running.daemon) as connection:
        for one in POST + b"Expect: 100-continue\r\n" + f"Content-Length: {len(body)}\r\n\r\n".encode():
            connection.send(bytes([one]))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b"access_token" in _all(connection)
