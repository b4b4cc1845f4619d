"""The HTTP door: token exchange (RFC 8693), revocation (7009), introspection (7662), metadata, and the probes."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from exchanged.doors import form, messages
from exchanged.doors.gathering import Gathering
from exchanged.doors.grpc import is_loopback
from exchanged.doors.status import oauth
from exchanged.doors.tls import server_context, sync_certificate
from exchanged.errors import MalformedRequest, Reason, TooManyRequests
from exchanged.exchange import Exchanger
from exchanged.keys.certificates import ServingCertificate
from exchanged.log import entries
from exchanged.model import ClusterTraits, Exchanged, Grant, PresentedToken, RequestContext, RequestId

RETRY_WHEN_OVERLOADED = timedelta(seconds=1)
KEYS_MAX_AGE = 15
"""Seconds. API servers learn of a new key that much later, and no later."""
HEADER_SECONDS = 75.0
"""How long an idle connection is kept."""
BODY_SECONDS = 10.0
"""How long the body of a request may take to come: a form is small, and whoever sends it slowly wants us to wait."""
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
SECURITY = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'"}
ANSWER = {**NO_STORE, **SECURITY}
FORM = "application/x-www-form-urlencoded"

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
        unready: Callable[[], Awaitable[tuple[str, ...]]],
        metrics: Callable[[], bytes],
        clock: Callable[[], datetime],
        max_body: int,
        most_in_flight: int,
        drain: timedelta,
    ) -> None:
        if certificate is None and not is_loopback(host):
            raise ValueError(f"plaintext is for loopback only, and {host} is not")
        self._host = host
        self._port = port
        self._certificate = certificate
        self._issuer = issuer.rstrip("/")
        self._exchanger = exchanger
        self._jwks = jwks
        self._unready = unready
        self._metrics = metrics
        self._clock = clock
        self._max_body = max_body
        self._most_in_flight = most_in_flight
        self._drain = drain
        self._in_flight = 0
        self._gathering = Gathering()

    async def run(self, started: Callable[[str, int], None]) -> None:
        """Serves until cancelled; `started` is told the address.

        Raises:
            OSError: the address cannot be had.
        """
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            keepalive_timeout=HEADER_SECONDS,
            shutdown_timeout=self._drain.total_seconds(),
        )
        await runner.setup()
        try:
            context = server_context(self._certificate.current()) if self._certificate else None
            site = web.TCPSite(runner, self._host, self._port, ssl_context=context)
            await site.start()
            started(*runner.addresses[0][:2])
            if context is None or self._certificate is None:
                await asyncio.Event().wait()
            else:
                await sync_certificate(context, self._certificate)
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=self._max_body)
        path = urlsplit(self._issuer).path
        add = application.router.add_route
        for name, work in (("token", self._token), ("revoke", self._revoke), ("introspect", self._introspect)):
            add("POST", f"{path}/{name}", self._oauth(work))
        add("GET", f"{path}/keys", self._keys)
        # Discovery puts the well-known part after the issuer's path, RFC 8414 §3.1 before it.
        for well_known in {
            f"{path}/.well-known/openid-configuration",
            f"/.well-known/oauth-authorization-server{path}",
        }:
            add("GET", well_known, self._metadata)
        add("GET", "/healthz", self._healthz)
        add("GET", "/readyz", self._readyz)
        add("GET", "/metrics", self._show_metrics)
        return application

    def _oauth(self, work: Work) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A form in, JSON out, errors as RFC 6749 §5.2 has them, nothing stored on the way."""

        async def handle(request: web.Request) -> web.Response:
            request_id = RequestId(secrets.token_hex(8))
            headers = {**ANSWER, "X-Request-Id": request_id}
            try:
                # Whoever sends slowly holds up nobody: only what has come whole is under way.
                parameters = await _form(request)
                called = RequestContext(
                    request_id=request_id, time=self._clock(), source=request.remote or "", door="http"
                )
                return _json(await self._bounded(work(parameters, called)), 200, headers)
            except (web.HTTPException, HttpProcessingError):
                raise
            except Exception as error:  # noqa: BLE001 - the door: the framework would answer with its own page
                status, body, more = oauth(error, request_id)
                return _json(body, status, {**headers, **more})

        return handle

    async def _bounded(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        if self._in_flight >= self._most_in_flight:
            work.close()
            raise TooManyRequests(Reason.OVERLOADED, retry_after=RETRY_WHEN_OVERLOADED)
        self._in_flight += 1
        try:
            return await work
        finally:
            self._in_flight -= 1

    async def _token(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        await self._gathering.join(self._in_flight)
        asked = form.request(parameters)
        exchanged = await self._exchanger.exchange(asked, called)
        return _response(exchanged, asked.requested_token_type, self._clock())

    async def _revoke(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        await self._exchanger.revoke(PresentedToken(text=form.required(parameters, "token")), called)
        return {}

    async def _introspect(self, parameters: form.Form, called: RequestContext) -> dict[str, Any]:
        token = PresentedToken(text=form.required(parameters, "token"))
        found = await self._exchanger.introspect(token, called)
        return _introspection(*found) if found else {"active": False}

    async def _metadata(self, request: web.Request) -> web.Response:
        """RFC 8414 §2 and OpenID Connect Discovery §3 in one document."""
        del request
        issuer = self._issuer
        return _json(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/token",
                "revocation_endpoint": f"{issuer}/revoke",
                "introspection_endpoint": f"{issuer}/introspect",
                "jwks_uri": f"{issuer}/keys",
                "grant_types_supported": [messages.GRANT_TYPE],
                "response_types_supported": ["none"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "token_endpoint_auth_methods_supported": ["none"],
                "revocation_endpoint_auth_methods_supported": ["none"],
                "introspection_endpoint_auth_methods_supported": ["none"],
                "authorization_details_types_supported": [messages.DETAIL_TYPE],
            },
            200,
            {"Cache-Control": f"max-age={KEYS_MAX_AGE}", **SECURITY},
        )

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        return _json(dict(self._jwks()), 200, {"Cache-Control": f"max-age={KEYS_MAX_AGE}", **SECURITY})

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok", headers=NO_STORE)

    async def _readyz(self, request: web.Request) -> web.Response:
        """Ready means: it could issue a grant now."""
        del request
        reasons = await self._unready()
        return _json({"ready": not reasons, "reasons": list(reasons)}, 503 if reasons else 200, NO_STORE)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _form(request: web.Request) -> form.Form:
    if request.content_type != FORM:
        raise MalformedRequest(Reason.MALFORMED, f"a form is expected, not {request.content_type[:64]}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
        return form.parse(body)
    except TimeoutError as error:
        raise MalformedRequest(Reason.MALFORMED, f"the body did not come within {BODY_SECONDS} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise MalformedRequest(Reason.PARAMETER_TOO_LONG, "the body is too large") from error


def _json(body: dict[str, Any], status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers={**headers, "Content-Type": "application/json"})


def _response(exchanged: Exchanged, requested: str | None, now: datetime) -> dict[str, Any]:
    """RFC 8693 §2.2.1."""
    grant = exchanged.grant
    return {
        "access_token": exchanged.token.text,
        "issued_token_type": messages.issued_type(requested),
        "token_type": "Bearer",
        "expires_in": messages.seconds_left(grant, now),
        "scope": messages.scope_of(grant),
        "authorization_details": _details(grant),
        "grant_id": grant.id,
        "cluster": _cluster(exchanged.cluster),
    }


def _introspection(grant: Grant, traits: ClusterTraits) -> dict[str, Any]:
    """RFC 7662 §2.2."""
    body = {
        "active": True,
        "scope": messages.scope_of(grant),
        "token_type": "Bearer",
        "exp": int(grant.expires_at.timestamp()),
        "iat": int(grant.created_at.timestamp()),
        "sub": f"{grant.subject.issuer}/{grant.subject.subject}",
        "aud": grant.cluster,
        "jti": grant.credential_id,
        "username": grant.plan.user,
        "grant_id": grant.id,
        "policy": grant.policy,
        "owner": grant.allowed.owner,
        "authorization_details": _details(grant),
        "cluster": _cluster(traits),
        "mode": grant.mode.value,
        "promise": grant.mode.promise,
    }
    if grant.actor is not None:
        body["act"] = {"sub": f"{grant.actor.issuer}/{grant.actor.subject}"}
    return body


def _details(grant: Grant) -> list[dict[str, Any]]:
    allowed = grant.allowed
    where = {"type": messages.DETAIL_TYPE, "namespaces": list(allowed.namespaces)}
    if allowed.cluster_role:
        return [{**where, "clusterRole": allowed.cluster_role}]
    return [{**where, **entries.rule(rule)} for rule in allowed.rules]


def _cluster(traits: ClusterTraits) -> dict[str, str]:
    cluster = {"name": traits.name, "server": traits.resource}
    if traits.certificate_authority:
        cluster["certificate_authority"] = traits.certificate_authority
    return cluster
