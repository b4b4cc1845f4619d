"""The SPIFFE Workload API: the daemon's own X.509-SVIDs and the bundles of trust domains, as they change.

The library's client follows a stream in a thread of its own; what it makes of a message is handed to the event loop.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtBundleSet, WorkloadApiClient, X509Svid
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from exchanged.authenticate.bundles import Authorities, Bundle
from exchanged.authenticate.fetched import FAILURE_PAUSE, Age, since_boot
from exchanged.authenticate.jws import ALGORITHMS, VerificationKey, verification_key
from exchanged.errors import KeysUnavailable, Reason

log = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before a stream is opened anew; twice as many each time that nothing came."""

Value = TypeVar("Value")
Open = Callable[[WorkloadApiClient, Callable[[Any], None], Callable[[Exception], None], bool], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Svid:
    """An X.509-SVID of the daemon's own: PEM, with the authorities of its trust domain."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    authorities_pem: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _X509:
    """What the X.509 stream says."""

    svids: tuple[Svid, ...]
    bundles: Mapping[str, Authorities]


class _Stream(Generic[Value]):
    """One stream of complete updates (SPIFFE_Workload_API §4.3), opened anew whenever it ends (§4.2)."""

    def __init__(
        self,
        *,
        socket: str,
        begin: Open,
        read: Callable[[Any], Value],
        on_update: Callable[[], None],
        age: Callable[[], Age],
    ) -> None:
        self._socket = socket
        self._begin = begin
        self._read = read
        self._on_update = on_update
        self._age = age
        self._lost: Age | None = None
        self.last: Value | None = None
        self.failure = f"the Workload API at {socket} has not answered yet"

    def fresh(self, stale_limit: timedelta) -> Value | None:
        """What it said last, while it is there, and for so long afterwards."""
        return None if self._lost is not None and self._lost.is_over(stale_limit) else self.last

    async def run(self) -> None:
        """Follows until cancelled."""
        pause = SHORTEST_PAUSE
        while True:
            before = self.last
            self.failure = f"the Workload API at {self._socket}: {await self._follow()}"
            log.warning("the Workload API is away", extra={"detail": self.failure})
            if self._lost is None:
                self._lost = self._age()
            pause = SHORTEST_PAUSE if self.last is not before else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    async def _follow(self) -> str:
        """Until the stream ends; why it did."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()

        def hand_over(work: Callable[..., None], value: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: the daemon has ended
                loop.call_soon_threadsafe(work, value)

        def end(why: object) -> None:
            if not ended.done():
                ended.set_result(str(why))

        try:
            client = WorkloadApiClient(self._socket)
        except PySpiffeError as error:
            return str(error)
        following = self._begin(
            client,
            lambda update: hand_over(self._take, self._read(update)),
            lambda error: hand_over(end, error),
            False,  # or the library opened it anew and said nothing
        )
        try:
            return await ended
        finally:
            following.cancel()
            client.close()

    def _take(self, value: Value) -> None:
        self.last, self._lost, self.failure = value, None, ""
        self._on_update()


class WorkloadApi:
    """One Workload API endpoint; `socket` as SPIFFE_ENDPOINT_SOCKET has it (SPIFFE_Workload_Endpoint §4)."""

    def __init__(
        self, *, socket: str, clock: Callable[[], datetime], elapsed: Callable[[], float] = since_boot
    ) -> None:
        def age() -> Age:
            return Age(clock, elapsed)

        self._x509: _Stream[_X509] = _Stream(
            socket=socket,
            begin=WorkloadApiClient.stream_x509_contexts,
            read=_x509,
            on_update=self._updated,
            age=age,
        )
        self._jwt: _Stream[Mapping[str, tuple[VerificationKey, ...]]] = _Stream(
            socket=socket, begin=WorkloadApiClient.stream_jwt_bundles, read=_jwt, on_update=self._updated, age=age
        )
        self._known: frozenset[str] = frozenset()
        self._removed: asyncio.Queue[str] = asyncio.Queue()
        self._update = asyncio.Event()
        self.on_removed: Callable[[str], Awaitable[None]] | None = None
        """Told of each trust domain whose bundle was there and is not any more (§4.4)."""

    @property
    def svids(self) -> tuple[Svid, ...]:
        """The daemon's own X.509-SVIDs, as they were said last; whether they are valid still is theirs to say."""
        return self._x509.last.svids if self._x509.last is not None else ()

    async def updated(self) -> None:
        """Returns when something new has come."""
        self._update.clear()
        await self._update.wait()

    def bundle(self, trust_domain: str, stale_limit: timedelta) -> Bundle | None:
        """The bundle of a trust domain; None where nothing is known of any that is fresh enough."""
        x509, jwt = self._x509.fresh(stale_limit), self._jwt.fresh(stale_limit)
        if x509 is None and jwt is None:
            return None
        return Bundle(
            authorities=x509.bundles.get(trust_domain, ()) if x509 is not None else None,
            jwt_keys=jwt.get(trust_domain, ()) if jwt is not None else None,
        )

    def of(self, trust_domain: str, stale_limit: timedelta) -> "FromWorkloadApi":
        """The bundle of one trust domain."""
        return FromWorkloadApi(api=self, trust_domain=trust_domain, stale_limit=stale_limit)

    @property
    def failure(self) -> str:
        """Why it cannot be reached, or ""."""
        return self._x509.failure or self._jwt.failure

    async def run(self) -> None:
        """Follows both streams until cancelled."""
        async with asyncio.TaskGroup() as streams:
            streams.create_task(self._x509.run())
            streams.create_task(self._jwt.run())
            streams.create_task(self._tell_removed())

    def _updated(self) -> None:
        x509, jwt = self._x509.last, self._jwt.last
        known = frozenset(x509.bundles if x509 is not None else ()) | frozenset(jwt or ())
        for gone in self._known - known:
            self._removed.put_nowait(gone)
        self._known = known
        self._update.set()

    async def _tell_removed(self) -> None:
        while True:
            gone = await self._removed.get()
            if self.on_removed is not None:
                await self.on_removed(gone)


class FromWorkloadApi:
    """Implements `TrustBundle` for one trust domain."""

    def __init__(self, *, api: WorkloadApi, trust_domain: str, stale_limit: timedelta) -> None:
        self._api = api
        self._trust_domain = trust_domain
        self._stale_limit = stale_limit

    @property
    def last(self) -> Bundle | None:
        """See `TrustBundle.last`."""
        return self._api.bundle(self._trust_domain, timedelta.max)

    def fresh(self) -> Bundle | None:
        """See `TrustBundle.fresh`."""
        return self._api.bundle(self._trust_domain, self._stale_limit)

    async def get(self) -> Bundle:
        """See `TrustBundle.get`."""
        if (bundle := self.fresh()) is None:
            raise KeysUnavailable(Reason.KEYS_UNAVAILABLE, self._api.failure, retry_after=FAILURE_PAUSE)
        return bundle

    async def again(self) -> Bundle | None:
        """See `TrustBundle.again`; what is new comes by itself."""
        return self.fresh()

    async def run(self) -> None:
        """See `TrustBundle.run`; the API is followed once for all trust domains."""

    def unready(self) -> str | None:
        """See `TrustBundle.unready`."""
        return None if self.fresh() is not None else self._api.failure


def _x509(context: X509Context) -> _X509:
    bundles = {bundle.trust_domain.name: tuple(bundle.x509_authorities) for bundle in context.x509_bundle_set.bundles}
    return _X509(tuple(_svid(svid, bundles) for svid in context.x509_svids), bundles)


def _svid(svid: X509Svid, bundles: Mapping[str, Authorities]) -> Svid:
    return Svid(
        spiffe_id=str(svid.spiffe_id),
        chain_pem=b"".join(each.public_bytes(Encoding.PEM) for each in svid.cert_chain),
        key_pem=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authorities_pem=b"".join(
            each.public_bytes(Encoding.PEM) for each in bundles.get(svid.spiffe_id.trust_domain.name, ())
        ),
    )


def _jwt(bundles: JwtBundleSet) -> Mapping[str, tuple[VerificationKey, ...]]:
    return {
        bundle.trust_domain.name: tuple(
            key
            for kid, public in bundle.jwt_authorities.items()
            if (key := verification_key(kid, public, ALGORITHMS)) is not None
        )
        for bundle in bundles.bundles
    }
