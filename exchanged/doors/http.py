"""The HTTP door: token exchange (RFC 8693), revocation (7009), introspection (7662), metadata, and the probes."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson

from exchanged.contradictions import is_loopback
from exchanged.doors import bodies, form
from exchanged.doors.connections import Connections, listen
from exchanged.doors.gathering import Gathering
from exchanged.doors.http_connection import Answer
from exchanged.doors.http_messages import TEXT, Reply, Request, plain
from exchanged.doors.http_server import HttpServer
from exchanged.doors.in_time import TurnedAway, in_time
from exchanged.doors.reading import Bodies
from exchanged.doors.status import oauth
from exchanged.doors.tls import server_context, sync_certificate
from exchanged.errors import ExchangeError, MalformedRequest, Reason, TooManyRequests
from exchanged.exchange import Exchanger
from exchanged.in_step import in_step
from exchanged.keys.certificates import ServingCertificate
from exchanged.model import RequestContext, RequestId
from exchanged.time_limit import TimeLimit

RETRY_WHEN_OVERLOADED = timedelta(seconds=1)
KEYS_MAX_AGE = 15
"""Seconds. API servers learn of a new key that much later, and no later."""
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
SECURITY = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'"}
ANSWER = {**NO_STORE, **SECURITY}
PUBLISHED = {"Cache-Control": f"max-age={KEYS_MAX_AGE}", **SECURITY}

Work = Callable[[form.Form, RequestContext], Coroutine[Any, Any, dict[str, Any]]]


class HttpDoor:
    """Serves until cancelled, and drains then."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: ServingCertificate | None,
        issuer: str,
        exchanger: Exchanger,
        jwks: Callable[[], Mapping[str, Any]],
        unready: Callable[[], Awaitable[Mapping[str, str]]],
        metrics: Callable[[], bytes],
        clock: Callable[[], datetime],
        max_body: int,
        most_in_flight: int,
        most_connections: int,
        time_limit: TimeLimit,
        turned_away: TurnedAway,
        drain: timedelta,
    ) -> None:
        if certificate is None and not is_loopback(host):
            raise ValueError(f"plaintext is for loopback only, and {host} is not")
        self._host = host
        self._port = port
        self._certificate = certificate
        self._issuer = issuer
        self._exchanger = exchanger
        self._jwks = jwks
        self._unready = unready
        self._metrics = metrics
        self._clock = clock
        self._max_body = max_body
        self._bodies = Bodies(largest=max_body)
        self._most_in_flight = most_in_flight
        self._most_connections = most_connections
        self._time_limit = time_limit
        self._turned_away = turned_away
        self._drain = drain
        self._in_flight = 0
        self._routes = self._routed()
        self._gathering = Gathering()

    async def run(self, started: Callable[[str, int], None]) -> None:
        """Serves until cancelled; `started` is told the address.

        Raises:
            OSError: the address cannot be had.
        """
        server = HttpServer(
            answer=self._answer, largest_body=self._max_body, headers_of_errors=ANSWER, clock=self._clock
        )
        try:
            await self._serve(server, started)
        finally:
            await server.drain(self._drain.total_seconds())

    async def _serve(self, server: HttpServer, started: Callable[[str, int], None]) -> None:
        context = server_context(self._certificate.current()) if self._certificate else None
        connections = Connections(make=server.connection, context=context, most=self._most_connections)
        listening = await listen(self._host, self._port)
        started(*listening[0].getsockname()[:2])
        async with asyncio.TaskGroup() as serving:
            serving.create_task(connections.take_in(listening))
            serving.create_task(server.watch())
            if context is not None and self._certificate is not None:
                serving.create_task(sync_certificate(context, self._certificate))

    def _routed(self) -> dict[str, tuple[str, Answer]]:
        """By path: the method, and what answers it."""
        path = urlsplit(self._issuer.rstrip("/")).path
        return {
            f"{path}/token": ("POST", self._oauth(self._token, self._turned_away)),
            f"{path}/revoke": ("POST", self._oauth(self._revoke)),
            f"{path}/introspect": ("POST", self._oauth(self._introspect)),
            f"{path}/keys": ("GET", self._keys),
            # Discovery puts the well-known part after the issuer's path, RFC 8414 §3.1 before it.
            f"{path}/.well-known/openid-configuration": ("GET", self._metadata),
            f"/.well-known/oauth-authorization-server{path}": ("GET", self._metadata),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._show_metrics),
        }

    async def _answer(self, request: Request) -> Reply:
        method, answer = self._routes.get(request.path, ("", None))
        if answer is None:
            return plain(404, ANSWER)
        # Whoever may GET may ask for the header alone (RFC 9110 §9.3.2).
        allowed = (method, "HEAD") if method == "GET" else (method,)
        if request.method not in allowed:
            return plain(405, {**ANSWER, "Allow": ", ".join(allowed)})
        return await answer(request)

    def _oauth(self, work: Work, turned_away: TurnedAway | None = None) -> Answer:
        """A form in, JSON out, errors as RFC 6749 §5.2 has them, nothing stored on the way."""

        async def handle(request: Request) -> Reply:
            request_id = RequestId(os.urandom(8).hex())
            headers = {**ANSWER, "X-Request-Id": request_id}
            try:
                try:
                    # Whoever sends slowly holds up nobody: only what has come whole is under way.
                    parameters = await self._bodies.form(request)
                    called = self._called(request, request_id)
                    self._check_room()
                except ExchangeError as refusal:
                    if turned_away is not None:
                        await turned_away(refusal, self._called(request, request_id))
                    raise
                self._in_flight += 1
                try:
                    reply = _json(await work(parameters, called), 200, headers)
                    await in_step()
                    return reply
                finally:
                    self._in_flight -= 1
            except Exception as error:  # noqa: BLE001 - the door: the framework would answer with its own page
                status, body, more = oauth(error, request_id)
                return _json(body, status, {**headers, **more})

        return handle

    def _called(self, request: Request, request_id: RequestId) -> RequestContext:
        return RequestContext(request_id=request_id, time=self._clock(), source=request.source, door="http")

    def _check_room(self) -> None:
        if self._in_flight >= self._most_in_flight:
            raise TooManyRequests(Reason.OVERLOADED, retry_after=RETRY_WHEN_OVERLOADED)

    async def _token(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        await self._gathering.join(self._in_flight)
        try:
            asked = form.request(parameters)
        except MalformedRequest as refusal:
            await self._turned_away(refusal, called)
            raise
        exchanged = await self._exchanger.exchange(asked, called)
        return bodies.response(exchanged, asked.requested_token_type, self._clock())

    async def _revoke(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        await in_time(self._time_limit, self._exchanger.revoke(form.token(parameters), called))
        return {}

    async def _introspect(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        found = await in_time(self._time_limit, self._exchanger.introspect(form.token(parameters), called))
        return bodies.introspection(*found) if found else {"active": False}

    async def _metadata(self, request: Request) -> Reply:
        del request
        return _json(bodies.metadata(self._issuer), 200, PUBLISHED)

    async def _keys(self, request: Request) -> Reply:
        del request
        return _json(dict(self._jwks()), 200, PUBLISHED)

    async def _healthz(self, request: Request) -> Reply:
        del request
        return Reply(status=200, headers={**NO_STORE, **TEXT}, body=b"ok")

    async def _readyz(self, request: Request) -> Reply:
        """Ready means: it could issue a grant now. What is out of reach is named; why, the operator's socket tells."""
        del request
        reasons = await self._unready()
        return _json({"ready": not reasons, "reasons": list(reasons)}, 503 if reasons else 200, NO_STORE)

    async def _show_metrics(self, request: Request) -> Reply:
        del request
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return Reply(status=200, headers=headers, body=self._metrics())


def _json(body: dict[str, Any], status: int, headers: Mapping[str, str]) -> Reply:
    return Reply(status=status, headers={**headers, "Content-Type": "application/json"}, body=orjson.dumps(body))
