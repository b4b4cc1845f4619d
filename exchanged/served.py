"""The certificates that the doors serve: whose they are, kept current, and watched."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import urlsplit

from exchanged.background import steadily
from exchanged.config import AuthorizerDoor, Configuration, Door, MutualDoor
from exchanged.keys.certificates import Authority, FileCertificate, OwnCertificate, ServingCertificate
from exchanged.metrics import Metrics

WATCH_SECONDS = 5.0
"""How often the gauges are set."""


class Certificates:
    """By the names of the doors; those that serve none are left out.

    `authority` is the daemon's own, `svid` its X.509-SVID where it has one.
    """

    def __init__(
        self,
        *,
        configuration: Configuration,
        authority: Authority,
        svid: ServingCertificate | None,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._hosts = own_hosts(configuration)
        self._authority = authority
        self._svid = svid
        self._metrics = metrics
        self._clock = clock
        doors = configuration.doors
        settings = {"grpc": doors.grpc, "http": doors.http, "mtls": doors.mtls, "authorizer": doors.authorizer}
        self._by_door = {
            name: self._certificate(door)
            for name, door in settings.items()
            if door is not None and not (isinstance(door, Door) and door.plaintext)
        }

    def of(self, door: str) -> ServingCertificate | None:
        """What a door serves, or None."""
        return self._by_door.get(door)

    def lacking(self) -> Mapping[str, str]:
        """Doors whose certificate is not there, or has ended; and why."""
        found = {}
        for name, certificate in self._by_door.items():
            try:
                end = certificate.current().not_after
            except ValueError as error:
                found[name] = str(error)
            else:
                if end <= self._clock():
                    found[name] = f"its certificate ended at {end:%FT%TZ}"
        return found

    async def run(self) -> None:
        """Keeps all of them current until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name, certificate in self._by_door.items():
                tasks.create_task(steadily(f"certificate {name}", certificate.run))
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            for name in self._by_door.keys() - self.lacking().keys():
                end = self._by_door[name].current().not_after.timestamp()
                self._metrics.certificate_expiry.labels(name).set(end)
            await asyncio.sleep(WATCH_SECONDS)

    def _certificate(self, door: Door | MutualDoor | AuthorizerDoor) -> ServingCertificate:
        if door.tls is not None:
            return FileCertificate(
                certificate=door.tls.certificate,
                key=door.tls.key,
                certificate_authority=door.tls.certificate_authority,
            )
        if not door.svid:
            return OwnCertificate(authority=self._authority, hosts=self._hosts, clock=self._clock)
        if self._svid is None:
            raise ValueError("a door that serves an SVID needs `workloadApi`")
        return self._svid


def own_hosts(configuration: Configuration) -> list[str]:
    """The names under which clients reach the doors: of the issuer's URL, and loopback."""
    doors = configuration.doors
    named = [urlsplit(configuration.issuer).hostname]
    if doors.authorizer is not None and doors.authorizer.url is not None:
        named.append(urlsplit(doors.authorizer.url).hostname)
    listening = [door.listen for door in (doors.grpc, doors.http, doors.mtls) if door is not None]
    named += [address(listen)[0] for listen in listening]
    return list(dict.fromkeys([*(name for name in named if name), "localhost", "127.0.0.1", "::1"]))


def address(listen: str) -> tuple[str, int]:
    """Host and port of a `listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)
