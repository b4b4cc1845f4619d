"""The daemon's local socket, as commands use it."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, fail

SocketPath = Annotated[
    Path | None,
    typer.Option("--socket", envvar="EXCHANGED_SOCKET", help="The daemon's socket (state folder, admin.sock)."),
]
MaybeConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="EXCHANGED_CONFIG", help="Its configuration, which names the socket."),
]


class Daemon:
    """The daemon behind a socket."""

    def __init__(self, path: Path | None, config: Path | None) -> None:
        if path is None:
            if config is None:
                fail("which daemon? Give --config, or --socket, or set EXCHANGED_CONFIG", Exit.USAGE)
            path = settings.load(config).admin_socket
        self._path = path

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to a GET."""
        return self._json("GET", path, query, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST."""
        return self._json("POST", path, {}, body)

    def lines(self, path: str, **query: Any) -> Iterator[Any]:
        """JSON values, a line each, for as long as they come."""
        response = self._response("GET", path, query, None, None)
        while line := response.readline():
            yield json.loads(line)

    def _json(self, method: str, path: str, query: dict[str, Any], body: dict[str, Any] | None) -> Any:
        return json.loads(self._response(method, path, query, body, 60).read())

    def _response(
        self, method: str, path: str, query: dict[str, Any], body: dict[str, Any] | None, seconds: float | None
    ) -> http.client.HTTPResponse:
        given = urlencode({name: value for name, value in query.items() if value is not None})
        connection = _Connection(self._path, seconds)
        try:
            connection.request(method, f"{path}?{given}" if given else path, json.dumps(body) if body else None)
            response = connection.getresponse()
        except OSError as error:
            fail(
                f"no daemon answers at {self._path} ({error.strerror}); is it running, and are you its user?",
                Exit.UNAVAILABLE,
            )
        if response.status >= 400:  # noqa: PLR2004 - client and server errors
            fail(str(json.loads(response.read()).get("error")), Exit.REFUSED)
        return response


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
