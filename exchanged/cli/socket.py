"""The daemon's local socket, as commands use it."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
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

ANSWER_SECONDS = 60
"""To revoke a subject takes as long as its clusters do."""


class Daemon:
    """The daemon behind a socket."""

    def __init__(self, path: Path | None, config: Path | None) -> None:
        if path is None:
            if config is None:
                fail("which daemon? Give --config, or --socket, or set EXCHANGED_CONFIG", Exit.USAGE)
            path = settings.load(config).admin_socket
        self._path = path

    def get(self, path: str, *, missing: str = "", **query: Any) -> Any:
        """The JSON answer to a GET; `missing` says what to do where there is no such thing."""
        return self._json("GET", _with_query(path, query), None, missing)

    def post(self, path: str, body: dict[str, Any], *, missing: str = "") -> Any:
        """The JSON answer to a POST."""
        return self._json("POST", path, body, missing)

    def lines(self, path: str, **query: Any) -> Iterator[Any]:
        """JSON values, a line each, for as long as they come."""
        with self._response("GET", _with_query(path, query), None, None, "") as response:
            try:
                while line := response.readline():
                    yield json.loads(line)
            except (OSError, http.client.HTTPException):
                fail(f"the daemon at {self._path} is gone", Exit.UNAVAILABLE)

    def _json(self, method: str, path: str, body: dict[str, Any] | None, missing: str) -> Any:
        with self._response(method, path, body, ANSWER_SECONDS, missing) as response:
            return json.loads(response.read())

    @contextmanager
    def _response(
        self, method: str, path: str, body: dict[str, Any] | None, seconds: float | None, missing: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._path, seconds)
        with closing(connection):
            try:
                connection.request(method, path, json.dumps(body) if body else None)
                response = connection.getresponse()
            except OSError as error:
                why = f"({error.strerror or error}); is it running, and are you its user?"
                fail(f"no daemon answers at {self._path} {why}", Exit.UNAVAILABLE)
            if response.status >= 400:  # noqa: PLR2004 - client and server errors
                told = str(json.loads(response.read()).get("error"))
                fail(f"{told}; {missing}" if response.status == http.HTTPStatus.NOT_FOUND and missing else told)
            yield response


def _with_query(path: str, query: dict[str, Any]) -> str:
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return f"{path}?{given}" if given else path


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
