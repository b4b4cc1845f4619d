"""An HTTP door for tests between a job and the daemon: it answers as it is told, and passes on what is left."""

import json
import select
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tests.daemon import Daemon
from tests.lab.pki import Authority


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; a body that is no text is JSON. With status 0 the connection ends instead."""

    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def encoded(self) -> bytes:
        """The body as it is sent."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


@dataclass(slots=True)
class Door:
    """What it is told to answer, in order; what it was asked; `hold` keeps back its answers until set."""

    url: str
    ca: Path
    daemon: Daemon
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, body: bytes) -> Answer:
        """The next answer, or the daemon's."""
        self.asked.append((path, {name: values[0] for name, values in parse_qs(body.decode()).items()}))
        made = self.answers.pop(0) if self.answers else self._passed_on(path, body)
        self.arrived.set()
        assert self.hold.wait(30)
        return made

    def _passed_on(self, path: str, body: bytes) -> Answer:
        context = ssl.create_default_context(cafile=self.daemon.ca)
        request = urllib.request.Request(self.daemon.url + path, body)  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as reply:  # noqa: S310 - ours
                return Answer(reply.status, reply.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())


@contextmanager
def door(folder: Path, daemon: Daemon) -> Iterator[Door]:
    """A door on loopback, with a CA of its own in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority("door")
    (folder / "ca.crt").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(folder, "door"))
    made = Door("", folder / "ca.crt", daemon)
    made.hold.set()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"door": made})) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        made.url = f"https://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.hold.set()
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    door: Door

    def do_POST(self) -> None:
        """Answers."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        made = self.door.answer(self.path, body)
        if made.status == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(made.status)
        for name, value in {"Content-Length": str(len(made.encoded)), **made.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(made.encoded)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - as it is called
        """Says nothing."""


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy on loopback, and whom it was asked to connect to."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), {"asked": asked})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join(10)


class _Proxy(BaseHTTPRequestHandler):
    asked: list[str]

    def do_CONNECT(self) -> None:
        """Passes bytes on, both ways, until one side ends."""
        self.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as there:
            self.send_response(200)
            self.end_headers()
            ends = {there: self.connection, self.connection: there}
            while data := [(end, end.recv(65_536)) for end in select.select(ends, [], [], 10)[0]]:
                if not all(part for _, part in data):
                    return
                for end, part in data:
                    ends[end].sendall(part)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - as it is called
        """Says nothing."""
