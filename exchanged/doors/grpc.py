"""The gRPC door: exchanged.v1.TokenExchange, with health and reflection."""

import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exchanged.doors import messages
from exchanged.doors.gathering import Gathering
from exchanged.doors.status import abort
from exchanged.errors import Reason, TooManyRequests
from exchanged.exchange import Exchanger
from exchanged.keys.certificates import CertificatePair, ServingCertificate
from exchanged.model import PresentedToken, RequestContext, RequestId
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["TokenExchange"].full_name
RETRY_WHEN_OVERLOADED = timedelta(seconds=1)
CONNECTION_AGE_MS = 30 * 60 * 1000
"""After which a client is asked to connect anew, so that load spreads over replicas and certificates."""
FASTEST_PING_MS = 10_000
"""Clients that ping more often without a call under way are sent away."""

Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(exchange_pb2_grpc.TokenExchangeServicer):
    """Messages in, values to the Exchanger, messages out."""

    def __init__(self, *, exchanger: Exchanger, clock: Callable[[], datetime], most_in_flight: int) -> None:
        self._exchanger = exchanger
        self._clock = clock
        self._most_in_flight = most_in_flight
        self._in_flight = 0
        self._gathering = Gathering()

    async def Exchange(self, request: pb.ExchangeRequest, context: Context) -> pb.ExchangeResponse:  # noqa: N802
        """See the contract."""

        async def work(called: RequestContext) -> pb.ExchangeResponse:
            await self._gathering.join(self._in_flight)
            asked = messages.request(request)
            exchanged = await self._exchanger.exchange(asked, called)
            return messages.response(exchanged, asked.requested_token_type, self._clock())

        return await self._answered(context, work)

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:  # noqa: N802
        """See the contract."""

        async def work(called: RequestContext) -> pb.RevokeResponse:
            await self._exchanger.revoke(PresentedToken(text=request.token), called)
            return pb.RevokeResponse()

        return await self._answered(context, work)

    async def Introspect(self, request: pb.IntrospectRequest, context: Context) -> pb.IntrospectResponse:  # noqa: N802
        """See the contract."""

        async def work(called: RequestContext) -> pb.IntrospectResponse:
            found = await self._exchanger.introspect(PresentedToken(text=request.token), called)
            return messages.introspection(*found) if found else pb.IntrospectResponse(active=False)

        return await self._answered(context, work)

    async def _answered(self, context: Context, work: Callable[[RequestContext], Awaitable[Reply]]) -> Reply:
        called = RequestContext(
            request_id=RequestId(secrets.token_hex(8)),
            time=self._clock(),
            source=source(context.peer()),
            door="grpc",
        )
        if self._in_flight >= self._most_in_flight:
            overloaded = TooManyRequests(Reason.OVERLOADED, retry_after=RETRY_WHEN_OVERLOADED)
            await abort(context, overloaded, called.request_id)
        self._in_flight += 1
        try:
            context.set_trailing_metadata((("x-request-id", called.request_id),))
            return await work(called)
        except Exception as error:  # noqa: BLE001 - the door: grpc.aio would send its text to the caller
            await abort(context, error, called.request_id)
        finally:
            self._in_flight -= 1


class GrpcDoor:
    """Serves until cancelled, and drains then."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: ServingCertificate | None,
        servicer: Servicer,
        max_message: int,
        drain: timedelta,
    ) -> None:
        if certificate is None and not is_loopback(host):
            raise ValueError(f"plaintext is for loopback only, and {host} is not")
        self._host = host
        self._port = port
        self._certificate = certificate
        self._servicer = servicer
        self._max_message = max_message
        self._drain = drain
        self._health = health.aio.HealthServicer()

    async def run(self, started: Callable[[str, int], None]) -> None:
        """Serves until cancelled; `started` is told the address.

        Raises:
            OSError: the address cannot be had.
        """
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._max_message),
                ("grpc.max_concurrent_streams", 1_000),
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", FASTEST_PING_MS),
            )
        )
        exchange_pb2_grpc.add_TokenExchangeServicer_to_server(self._servicer, server)  # type: ignore[no-untyped-call] # generated
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = self._bind(server)
        await server.start()
        started(self._host, port)
        try:
            await server.wait_for_termination()
        finally:
            # New calls are refused from here on; those under way have their time.
            await self._health.enter_graceful_shutdown()
            await server.stop(self._drain.total_seconds())

    async def tell_health(self, *, ready: bool) -> None:
        """What health checks are told."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        try:
            if self._certificate is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._credentials(self._certificate))
        except RuntimeError as error:
            raise OSError(f"{address} cannot be had: {error}") from error

    def _credentials(self, certificate: ServingCertificate) -> grpc.ServerCredentials:
        served: list[CertificatePair] = [certificate.current()]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Asked at each handshake; None keeps what is served."""
            current = certificate.current()
            if current is served[0]:
                return None
            served[0] = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(served[0]),
            renewed,  # type: ignore[arg-type] # None is documented, and not in the stubs
            require_client_authentication=False,
        )


def _configuration(pair: CertificatePair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.chain_pem)])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def source(peer: str) -> str:
    """The address in gRPC's `ipv4:1.2.3.4:567`, `ipv6:[::1]:567` or `unix:…`."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return kind
    return rest.rpartition(":")[0].strip("[]")
