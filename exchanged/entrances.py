"""The daemon's doors, made of the configuration and run."""

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any

from exchanged.background import steadily
from exchanged.clusters import Clusters
from exchanged.config import AuthorizerDoor as AuthorizerDoorSettings
from exchanged.config import Configuration
from exchanged.doors.admin import AdminDoor
from exchanged.doors.authorizer_webhook import AuthorizerDoor
from exchanged.doors.grpc import MUTUAL, GrpcDoor, Servicer
from exchanged.doors.http import HttpDoor
from exchanged.doors.in_time import TurnedAway
from exchanged.exchange import Exchanger
from exchanged.issuers import Issuers
from exchanged.keys.signing import KeyRing
from exchanged.metrics import Metrics
from exchanged.ports import Store
from exchanged.readiness import Readiness
from exchanged.served import Certificates, address
from exchanged.time_limit import TimeLimit

log = logging.getLogger(__name__)

READY_SECONDS = 0.25
"""How often health checks learn whether a grant could be issued."""
SHARES = 4
"""Shares of the descriptors: one each for the doors that anybody can reach, one for the store, the clusters, the
issuers, the authorizer's door and the local socket."""


class Entrances:
    """All doors. `addresses` says where those that others reach are listening."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        certificates: Certificates,
        exchanger: Exchanger,
        issuers: Issuers,
        clusters: Clusters,
        keys: KeyRing,
        store: Store,
        readiness: Readiness,
        metrics: Metrics,
        turned_away: TurnedAway,
        clock: Callable[[], datetime],
    ) -> None:
        self._configuration = configuration
        self._certificates = certificates
        self._exchanger = exchanger
        self._issuers = issuers
        self._clusters = clusters
        self._keys = keys
        self._store = store
        self._readiness = readiness
        self._metrics = metrics
        self._turned_away = turned_away
        self._clock = clock
        self._connections = connections_per_door(configuration.limits.connections)
        self._time_limit = TimeLimit(configuration.limits.exchange_time_out.total_seconds())
        self.addresses: dict[str, str] = {}

    def open(self, admin: AdminDoor, listening: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """What runs the doors; `listening` is set when all that others reach do."""
        doors = self._configuration.doors
        running: dict[str, Callable[[Callable[[str, int], None]], Awaitable[None]]] = {"http": self._http().run}
        of_grpc = {"grpc": self._grpc("grpc", doors.grpc.listen)}
        if doors.mtls is not None:
            of_grpc[MUTUAL] = self._grpc(MUTUAL, doors.mtls.listen)
        running |= {name: door.run for name, door in of_grpc.items()}
        if doors.authorizer is not None:
            running["authorizer"] = self._authorizer(doors.authorizer).run

        def started(name: str, host: str, port: int) -> None:
            self.addresses[name] = f"{host}:{port}"
            if running.keys() <= self.addresses.keys():
                listening.set()

        async def opened(name: str) -> None:
            certificate = self._certificates.of(name)
            if certificate is not None:
                await certificate.available()
            await running[name](partial(started, name))

        return [
            admin.run(),
            *(opened(name) for name in running),
            steadily("readiness", partial(self._tell_readiness, list(of_grpc.values()))),
        ]

    def _grpc(self, name: str, listen: str) -> GrpcDoor:
        host, port = address(listen)
        limits = self._configuration.limits
        return GrpcDoor(
            host=host,
            port=port,
            certificate=self._certificates.of(name),
            client_roots=self._issuers.roots if name == MUTUAL else None,
            servicer=Servicer(
                door=name,
                exchanger=self._exchanger,
                clock=self._clock,
                most_in_flight=limits.requests_in_flight,
                time_limit=self._time_limit,
                turned_away=self._turned_away,
            ),
            max_message=limits.request_bytes,
            most_connections=self._connections,
            drain=limits.drain,
        )

    def _http(self) -> HttpDoor:
        configuration, limits = self._configuration, self._configuration.limits
        host, port = address(configuration.doors.http.listen)
        return HttpDoor(
            host=host,
            port=port,
            certificate=self._certificates.of("http"),
            issuer=configuration.issuer,
            exchanger=self._exchanger,
            jwks=self._keys.jwks,
            unready=self._readiness.lacking,
            metrics=self._metrics.text,
            clock=self._clock,
            max_body=limits.request_bytes,
            most_in_flight=limits.requests_in_flight,
            most_connections=self._connections,
            time_limit=self._time_limit,
            turned_away=self._turned_away,
            drain=limits.drain,
        )

    def _authorizer(self, settings: AuthorizerDoorSettings) -> AuthorizerDoor:
        host, port = address(settings.listen)
        certificate = self._certificates.of("authorizer")
        assert certificate is not None, "this door has no plaintext"  # noqa: S101
        return AuthorizerDoor(
            host=host,
            port=port,
            certificate=certificate,
            clusters=self._clusters.askers(self._configuration, self._clock),
            store=self._store,
            clock=self._clock,
            observe=self._metrics.decision,
        )

    async def _tell_readiness(self, doors: list[GrpcDoor]) -> None:
        while True:
            ready = not await self._readiness.lacking()
            self._metrics.ready.set(1 if ready else 0)
            for door in doors:
                door.tell_health(ready=ready)
            await asyncio.sleep(READY_SECONDS)


def connections_per_door(most: int) -> int:
    """How many connections each public door may have, so that the rest of the daemon keeps descriptors of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard // SHARES)
    if allowed < most:
        detail = {"limits.connections": most, "allowed": allowed}
        log.warning("open files are limited, and with them connections of a door (ulimit -n)", extra=detail)
    return allowed
