"""Where API servers ask whether a grant's request is allowed. Apart from the other doors, by client certificate only.

Each cluster has a client CA of its own, so the certificate tells which cluster asks. TLS pools all of them; here the
leaf is verified again against one at a time, at every request, not only when the connection was made.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from exchanged.cluster.review import grant_id_of, review
from exchanged.doors.quiet import keep_callers_out_of_the_log
from exchanged.doors.tls import server_context, sync_certificate
from exchanged.errors import ExchangeError
from exchanged.keys.certificates import ServingCertificate
from exchanged.model import ClusterName, ClusterTraits
from exchanged.ports import Store

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024
"""Bytes of a review. Label selectors can be long; nothing else in it is."""
DRAIN_SECONDS = 5.0
MAX_KNOWN = 1_000
"""Client certificates remembered as verified."""
PATH = "/authorize"


class AuthorizerDoor:
    """Serves SubjectAccessReviews of authorization.k8s.io/v1."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: ServingCertificate,
        clusters: Mapping[ClusterName, tuple[ClusterTraits, tuple[x509.Certificate, ...]]],
        store: Store,
        clock: Callable[[], datetime],
        observe: Callable[[ClusterName, str, float], None],
    ) -> None:
        self._host = host
        self._port = port
        self._certificate = certificate
        self._clusters = clusters
        self._store = store
        self._clock = clock
        self._observe = observe
        self._known: dict[bytes, tuple[ClusterName, datetime, datetime]] = {}

    async def run(self, started: Callable[[str, int], None]) -> None:
        """Serves until cancelled; `started` is told the address.

        Raises:
            OSError: the address cannot be had.
        """
        keep_callers_out_of_the_log()
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_post(PATH, self._authorize)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=DRAIN_SECONDS)
        await runner.setup()
        try:
            context = server_context(self._certificate.current())
            context.verify_mode = ssl.CERT_REQUIRED
            for _, authorities in self._clusters.values():
                for authority in authorities:
                    context.load_verify_locations(cadata=authority.public_bytes(Encoding.DER))
            site = web.TCPSite(runner, self._host, self._port, ssl_context=context)
            await site.start()
            started(*runner.addresses[0][:2])
            await sync_certificate(context, self._certificate)
        finally:
            await runner.cleanup()

    async def _authorize(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        cluster = self._asking(request)
        if cluster is None:
            return web.json_response({"error": "this certificate is of no cluster"}, status=403)
        spec = await _spec(request)
        if spec is None:
            return web.json_response({"error": "not a SubjectAccessReview of authorization.k8s.io/v1"}, status=400)
        try:
            grant_id = grant_id_of(spec)
            grant = await self._store.grant(grant_id) if grant_id is not None else None
            verdict = review(spec, grant, self._clusters[cluster][0], self._clock())
        except ExchangeError as error:
            # Without the record there is no answer, and without an answer the API server denies.
            log.warning("no decision", extra={"cluster": cluster, "detail": error.detail})
            self._observe(cluster, "unavailable", time.perf_counter() - began)
            return web.json_response({"error": "no decision can be made now"}, status=503)
        status = {"allowed": verdict.allowed, "denied": verdict.denied, "reason": verdict.reason}
        self._observe(cluster, "allowed" if verdict.allowed else "denied", time.perf_counter() - began)
        return web.json_response(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "status": status,
            }
        )

    def _asking(self, request: web.Request) -> ClusterName | None:
        """The cluster whose CA vouches for the peer's certificate, valid now."""
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        leaf = tls.getpeercert(binary_form=True) if tls is not None else None
        if leaf is None:
            return None
        known = self._known.get(leaf)
        if known is None:
            known = self._verify(x509.load_der_x509_certificate(leaf))
            if known is None:
                return None
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            self._known[leaf] = known
        cluster, not_before, not_after = known
        return cluster if not_before <= self._clock() < not_after else None

    def _verify(self, leaf: x509.Certificate) -> tuple[ClusterName, datetime, datetime] | None:
        if not _is_client(leaf):
            return None
        vouching = [
            name
            for name, (_, authorities) in self._clusters.items()
            if any(_is_issued_by(leaf, authority) for authority in authorities)
        ]
        if len(vouching) != 1:
            # Two clusters with one client CA cannot be told apart, and are not.
            return None
        return vouching[0], leaf.not_valid_before_utc, leaf.not_valid_after_utc


def _is_client(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def _is_issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


async def _spec(request: web.Request) -> Mapping[str, Any] | None:
    try:
        body = await request.json()
    except (ValueError, RecursionError, asyncio.IncompleteReadError):
        return None
    if not isinstance(body, dict) or body.get("apiVersion") != "authorization.k8s.io/v1":
        return None
    spec = body.get("spec")
    return spec if body.get("kind") == "SubjectAccessReview" and isinstance(spec, dict) else None
