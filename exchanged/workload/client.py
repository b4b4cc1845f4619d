"""One Workload API endpoint, followed: what it says of the daemon's own SVIDs and of trust domains, as it changes."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import grpc

from exchanged.authenticate.bundles import Bundle
from exchanged.authenticate.fetched import FAILURE_PAUSE, Age, since_boot
from exchanged.errors import ExchangeError, KeysUnavailable, Reason
from exchanged.workload import api_pb2 as pb
from exchanged.workload import messages
from exchanged.workload.messages import JwtUpdate, Svid, X509Update

log = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before a stream is opened anew; twice as many each time that nothing came."""
MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes: the bundles of some thousand trust domains."""
_CHANNEL = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # Each attempt connects by itself: what is waited for between two is said above.
    ("grpc.use_local_subchannel_pool", 1),
    # An agent that hangs is noticed; servers send clients away that ask more often than every five minutes.
    ("grpc.keepalive_time_ms", 600_000),
)
_SECURITY_HEADER = (("workload.spiffe.io", "true"),)
"""SPIFFE_Workload_Endpoint §3."""

Update = TypeVar("Update")


class _Stream(Generic[Update]):
    """One stream of complete updates (SPIFFE_Workload_API §4.3), opened anew whenever it ends (§4.2)."""

    def __init__(
        self,
        method: str,
        *,
        socket: str,
        answer: Any,
        read: Callable[[Any], Update],
        on_update: Callable[[], None],
        age: Callable[[], Age],
    ) -> None:
        self._path = f"/SpiffeWorkloadAPI/{method}"
        self._socket = socket
        self._answer = answer
        self._read = read
        self._on_update = on_update
        self._age = age
        self._lost: Age | None = None
        self.last: Update | None = None
        self.failure = f"the Workload API at {socket} has not answered yet"

    def fresh(self, stale_limit: timedelta) -> Update | None:
        """What it said last, while it is there, and for so long afterwards."""
        return None if self._lost is not None and self._lost.is_over(stale_limit) else self.last

    async def run(self) -> None:
        """Follows until cancelled."""
        pause = SHORTEST_PAUSE
        while True:
            before = self.last
            self._lose(f"the Workload API at {self._socket}: {await self._follow()}")
            pause = SHORTEST_PAUSE if self.last is not before else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    async def _follow(self) -> str:
        """Until the stream ends; why it did."""
        try:
            async with grpc.aio.insecure_channel(self._socket, options=_CHANNEL) as channel:
                follow = channel.unary_stream(
                    self._path,
                    request_serializer=pb.Request.SerializeToString,
                    response_deserializer=self._answer.FromString,
                )
                async for message in follow(pb.Request(), metadata=_SECURITY_HEADER):
                    self._take(message)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return "the stream ended"

    def _lose(self, why: str) -> None:
        """From the first time on, what was said last grows old; the same trouble is told once."""
        if why != self.failure:
            log.warning(
                "the Workload API cannot be followed; what it said last holds for a while", extra={"detail": why}
            )
        self.failure = why
        if self._lost is None:
            self._lost = self._age()

    def _take(self, message: object) -> None:
        try:
            if message is None:
                # So gRPC hands on bytes that it could not read.
                raise ValueError("no message of its contract")
            self.last = self._read(message)
        except ValueError as error:
            # What lacks something mandatory is reported and left aside (§4.5); what was said before holds for a while.
            self._lose(f"the Workload API at {self._socket} makes no sense: {error}")
            return
        self._lost, self.failure = None, ""
        self._on_update()


class WorkloadApi:
    """The endpoint; `socket` as SPIFFE_ENDPOINT_SOCKET has it (SPIFFE_Workload_Endpoint §4)."""

    def __init__(
        self, *, socket: str, clock: Callable[[], datetime], elapsed: Callable[[], float] = since_boot
    ) -> None:
        common: dict[str, Any] = {
            "socket": socket,
            "on_update": self._updated,
            "age": lambda: Age(clock, elapsed),
        }
        self._x509: _Stream[X509Update] = _Stream("FetchX509SVID", answer=pb.X509Response, read=messages.x509, **common)
        self._jwt: _Stream[JwtUpdate] = _Stream(
            "FetchJWTBundles", answer=pb.JwtBundlesResponse, read=messages.jwt, **common
        )
        self._known: frozenset[str] = frozenset()
        self._expected: dict[str, timedelta] = {}
        self._removed: asyncio.Queue[str] = asyncio.Queue()
        self._update = asyncio.Event()
        self.on_removed: Callable[[str], Awaitable[None]] | None = None
        """Told of each trust domain whose bundle was there and is not any more (§4.4)."""

    @property
    def svids(self) -> tuple[Svid, ...]:
        """The daemon's own X.509-SVIDs, as they were said last; whether they are valid still is theirs to say."""
        return self._x509.last.svids if self._x509.last is not None else ()

    @property
    def failure(self) -> str:
        """Why it cannot be reached, or ""."""
        return self._x509.failure or self._jwt.failure

    def bundle(self, trust_domain: str, stale_limit: timedelta) -> Bundle | None:
        """The bundle of a trust domain; None where nothing is known of any that is fresh enough."""
        x509, jwt = self._x509.fresh(stale_limit), self._jwt.fresh(stale_limit)
        if x509 is None and jwt is None:
            return None
        return Bundle(
            authorities=x509.bundles.get(trust_domain, ()) if x509 is not None else None,
            jwt_keys=jwt.get(trust_domain, ()) if jwt is not None else None,
            revocations=x509.revocations if x509 is not None else (),
        )

    def of(self, trust_domain: str, stale_limit: timedelta) -> "FromWorkloadApi":
        """The bundle of one trust domain, at each moment."""
        self._expected[trust_domain] = stale_limit
        return FromWorkloadApi(api=self, trust_domain=trust_domain, stale_limit=stale_limit)

    def hands_out(self, trust_domain: str) -> bool:
        """Whether it has said anything of a trust domain."""
        return trust_domain in self._known

    async def updated(self) -> None:
        """Returns when something new has come."""
        self._update.clear()
        await self._update.wait()

    async def run(self) -> None:
        """Follows both streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._x509.run())
            tasks.create_task(self._jwt.run())
            tasks.create_task(self._tell_removed())
            for trust_domain, stale_limit in self._expected.items():
                tasks.create_task(self._look_for(trust_domain, stale_limit))

    def _updated(self) -> None:
        x509, jwt = self._x509.last, self._jwt.last
        known = frozenset(x509.bundles if x509 is not None else ()) | frozenset(jwt or ())
        for gone in self._known - known:
            self._removed.put_nowait(gone)
        self._known = known
        self._update.set()

    async def _look_for(self, trust_domain: str, patience: timedelta) -> None:
        """One that is not there long after the API has answered was removed while nobody looked."""
        while not self._known:
            await self.updated()
        await asyncio.sleep(patience.total_seconds())
        if not self.hands_out(trust_domain):
            self._removed.put_nowait(trust_domain)

    async def _tell_removed(self) -> None:
        while True:
            gone = await self._removed.get()
            if self.on_removed is not None:
                await self._tell(self.on_removed, gone)

    @staticmethod
    async def _tell(on_removed: Callable[[str], Awaitable[None]], gone: str) -> None:
        """Until it is done: nobody says a second time that a trust domain was removed."""
        while True:
            try:
                return await on_removed(gone)
            except ExchangeError as error:
                detail = {"trust_domain": gone, "detail": error.detail}
                log.warning("a trust domain was removed, and not all is done about it; it is tried again", extra=detail)
            await asyncio.sleep(FAILURE_PAUSE.total_seconds())


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
        if self.fresh() is None:
            return self._api.failure
        if not self._api.hands_out(self._trust_domain):
            where = "does the daemon's registration entry federate with it?"
            return f"the Workload API hands out no bundle of trust domain {self._trust_domain}; {where}"
        return None
