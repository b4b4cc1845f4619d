"""How grants end: by revocation, by being given back, at their expiry, and when a crash left them half made.

Every end takes two steps, so that a crash between them loses nothing: the end is recorded (durable; from then on the
daemon itself denies it), and what the grant has at its cluster is withdrawn. The second is tried at once, and kept
being tried by `run` until it is done; until then the grant counts as backlog.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from exchanged.errors import ExchangeError
from exchanged.log import entries
from exchanged.model import ClusterName, Grant, GrantId, GrantState, RequestId
from exchanged.ports import ClusterMode, Store

log = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5
"""Seconds between two looks for due grants: how late, at most, an expiry takes effect in mode `bindings`."""
BATCH = 256
"""Grants taken up by one look, so that a large backlog does not fill the memory."""
AT_ONCE = 16
"""Withdrawals in flight at one cluster."""
FIRST_PAUSE = 0.5
"""Seconds before a failed withdrawal is tried again; doubles each time."""
LONGEST_PAUSE = 30.0
"""The longest such pause, in seconds: a cluster that comes back is served within it."""
SWEEP_INTERVAL = timedelta(minutes=5)
"""How often a cluster is searched for objects that no grant accounts for."""


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
        self._retry: dict[GrantId, tuple[float, float]] = {}

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
        """
        record = entries.ended(grant_id, state, why, by=by, at=self._clock(), request_id=request_id)
        grant = await self._store.end(grant_id, state, why, record, give_back=give_back)
        if grant is not None and (state is GrantState.FAILED or grant_id not in self.in_flight):
            await self.withdraw(grant)
        return grant

    async def withdraw(self, grant: Grant) -> bool:
        """Takes an ended grant from its cluster; False if that has to be tried again later, which `run` does."""
        mode = self._clusters.get(grant.cluster)
        if mode is None:
            return False
        try:
            await mode.withdraw(grant)
            await self._store.withdrawn(grant.id, entries.withdrawn(grant, self._clock()))
        except ExchangeError as error:
            self._put_off(grant.id)
            log.warning(
                "withdrawal failed; it will be tried again",
                extra={"grant": grant.id, "cluster": grant.cluster, "reason": error.reason, "detail": error.detail},
            )
            return False
        self._retry.pop(grant.id, None)
        return True

    def withdraw_soon(self, grant: Grant) -> None:
        """Withdraws in the background; nobody waits for it."""
        task = asyncio.create_task(self.withdraw(grant))
        self._soon.add(task)
        task.add_done_callback(self._soon.discard)

    async def run(self) -> None:
        """Until cancelled: expiries, withdrawals that failed, what a crash left; one loop for each cluster."""
        async with asyncio.TaskGroup() as group:
            for name, mode in self._clusters.items():
                group.create_task(self._look_after(name))
                group.create_task(self._sweep(name, mode))

    async def _look_after(self, cluster: ClusterName) -> None:
        while True:
            try:
                taken_up = await self.look(cluster)
            except ExchangeError as error:
                taken_up = 0
                log.warning("due grants could not be read", extra={"cluster": cluster, "detail": error.detail})
            if taken_up < BATCH:
                await asyncio.sleep(LOOK_INTERVAL)

    async def look(self, cluster: ClusterName) -> int:
        """Takes up the grants of one cluster that are due; returns how many."""
        now = asyncio.get_running_loop().time()
        due = await self._store.due(self._clock(), BATCH + len(self._retry), cluster=cluster)
        ready = [
            grant for grant in due if grant.id not in self.in_flight and self._retry.get(grant.id, (0.0, 0.0))[1] <= now
        ]
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._take_up(grant, gate) for grant in ready))
        return len(ready)

    async def _take_up(self, grant: Grant, gate: asyncio.Semaphore) -> None:
        async with gate:
            if grant.state is GrantState.ISSUED:
                await self.end(grant.id, GrantState.EXPIRED, "its lifetime was over", by="exchanged")
            elif grant.state is GrantState.INTENDED:
                # Its token was never released: a token leaves only after its outcome is on record.
                why = "the daemon stopped before the outcome was recorded"
                await self.end(grant.id, GrantState.FAILED, why, by="exchanged", give_back=True)
            else:
                await self.withdraw(grant)

    def _put_off(self, grant_id: GrantId) -> None:
        pause, _ = self._retry.get(grant_id, (FIRST_PAUSE / 2, 0.0))
        pause = min(pause * 2, LONGEST_PAUSE)
        jittered = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        self._retry[grant_id] = (pause, asyncio.get_running_loop().time() + jittered)

    async def _sweep(self, cluster: ClusterName, mode: ClusterMode) -> None:
        while True:
            try:
                for swept in await mode.sweep(self._is_known, self._clock()):
                    await self._store.append(entries.swept(cluster, swept, self._clock()))
            except ExchangeError as error:
                log.warning("sweep failed; it will be tried again", extra={"cluster": cluster, "detail": error.detail})
            await asyncio.sleep(SWEEP_INTERVAL.total_seconds())

    async def _is_known(self, grant_id: GrantId) -> bool:
        grant = await self._store.grant(grant_id)
        return grant is not None and grant.state is not GrantState.WITHDRAWN

    async def drain(self) -> None:
        """Waits for withdrawals that nobody else waits for."""
        if self._soon:
            await asyncio.wait(self._soon)
