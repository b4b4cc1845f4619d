"""From a configuration to a running daemon: the only place that constructs."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from exchanged import __version__
from exchanged.background import steadily
from exchanged.clusters import Clusters
from exchanged.config import Configuration, SpiffeIssuer
from exchanged.doors.admin import AdminDoor
from exchanged.ending.deciding_again import decide_again, end_of_untrusted
from exchanged.ending.endings import Endings
from exchanged.entrances import Entrances
from exchanged.errors import ExchangeError
from exchanged.exchange import Exchanger
from exchanged.issuers import Issuers
from exchanged.keys.certificates import Authority
from exchanged.keys.signing import KeyRing
from exchanged.keys.svid import SvidCertificate
from exchanged.log.record import Record, RecordKind
from exchanged.metrics import Metrics
from exchanged.model import ClusterName, GrantId, GrantState, RequestContext
from exchanged.policy.compiled import Compiler
from exchanged.policy.folder import LoadReport, PolicyFolder
from exchanged.ports import Bounds
from exchanged.readiness import Readiness
from exchanged.refusals import Refusals
from exchanged.served import Certificates
from exchanged.store.sqlite import SqliteStore
from exchanged.workload.client import WorkloadApi

log = logging.getLogger(__name__)

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
        self.workload_api = workload_api(configuration)
        own = svid(configuration, self.workload_api)
        self.clusters = Clusters.build(
            configuration, instance=store.instance, keys=self.keys, metrics=self.metrics, svid=own
        )
        self.issuers = Issuers.build(
            configuration, clusters=self.clusters, workload_api=self.workload_api, metrics=self.metrics, clock=now
        )
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
        self.certificates = Certificates(
            configuration=configuration,
            authority=self.authority,
            svid=own,
            metrics=self.metrics,
            clock=now,
        )
        self.readiness = Readiness(
            store=store, issuers=self.issuers, clusters=self.clusters, certificates=self.certificates, clock=now
        )
        self.entrances = Entrances(
            configuration=configuration,
            certificates=self.certificates,
            exchanger=self.exchanger,
            issuers=self.issuers,
            clusters=self.clusters,
            keys=self.keys,
            store=store,
            readiness=self.readiness,
            metrics=self.metrics,
            turned_away=self._turned_away,
            clock=now,
        )
        self._started = Started(addresses=self.entrances.addresses)

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
                open_doors = [doors.create_task(door) for door in self.entrances.open(self._admin(), listening)]
                # A door may wait for its certificate for as long as the Workload API is away.
                await asyncio.wait(
                    {doors.create_task(listening.wait()), stopping := doors.create_task(stop.wait())},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not stopping.done():
                    on_started(self._started)
                await stopping
                listening.set()
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
            *((f"certificate for {name}", shown.run) for name, shown in self.clusters.certificates.items()),
            ("policies", self.policies.run),
            ("endings", self.endings.run),
            ("issuers that left", self._end_of_unconfigured),
            ("signing keys", partial(self.keys.run, self._keys_changed)),
            ("certificates", self.certificates.run),
            ("gauges", self._set_gauges),
            ("readiness", self.readiness.run),
        ]
        if self.workload_api is not None:
            self.workload_api.on_removed = self._trust_domain_removed
            work.append(("Workload API", self.workload_api.run))
        return [steadily(what, each) for what, each in work]

    def _admin(self) -> AdminDoor:
        return AdminDoor(
            path=self.configuration.admin_socket,
            store=self.store,
            end_grant=self.end_grant,
            status=self.status,
            clock=now,
        )

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
            "remarks": self._remarks(),
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

    def _remarks(self) -> list[str]:
        """What keeps the daemon from nothing yet, and somebody should look at."""
        found = [] if len(self.policies.current) else ["no policy is in force: every request is refused"]
        if self.workload_api is not None and self.workload_api.failure:
            found.append(f"{self.workload_api.failure}; what it said last holds for a while")
        return found

    async def _end_of_unconfigured(self) -> None:
        known = self.configuration.issuers.keys()
        await end_of_untrusted(lambda issuer: issuer in known, "is not configured any more", self.store, self.endings)

    async def _trust_domain_removed(self, trust_domain: str) -> None:
        """The Workload API does not offer its bundle any more, so nobody vouches for its workloads."""
        gone = {
            name
            for name, issuer in self.configuration.issuers.items()
            if isinstance(issuer, SpiffeIssuer) and issuer.trust_domain == trust_domain and issuer.from_workload_api
        }
        if gone:
            log.warning("a trust domain was removed; its grants end", extra={"trust_domain": trust_domain})
            why = f"has no bundle of trust domain {trust_domain} any more"
            await end_of_untrusted(lambda issuer: issuer not in gone, why, self.store, self.endings)

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


def workload_api(configuration: Configuration) -> WorkloadApi | None:
    """The Workload API, where the configuration has one.

    Raises:
        ValueError: neither the configuration nor SPIFFE_ENDPOINT_SOCKET says where it is.
    """
    if configuration.workload_api is None:
        return None
    socket = configuration.workload_api.socket or os.environ.get("SPIFFE_ENDPOINT_SOCKET")
    if not socket:
        raise ValueError("workloadApi.socket is left out, and SPIFFE_ENDPOINT_SOCKET is not set")
    return WorkloadApi(socket=socket, clock=now)


def svid(configuration: Configuration, api: WorkloadApi | None) -> SvidCertificate | None:
    """The daemon's own SVID, where there is a Workload API."""
    if configuration.workload_api is None or api is None:
        return None
    return SvidCertificate(source=api, spiffe_id=configuration.workload_api.spiffe_id)


def keep_what_is_there() -> None:
    """Spares the garbage collector what was made so far, which lives as long as the daemon: a look at it takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for a drain."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
