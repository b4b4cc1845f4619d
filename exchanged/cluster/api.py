"""The one adapter to the Kubernetes client.

The library is home to configuration, credentials and TLS; requests and answers are plain JSON, because its generated
models cost more than the calls themselves.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_kube_config

from exchanged.authenticate.kubernetes import TokenReview
from exchanged.config import Credential
from exchanged.errors import ClusterUnavailable, Reason
from exchanged.keys.certificates import CertificatePair, ServingCertificate, load_pair
from exchanged.model import ClusterName, PresentedToken

CREDENTIAL_SECONDS = 30.0
"""How long the daemon's own credential is used before it is read again; a kubelet renews it at 80 % of its life."""
POOL = 32
"""Connections to one API server."""
WATCH_SECONDS = 300
"""After which a watch is begun anew; API servers end them anyway."""

JsonObject = dict[str, Any]
_NO_CREDENTIAL = (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What the library raises of files that are not there, half written, or no kubeconfig at all."""
_NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError)


class ApiError(Exception):
    """The API server answered, and not with success or not with what it should have."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class KubernetesApi:
    """One cluster's API, as the daemon."""

    def __init__(
        self,
        *,
        name: ClusterName,
        server: str,
        certificate_authority: Path | None,
        credential: Credential,
        certificate: ServingCertificate | None = None,
        time_out: float,
        observe: Callable[[str], None],
    ) -> None:
        self._name = name
        self._server = server
        self._certificate_authority = certificate_authority
        self._credential = credential
        self._certificate = certificate
        self._shown: CertificatePair | None = None
        self._time_out = time_out
        self._observe = observe
        self._fresh: tuple[Configuration, RESTClientObject] | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self.calls = 0

    async def call(
        self, method: str, path: str, body: JsonObject | None = None, query: Mapping[str, str] | None = None
    ) -> JsonObject:
        """The JSON answer to one request.

        Raises:
            ApiError: the server refused; 404, 409 and 422 are the caller's to judge.
            ClusterUnavailable: no answer, or the daemon's own credential is not accepted.
        """
        try:
            async with asyncio.timeout(self._time_out):
                response = await self._send(method, path, body, query, self._time_out)
                raw = await response.read()
        except (*_NO_ANSWER, ValueError) as error:
            self._observe("error")
            raise self._no_answer(f"{method} {path}", error) from error
        self._observe(str(response.status))
        answer = _object(raw)
        if response.status >= 400:  # noqa: PLR2004 - client and server errors
            self._refuse(response.status, method, path, answer or {"message": raw[:200].decode(errors="replace")})
        if answer is None:
            raise self._unavailable(f"{method} {path}: what answered is no API server")
        return answer

    async def watch(self, path: str, resource_version: str) -> AsyncGenerator[JsonObject, None]:
        """Events of a collection, until the server ends the watch. To be closed by whoever does not read to the end.

        Raises:
            ApiError: with status 410 when the version is too old.
            ClusterUnavailable: as `call`.
        """
        query = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": str(WATCH_SECONDS)}
        try:
            response = await self._send("GET", path, None, query, WATCH_SECONDS + self._time_out)
            try:
                if response.status >= 400:  # noqa: PLR2004 - client and server errors
                    self._refuse(response.status, "WATCH", path, _object(await response.read()) or {})
                async for line in response.response.content:
                    yield _event(line)
            finally:
                response.response.close()
        except (*_NO_ANSWER, ValueError) as error:
            raise self._no_answer(f"WATCH {path}", error) from error

    async def review(self, token: PresentedToken, audiences: tuple[str, ...]) -> TokenReview:
        """See `TokenReviewer.review`."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token.text, "audiences": list(audiences)},
        }
        try:
            answer = await self.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
        except ApiError as error:
            raise self._unavailable(f"TokenReview: {error}") from error
        try:
            return _review(answer)
        except (AttributeError, TypeError) as error:
            raise self._unavailable("TokenReview: what answered is no API server") from error

    async def close(self) -> None:
        """Lets go of connections."""
        if self._fresh is not None:
            await self._fresh[1].close()
            self._fresh = None

    async def _send(
        self, method: str, path: str, body: JsonObject | None, query: Mapping[str, str] | None, time_out: float
    ) -> Any:
        configuration, rest = await self._connected()
        self.calls += 1
        url = f"{configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "exchanged"}
        bearer = await configuration.get_api_key_with_prefix("BearerToken")
        if bearer:
            headers["Authorization"] = bearer
        request: Any = rest.request
        return await request(method, url, headers=headers, body=body, _request_timeout=time_out)

    async def _connected(self) -> tuple[Configuration, RESTClientObject]:
        """The client, with a credential that was read a short while ago."""
        if self._fresh is not None and time.monotonic() - self._read_at < CREDENTIAL_SECONDS:
            return self._fresh
        async with self._reading:
            if self._fresh is not None and time.monotonic() - self._read_at < CREDENTIAL_SECONDS:
                return self._fresh
            before = self._fresh
            try:
                configuration = await self._configured()
                same = before is not None and _connection(configuration) == _connection(before[0])
                rest = before[1] if before is not None and same else RESTClientObject(configuration)
                self._show(rest.ssl_context, anew=not same)
            except _NO_CREDENTIAL as error:
                # Of the error its kind alone: parts of a file that holds a token may be in its text.
                raise self._unavailable(f"its own credential cannot be read: {type(error).__name__}") from error
            self._fresh = (configuration, rest)
            self._read_at = time.monotonic()
            if before is not None and not same:
                await before[1].close()
            return self._fresh

    async def _configured(self) -> Configuration:
        # None, not False: that is a number to the library, and has it try again until the time is over.
        configuration = Configuration(connection_pool_maxsize=POOL, retries=None)
        # It would look for a proxy at each call, and for a password in ~/.netrc, in threads and for a good part of the
        # call's time. A proxy is found once, below; a password is nothing that the daemon has.
        configuration.client_session_kwargs = {"trust_env": False}
        if self._credential.kubeconfig is not None:
            load: Any = load_kube_config
            await load(
                config_file=str(self._credential.kubeconfig),
                context=self._credential.context,
                client_configuration=configuration,
            )
        else:
            configuration.host = self._server
            if self._credential.token_file is not None:
                token = self._credential.token_file.read_text(encoding="utf-8").strip()
                configuration.api_key = {"BearerToken": f"Bearer {token}"}
            if self._certificate_authority is not None:
                configuration.ssl_ca_cert = str(self._certificate_authority)
        configuration.proxy = configuration.proxy or _proxy_to(configuration.host)
        return configuration

    def _show(self, context: ssl.SSLContext, *, anew: bool) -> None:
        """New connections show the certificate that is current; those that are there stay."""
        if self._certificate is None:
            return
        try:
            current = self._certificate.current()
        except ValueError as error:
            raise self._unavailable(str(error)) from error
        if anew or current is not self._shown:
            load_pair(context, current)
            self._shown = current

    def _refuse(self, status: int, method: str, path: str, answer: JsonObject) -> None:
        message = str(answer.get("message", ""))[:500]
        if status == 401:  # noqa: PLR2004 - our own credential
            self._read_at = 0.0
            raise self._unavailable(f"{method} {path}: the daemon's own credential is not accepted")
        if status in {429, 500, 502, 503, 504}:
            raise self._unavailable(f"{method} {path}: {status} {message}")
        raise ApiError(status, f"{method} {path}: {message}")

    def _no_answer(self, what: str, error: Exception) -> ClusterUnavailable:
        # A bad header's text would be part of a bad value's.
        text = str(error) if isinstance(error, _NO_ANSWER) else ""
        return self._unavailable(f"{what}: {type(error).__name__} {text}".rstrip())

    def _unavailable(self, detail: str) -> ClusterUnavailable:
        return ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._name}: {detail}")


def _proxy_to(server: str) -> str | None:
    """The proxy that the environment names for this server (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(server)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _connection(configuration: Configuration) -> tuple[object, ...]:
    """What a connection depends on; the bearer token is sent with each request."""
    names = ("host", "ssl_ca_cert", "ca_cert_data", "cert_file", "key_file", "verify_ssl", "proxy")
    return tuple(getattr(configuration, name, None) for name in names)


def text_at(answer: JsonObject, *path: str) -> str:
    """The text at a path of an answer.

    Raises:
        ApiError: it is not there, so what answered is hardly an API server.
    """
    value: Any = answer
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(200, f"the answer has no {'.'.join(path)}")
    return value


def _object(raw: bytes) -> JsonObject | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _event(line: bytes) -> JsonObject:
    event = _object(line)
    if event is None or not isinstance(event.get("object"), dict):
        raise ApiError(200, "an event of a watch has no object")
    if event.get("type") == "ERROR":
        status = event["object"]
        raise ApiError(int(status.get("code", 500)), str(status.get("message", "")))
    return event


def _review(answer: JsonObject) -> TokenReview:
    status = answer.get("status", {})
    user = status.get("user", {})
    return TokenReview(
        authenticated=status.get("authenticated") is True,
        audiences=tuple(status.get("audiences", ())),
        username=str(user.get("username", "")),
        uid=str(user.get("uid", "")),
        extra={key: tuple(values) for key, values in user.get("extra", {}).items()},
        error=str(status.get("error", ""))[:200],
    )
