"""From a configuration to a running daemon: the only place that constructs."""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from exchanged import __version__
from exchanged.background import steadily
from exchanged.clusters import Clusters
from exchanged.config import AuthorizerDoor as AuthorizerDoorSettings
from exchanged.config import Configuration, Door
from exchanged.doors.admin import AdminDoor
from exchanged.doors.authorizer_webhook import AuthorizerDoor
from exchanged.doors.grpc import GrpcDoor, Servicer
from exchanged.doors.http import HttpDoor
from exchanged.ending.deciding_again import decide_again
from exchanged.ending.endings import Endings
from exchanged.errors import ExchangeError
from exchanged.exchange import Exchanger
from exchanged.issuers import Issuers
from exchanged.keys.certificates import Authority, FileCertificate, OwnCertificate, ServingCertificate
from exchanged.keys.signing import KeyRing
from exchanged.log.record import Record, RecordKind
from exchanged.metrics import Metrics
from exchanged.model import ClusterName, GrantId, GrantState, RequestContext
from exchanged.policy.compiled import Compiler
from exchanged.policy.folder import LoadReport, PolicyFolder
from exchanged.ports import Bounds
from exchanged.readiness import Readiness
from exchanged.refusals import Refusals
from exchanged.store.sqlite import SqliteStore
from exchanged.time_limit import TimeLimit

log = logging.getLogger(__name__)

READY_SECONDS = 0.25
"""How often health checks learn whether a grant could be issued."""
MOST_CONNECTIONS = 2_000
"""Of one door: an idle one costs some 50 KB, and clients that keep theirs are few."""
DOORS = 3
"""Shares of the descriptors: one each for the two doors that anybody can reach, one for the store, the clusters, the
issuers, the authorizer's door and the local socket."""
METRICS_SECONDS = 5.0
"""How often the gauges are set."""
YOUNG_OBJECTS = 20_000
"""Objects between two looks for unreachable cycles: some hundred exchanges, which leave hardly any."""
LISTED = 100
"""Files and faults that the record of a load names; the counts are always there."""


@dataclass(slots=True)
class Started:
    """Where the daemon listens, and what clients need to trust it."""

    addresses: dict[str, str] = field(default_factory=dict)
    certificate_authority: str = ""
    policies: int = 0
    faults: tuple[str, ...] = ()


def now() -> datetime:
    """The clock: aware UTC."""
    return datetime.now(UTC)


async def serve(
    configuration: Configuration,
    *,
    on_started: Callable[[Started], None],
    stop: asyncio.Event,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Runs the daemon until `stop`, and drains it then.

    Raises:
        OSError, ValueError: a file or an address cannot be used.
        StoreInUse, StoreUnavailable: the state folder cannot be used.
    """
    configuration.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = SqliteStore.open(configuration.state)
    try:
        daemon = Daemon(configuration, store, progress)
        await daemon.run(on_started, stop)
    finally:
        await store.close()


class Daemon:
    """Everything that runs, wired by hand."""

    def __init__(
        self, configuration: Configuration, store: SqliteStore, progress: Callable[[int, int], None] | None
    ) -> None:
        self.configuration = configuration
        self.store = store
        self.metrics = Metrics()
        self.authority = Authority.open(configuration.state / "ca", "exchanged development CA", now)
        self.keys = KeyRing(
            folder=configuration.state / "keys",
            rotate_after=configuration.signing_keys.rotate_after,
            publish_ahead=configuration.signing_keys.publish_ahead,
            longest_grant=max(cluster.max_lifetime for cluster in configuration.clusters.values()),
            clock=now,
        )
        self.keys.load()
        self.clusters = Clusters.build(configuration, instance=store.instance, keys=self.keys, metrics=self.metrics)
        self.issuers = Issuers.build(configuration, clusters=self.clusters, metrics=self.metrics, clock=now)
        self.policies = PolicyFolder(
            path=configuration.policies,
            compiler=Compiler(),
            clock=now,
            on_load=self._policies_loaded,
            progress=progress,
        )
        self.endings = Endings(store=store, clusters=self.clusters.modes, clock=now)
        limits = configuration.limits
        self.refusals = Refusals(store=store, clock=now, unverified_per_minute=limits.unverified_records_per_minute)
        self.exchanger = Exchanger(
            authenticators=self.issuers.authenticators,
            policies=self.policies,
            clusters=self.clusters.modes,
            store=store,
            endings=self.endings,
            refusals=self.refusals,
            bounds=Bounds(live_per_subject=limits.live_grants_per_subject, live_in_all=limits.live_grants),
            time_out=limits.exchange_time_out.total_seconds(),
            clock=now,
            observe=self.metrics.exchange,
        )
        self.readiness = Readiness(store=store, issuers=self.issuers, clusters=self.clusters, clock=now)
        self._started = Started()

    async def run(self, on_started: Callable[[Started], None], stop: asyncio.Event) -> None:
        """Runs until `stop`; drains, and says so in the log."""
        await self._append(RecordKind.STARTED, {"version": __version__, "instance": self.store.instance})
        report = await self.policies.load()
        self._started.policies = report.policies
        self._started.faults = tuple(str(fault) for fault in report.faults)
        keep_what_is_there()
        self._started.certificate_authority = str(self.configuration.state / "ca" / "ca.crt")
        self.clusters.on_role_change(self._role_changed)
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(work) for work in self._background()]
            async with asyncio.TaskGroup() as doors:
                listening = asyncio.Event()
                open_doors = [doors.create_task(door) for door in self._doors(listening)]
                await listening.wait()
                on_started(self._started)
                await stop.wait()
                self.readiness.draining = True
                for door in open_doors:
                    door.cancel()
            await self.exchanger.drain()
            await self.endings.drain()
            for task in tasks:
                task.cancel()
        await self.clusters.close()
        await self._append(RecordKind.STOPPED, {})

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        work: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            *((f"issuer {authenticator.name}", authenticator.run) for authenticator in self.issuers.each),
            *((f"cluster {name}", mode.run) for name, mode in self.clusters.modes.items()),
            ("policies", self.policies.run),
            ("endings", self.endings.run),
            ("signing keys", partial(self.keys.run, self._keys_changed)),
            ("gauges", self._set_gauges),
            ("readiness", self.readiness.run),
        ]
        return [steadily(what, each) for what, each in work]

    def _doors(self, listening: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """The doors, with the certificates they serve; `listening` is set when all of them do."""
        configuration, limits = self.configuration, self.configuration.limits
        doors = configuration.doors
        expected = {"grpc", "http"} | ({"authorizer"} if doors.authorizer else set())

        def started(name: str) -> Callable[[str, int], None]:
            def note(host: str, port: int) -> None:
                self._started.addresses[name] = f"{host}:{port}"
                if expected <= self._started.addresses.keys():
                    listening.set()

            return note

        time_limit, connections = TimeLimit(limits.exchange_time_out.total_seconds()), connections_per_door()
        certificates = {name: self._certificate(door) for name, door in (("grpc", doors.grpc), ("http", doors.http))}
        grpc_door = GrpcDoor(
            **_address(doors.grpc.listen),
            certificate=certificates["grpc"],
            servicer=Servicer(
                exchanger=self.exchanger,
                clock=now,
                most_in_flight=limits.requests_in_flight,
                time_limit=time_limit,
                turned_away=self._turned_away,
            ),
            max_message=limits.request_bytes,
            most_connections=connections,
            drain=limits.drain,
        )
        http_door = HttpDoor(
            **_address(doors.http.listen),
            certificate=certificates["http"],
            issuer=configuration.issuer,
            exchanger=self.exchanger,
            jwks=self.keys.jwks,
            unready=self.readiness.lacking,
            metrics=self.metrics.text,
            clock=now,
            max_body=limits.request_bytes,
            most_in_flight=limits.requests_in_flight,
            most_connections=connections,
            time_limit=time_limit,
            turned_away=self._turned_away,
            drain=limits.drain,
        )
        admin = AdminDoor(
            path=configuration.admin_socket, store=self.store, end_grant=self.end_grant, status=self.status, clock=now
        )
        running: list[Coroutine[Any, Any, None]] = [
            grpc_door.run(started("grpc")),
            http_door.run(started("http")),
            admin.run(),
        ]
        running.append(steadily("readiness", partial(self._tell_readiness, grpc_door)))
        if doors.authorizer is not None:
            certificates["authorizer"] = self._certificate(doors.authorizer)
            running.append(self._authorizer(doors.authorizer, certificates["authorizer"], started("authorizer")))
        running += [
            steadily(f"certificate {name}", certificate.run)
            for name, certificate in certificates.items()
            if certificate is not None
        ]
        running.append(steadily("certificates", partial(self._watch_certificates, certificates)))
        return running

    def _authorizer(
        self,
        settings: AuthorizerDoorSettings,
        certificate: ServingCertificate | None,
        started: Callable[[str, int], None],
    ) -> Coroutine[Any, Any, None]:
        if certificate is None:
            raise ValueError("the authorizer's door has no plaintext")
        return AuthorizerDoor(
            **_address(settings.listen),
            certificate=certificate,
            clusters=self.clusters.askers(self.configuration, now),
            store=self.store,
            clock=now,
            observe=self.metrics.decision,
        ).run(started)

    def _certificate(self, door: Door | AuthorizerDoorSettings) -> ServingCertificate | None:
        if isinstance(door, Door) and door.plaintext:
            return None
        if door.tls is not None:
            return FileCertificate(
                certificate=door.tls.certificate,
                key=door.tls.key,
                certificate_authority=door.tls.certificate_authority,
            )
        return OwnCertificate(authority=self.authority, hosts=own_hosts(self.configuration), clock=now)

    async def end_grant(self, grant_id: GrantId, why: str, by: str) -> Any:
        """Revokes a grant: its end is on record, and its withdrawal has been tried, when this returns."""
        return await asyncio.shield(self.endings.end(grant_id, GrantState.REVOKED, why, by=by))

    async def status(self) -> dict[str, Any]:
        """What `exchanged status` shows."""
        counts = await self.store.counts()
        lacking = await self.readiness.lacking()
        return {
            "version": __version__,
            "instance": self.store.instance,
            "ready": not lacking,
            "reasons": [f"{what}: {why}" for what, why in lacking.items()],
            "remarks": [] if len(self.policies.current) else ["no policy is in force: every request is refused"],
            "listening": self._started.addresses,
            "live_grants": counts.live,
            "backlog": counts.backlog,
            "not_configured": dict(await self.endings.elsewhere()),
            "issuers": self.issuers.unready(),
            "clusters": self.clusters.unready(),
            "policies": {
                "count": len(self.policies.current),
                "digest": self.policies.current.digest,
                "faults": [str(fault) for fault in self.policies.faults],
            },
        }

    async def _role_changed(self, cluster: ClusterName) -> None:
        await decide_again(self.clusters.modes[cluster], self.store, self.endings)

    async def _policies_loaded(self, report: LoadReport) -> None:
        self.metrics.policies.set(report.policies)
        self.metrics.faulty_files.set(len({fault.file for fault in report.faults}))
        self.metrics.policy_load_seconds.set(report.seconds)
        for fault in report.faults[:LISTED]:
            log.error("policy file not in force; its last good content is", extra={"fault": str(fault)})
        await self._append(
            RecordKind.POLICIES_LOADED,
            {
                "digest": report.digest,
                "policies": report.policies,
                "changed": list(report.changed[:LISTED]),
                "changed_files": len(report.changed),
                "removed": list(report.removed[:LISTED]),
                "removed_files": len(report.removed),
                "faults": [str(fault) for fault in report.faults[:LISTED]],
                "seconds": round(report.seconds, 3),
            },
        )

    async def _keys_changed(self) -> None:
        kids = [key["kid"] for key in self.keys.jwks()["keys"]]
        await self._append(RecordKind.KEYS_CHANGED, {"published": kids})

    async def _append(self, kind: RecordKind, body: Mapping[str, Any]) -> None:
        await self.store.append(Record(kind=kind, time=now(), body=body))

    async def _tell_readiness(self, door: GrpcDoor) -> None:
        while True:
            ready = not await self.readiness.lacking()
            self.metrics.ready.set(1 if ready else 0)
            door.tell_health(ready=ready)
            await asyncio.sleep(READY_SECONDS)

    async def _turned_away(self, refusal: ExchangeError, context: RequestContext) -> None:
        """An exchange that a door refused before it began is counted like any other."""
        self.metrics.exchange(context.door, refusal.reason.value, 0.0)
        await self.refusals.turned_away(refusal, context)

    async def _set_gauges(self) -> None:
        while True:
            try:
                counts = await self.store.counts()
                self.metrics.live_grants.set(counts.live)
                self.metrics.backlog.set(counts.backlog)
            except ExchangeError as error:
                log.warning("gauges could not be set", extra={"detail": error.detail})
            await asyncio.sleep(METRICS_SECONDS)

    async def _watch_certificates(self, certificates: Mapping[str, ServingCertificate | None]) -> None:
        while True:
            for name, certificate in certificates.items():
                if certificate is not None:
                    end = certificate.current().not_after.timestamp()
                    self.metrics.certificate_expiry.labels(name).set(end)
            await asyncio.sleep(METRICS_SECONDS)


def keep_what_is_there() -> None:
    """Spares the garbage collector what was made so far, which lives as long as the daemon: a look at it takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def connections_per_door() -> int:
    """How many connections each public door may have, so that the rest of the daemon keeps descriptors of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(MOST_CONNECTIONS, hard // DOORS) if hard != resource.RLIM_INFINITY else MOST_CONNECTIONS


def own_hosts(configuration: Configuration) -> list[str]:
    """The names under which clients reach the doors: of the issuer's URL, and loopback."""
    named = [urlsplit(configuration.issuer).hostname]
    if configuration.doors.authorizer is not None and configuration.doors.authorizer.url is not None:
        named.append(urlsplit(configuration.doors.authorizer.url).hostname)
    doors = [configuration.doors.grpc.listen, configuration.doors.http.listen]
    named += [_address(listen)["host"] for listen in doors]
    return list(dict.fromkeys([*(name for name in named if name), "localhost", "127.0.0.1", "::1"]))


def _address(listen: str) -> Any:
    host, _, port = listen.rpartition(":")
    return {"host": host.strip("[]"), "port": int(port)}


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for a drain."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
