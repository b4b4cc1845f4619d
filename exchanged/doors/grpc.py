"""The gRPC door: exchanged.v1.TokenExchange, with health and reflection."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exchanged.contradictions import is_loopback
from exchanged.doors import messages
from exchanged.doors.gathering import Gathering
from exchanged.doors.grpc_tls import ClientRoots, credentials, presented
from exchanged.doors.health import MOST_WATCHERS, Health
from exchanged.doors.in_time import TurnedAway, in_time
from exchanged.doors.status import abort
from exchanged.errors import ExchangeError, MalformedRequest, Reason, TooManyRequests
from exchanged.exchange import Exchanger
from exchanged.keys.certificates import ServingCertificate
from exchanged.model import RequestContext, RequestId
from exchanged.time_limit import TimeLimit
from exchanged.v1 import exchange_pb2 as pb

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["TokenExchange"].full_name
RETRY_WHEN_OVERLOADED = timedelta(seconds=1)
CONNECTION_AGE_MS = 30 * 60 * 1000
"""After which a client is asked to connect anew, so that load spreads over replicas and certificates."""
CONNECTION_GRACE_MS = 15_000
"""How long the calls of such a connection have; as long as an exchange may take."""
FASTEST_PING_MS = 10_000
"""Clients that ping more often without a call under way are sent away."""
CALLS_PER_REQUEST = 4
"""Calls that may be open for each request that may be in flight. A call is open before its message is there, so whoever
sends none holds up nobody until there are so many; each costs some 20 KB."""
SPARE_CALLS = MOST_WATCHERS + 100
"""Calls beyond that: for those who watch or reflect, and so that few who are too many are told when to come again."""
MUTUAL = "mtls"
"""The door whose callers show a certificate."""
STOP_SECONDS = 2.0
"""After the drain: what then still does not end is left to the end of the process."""

Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]


class Servicer:
    """Messages in, values to the Exchanger, messages out. A message that cannot be read comes as None."""

    def __init__(
        self,
        *,
        door: str,
        exchanger: Exchanger,
        clock: Callable[[], datetime],
        most_in_flight: int,
        time_limit: TimeLimit,
        turned_away: TurnedAway,
    ) -> None:
        self._door = door
        self._exchanger = exchanger
        self._clock = clock
        self.most_in_flight = most_in_flight
        self._time_limit = time_limit
        self._turned_away = turned_away
        self._in_flight = 0
        self._gathering = Gathering()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The calls of the contract. The generated ones would log a traceback for each message that is none."""
        calls: dict[str, tuple[Any, Any, Any]] = {
            "Exchange": (self.Exchange, pb.ExchangeRequest, pb.ExchangeResponse),
            "Revoke": (self.Revoke, pb.RevokeRequest, pb.RevokeResponse),
            "Introspect": (self.Introspect, pb.IntrospectRequest, pb.IntrospectResponse),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    call,
                    request_deserializer=partial(messages.read, asked),
                    response_serializer=answered.SerializeToString,
                )
                for name, (call, asked, answered) in calls.items()
            },
        )

    async def Exchange(self, request: pb.ExchangeRequest | None, context: Context) -> pb.ExchangeResponse:  # noqa: N802
        """See the contract."""

        async def work(called: RequestContext) -> pb.ExchangeResponse:
            await self._gathering.join(self._in_flight)
            try:
                asked = messages.request(request)
            except MalformedRequest as refusal:
                await self._turned_away(refusal, called)
                raise
            exchanged = await self._exchanger.exchange(asked, called)
            return messages.response(exchanged, asked.requested_token_type, self._clock())

        return await self._answered(context, work, self._turned_away)

    async def Revoke(self, request: pb.RevokeRequest | None, context: Context) -> pb.RevokeResponse:  # noqa: N802
        """See the contract."""

        async def work(called: RequestContext) -> pb.RevokeResponse:
            await in_time(self._time_limit, self._exchanger.revoke(messages.token(request), called))
            return pb.RevokeResponse()

        return await self._answered(context, work)

    async def Introspect(  # noqa: N802
        self, request: pb.IntrospectRequest | None, context: Context
    ) -> pb.IntrospectResponse:
        """See the contract."""

        async def work(called: RequestContext) -> pb.IntrospectResponse:
            found = await in_time(self._time_limit, self._exchanger.introspect(messages.token(request), called))
            return messages.introspection(*found) if found else pb.IntrospectResponse(active=False)

        return await self._answered(context, work)

    async def _answered(
        self,
        context: Context,
        work: Callable[[RequestContext], Awaitable[Reply]],
        turned_away: TurnedAway | None = None,
    ) -> Reply:
        called = RequestContext(
            request_id=RequestId(os.urandom(8).hex()),
            time=self._clock(),
            source=source(context.peer()),
            door=self._door,
            certificate=presented(context) if self._door == MUTUAL else None,
        )
        if self._in_flight >= self.most_in_flight:
            overloaded: ExchangeError = TooManyRequests(Reason.OVERLOADED, retry_after=RETRY_WHEN_OVERLOADED)
            if turned_away is not None:
                await turned_away(overloaded, called)
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
    """Serves until cancelled, and drains then. With `client_roots` callers must show a certificate."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        certificate: ServingCertificate | None,
        client_roots: ClientRoots | None = None,
        servicer: Servicer,
        max_message: int,
        most_connections: int,
        drain: timedelta,
    ) -> None:
        if certificate is None and not is_loopback(host):
            raise ValueError(f"plaintext is for loopback only, and {host} is not")
        self._host = host
        self._port = port
        self._certificate = certificate
        self._client_roots = client_roots
        self._servicer = servicer
        self._max_message = max_message
        self._most_connections = most_connections
        self._drain = drain.total_seconds()
        self._health = Health()

    async def run(self, started: Callable[[str, int], None]) -> None:
        """Serves until cancelled; `started` is told the address.

        Raises:
            OSError: the address cannot be had.
        """
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._max_message),
                ("grpc.max_concurrent_streams", 1_000),
                ("grpc.max_allowed_incoming_connections", self._most_connections),
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
                ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", FASTEST_PING_MS),
            ),
            maximum_concurrent_rpcs=CALLS_PER_REQUEST * self._servicer.most_in_flight + SPARE_CALLS,
        )
        server.add_generic_rpc_handlers((self._servicer.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = self._bind(server)
        await server.start()
        started(self._host, port)
        try:
            # Not the server's own waiting: whoever cancels that has cancelled what tells that it stopped.
            await asyncio.Event().wait()
        finally:
            # New calls are refused from here on; those under way have their time.
            self._health.end()
            await self._stop(server)

    def tell_health(self, *, ready: bool) -> None:
        """What health checks are told."""
        self._health.tell(ready=ready)

    async def _stop(self, server: grpc.aio.Server) -> None:
        try:
            async with asyncio.timeout(self._drain + STOP_SECONDS):
                await server.stop(self._drain)
        except TimeoutError:
            log.warning("connections of the gRPC door did not end in time")

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        try:
            if self._certificate is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials(self._certificate, self._client_roots))
        except RuntimeError as error:
            raise OSError(f"{address} cannot be had: {error}") from error


def source(peer: str) -> str:
    """The address in gRPC's `ipv4:1.2.3.4:567`, `ipv6:[::1]:567` or `unix:…`."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return kind
    return rest.rpartition(":")[0].strip("[]")
