"""How grants end: by revocation, by being given back, at their expiry, and when a crash left them half made.

Every end takes two steps, so that a crash between them loses nothing: the end is recorded (durable; from then on the
daemon itself denies it), and what the grant has at its cluster is withdrawn. The second is tried at once, and kept
being tried by `run` until it is done; until then the grant counts as backlog.

Where the store cannot record an end, the grant is taken from its cluster all the same, which takes rights away and
gives none. The end is remembered, and recorded when the store is back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial

from exchanged.background import steadily
from exchanged.ending.late import End, LateEnds
from exchanged.ending.pauses import Pauses
from exchanged.ending.sweeping import keep_sweeping
from exchanged.errors import ClusterUnavailable, ExchangeError, Reason, StoreUnavailable
from exchanged.log import entries
from exchanged.model import ClusterName, Grant, GrantId, GrantState, RequestId
from exchanged.ports import ClusterMode, Store

log = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5
"""Seconds between two looks for due grants: how late, at most, an expiry takes effect in mode `bindings`."""
ELSEWHERE_INTERVAL = 30.0
"""Seconds between two looks for grants of clusters that are not configured: little can be done about them."""
BATCH = 256
"""Grants taken up by one look, so that a large backlog does not fill the memory."""
AT_ONCE = 16
"""Withdrawals in flight at one cluster."""


class Endings:
    """Ends grants, and keeps withdrawing them until their clusters agree."""

    def __init__(
        self, *, store: Store, clusters: Mapping[ClusterName, ClusterMode], clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._clusters = clusters
        self._clock = clock
        self.in_flight: set[GrantId] = set()
        """Grants that an exchange is making: it alone withdraws them."""
        self._soon: set[asyncio.Task[bool]] = set()
        self._retry = Pauses()
        self._late = LateEnds(store=store, record=self._record, cut=self._cut)

    async def end(
        self,
        grant_id: GrantId,
        state: GrantState,
        why: str,
        *,
        by: str,
        request_id: RequestId | None = None,
        give_back: bool = False,
    ) -> Grant | None:
        """Ends a grant that is intended or issued; None if it was neither.

        When it returns the end is durable, and the withdrawal has been tried once.

        Raises:
            StoreUnavailable: it could not be recorded. It will be, and its cluster does not honour the grant any more,
                if that could be told and reached.
        """
        end = End(grant_id=grant_id, state=state, why=why, by=by, request_id=request_id, give_back=give_back)
        try:
            grant = await self._record(end)
        except StoreUnavailable:
            await self._late.remember(end)
            raise
        if grant is not None and self._is_ours(end):
            await self.withdraw(grant)
        return grant

    async def withdraw(self, grant: Grant) -> bool:
        """Takes an ended grant from its cluster; False if that has to be tried again later, which `run` does."""
        try:
            await self._take_away(grant)
            await self._store.withdrawn(grant.id, entries.withdrawn(grant, self._clock()))
        except ExchangeError as error:
            self._put_off(grant, error)
            return False
        self._retry.forget(grant.id)
        return True

    def withdraw_soon(self, grant: Grant) -> None:
        """Withdraws in the background; nobody waits for it."""
        task = asyncio.create_task(self.withdraw(grant))
        self._soon.add(task)
        task.add_done_callback(self._soon.discard)

    async def elsewhere(self) -> Mapping[ClusterName, int]:
        """How many unfinished grants there are of clusters that are not configured."""
        unfinished = await self._store.unfinished()
        return {name: grants for name, grants in unfinished.items() if name not in self._clusters}

    async def run(self) -> None:
        """Until cancelled: expiries, withdrawals that failed, what a crash left; apart for each cluster."""
        async with asyncio.TaskGroup() as group:
            for name, mode in self._clusters.items():
                group.create_task(steadily(f"withdrawals at {name}", partial(self._look_after, name)))
                sweeping = partial(keep_sweeping, name, mode, self._store, self._clock)
                group.create_task(steadily(f"sweeps of {name}", sweeping))
            group.create_task(steadily("grants of clusters that are gone", self._look_elsewhere))

    async def look(self, cluster: ClusterName) -> int:
        """Takes up the grants of one cluster that are due; returns how many."""
        gate = asyncio.Semaphore(AT_ONCE)
        await self._late.record_at(cluster)
        late = [each for each in self._late.at(cluster) if self._is_ready(each.end.grant_id) and not each.is_cut]
        await asyncio.gather(
            *(self._take_up(each.end.grant_id, partial(self._late.cut, each, each.end), gate) for each in late)
        )
        most = BATCH + len(self._retry) + len(self._late)
        due = await self._store.due(self._clock(), most, cluster=cluster)
        ready = [grant for grant in due if grant.id not in self._late and self._is_ready(grant.id)]
        await asyncio.gather(*(self._take_up(grant.id, partial(self._finish, grant), gate) for grant in ready))
        return len(ready)

    async def drain(self) -> None:
        """Waits for withdrawals that nobody else waits for."""
        if self._soon:
            await asyncio.wait(self._soon)

    async def _look_after(self, cluster: ClusterName) -> None:
        while True:
            try:
                taken_up = await self.look(cluster)
            except ExchangeError as error:
                taken_up = 0
                log.warning("due grants could not be read", extra={"cluster": cluster, "detail": error.detail})
            if taken_up < BATCH:
                await asyncio.sleep(LOOK_INTERVAL)

    async def _look_elsewhere(self) -> None:
        """Grants of clusters that are not configured end at their expiry; what they have there stays backlog."""
        told: Mapping[ClusterName, int] = {}
        while True:
            try:
                found = await self.elsewhere()
                for name in found:
                    await self.look(name)
                if found and found != told:
                    log.error("clusters that are not configured have unfinished grants", extra={"grants": dict(found)})
                told = found
            except ExchangeError as error:
                log.warning("grants of clusters that are gone could not be read", extra={"detail": error.detail})
            await asyncio.sleep(ELSEWHERE_INTERVAL)

    async def _take_up(self, grant_id: GrantId, work: Callable[[], Awaitable[object]], gate: asyncio.Semaphore) -> None:
        """Whatever happens to one grant, the others are taken up."""
        async with gate:
            try:
                await work()
            except StoreUnavailable:
                self._retry.put_off(grant_id)
            except Exception:
                log.exception("a grant could not be ended; it will be tried again", extra={"grant": grant_id})
                self._retry.put_off(grant_id)

    async def _finish(self, grant: Grant) -> None:
        if grant.state is GrantState.ISSUED:
            await self.end(grant.id, GrantState.EXPIRED, "its lifetime was over", by="exchanged")
        elif grant.state is GrantState.INTENDED:
            # Its token was never released: a token leaves only after its outcome is on record.
            why = "the daemon stopped before the outcome was recorded"
            await self.end(grant.id, GrantState.FAILED, why, by="exchanged", give_back=True)
        else:
            await self.withdraw(grant)

    async def _take_away(self, grant: Grant) -> None:
        """Nothing of the grant is left at its cluster when this returns.

        Raises:
            ClusterUnavailable: that could not be done, or the cluster is not there as it was.
        """
        if not grant.plan.objects:
            return
        mode = self._clusters.get(grant.cluster)
        if mode is None or mode.traits.mode is not grant.mode:
            # Another mode would look for other things, and say that nothing is left.
            what = (
                f"cluster {grant.cluster} is not configured any more in mode {grant.mode}, in which the grant was made"
            )
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{what}; what it has there has to stay")
        await mode.withdraw(grant)

    def _put_off(self, grant: Grant, error: ExchangeError) -> None:
        self._retry.put_off(grant.id)
        log.warning(
            "withdrawal failed; it will be tried again",
            extra={"grant": grant.id, "cluster": grant.cluster, "reason": error.reason, "detail": error.detail},
        )

    def _is_ready(self, grant_id: GrantId) -> bool:
        return grant_id not in self.in_flight and self._retry.is_over(grant_id)

    def _is_ours(self, end: End) -> bool:
        """Whether the grant is to be withdrawn from here: one that is being made is withdrawn by whoever makes it."""
        return end.state is GrantState.FAILED or end.grant_id not in self.in_flight

    async def _record(self, end: End) -> Grant | None:
        record = entries.ended(end.grant_id, end.state, end.why, by=end.by, at=self._clock(), request_id=end.request_id)
        grant = await self._store.end(end.grant_id, end.state, end.why, record, give_back=end.give_back)
        self._late.forget(end.grant_id)
        return grant

    async def _cut(self, end: End, grant: Grant) -> bool:
        if not self._is_ours(end):
            return False
        try:
            await self._take_away(grant)
        except ExchangeError as error:
            self._put_off(grant, error)
            return False
        return True
