import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exchanged.ending.sweeping import keep_sweeping
from exchanged.errors import ClusterUnavailable, Reason
from exchanged.log import entries
from exchanged.log.record import Record, RecordKind
from exchanged.model import ClusterName, ClusterObject, GrantId, GrantState, Plan
from exchanged.store.sqlite import SqliteStore
from tests.faults import refusing
from tests.grants import NOW, PROD, grant, intent
from tests.world import Faulty

LEFT = ClusterObject(kind="Role", namespace="web", name="left", uid="u")
Told = tuple[dict[GrantId, bool], datetime | None, frozenset[str]]


class Swept(Faulty):
    """A mode that tells what its sweeps were told, and fails the first one."""

    def __init__(self, asked: list[GrantId]) -> None:
        self.asked = asked
        self.told: asyncio.Queue[Told] = asyncio.Queue()
        self.failures = 1

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: frozenset[str],
    ) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        del now
        self.failures -= 1
        if self.failures == 0:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, "told to fail")
        self.told.put_nowait(({each: await is_known(each) for each in self.asked}, epoch, namespaces))
        return (LEFT,)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A fresh store."""
    opened = SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def test_a_sweep_knows_what_the_store_knows(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told what is not withdrawn, the epoch, and where else objects may be; what it deletes is on record."""
    monkeypatch.setattr("exchanged.ending.sweeping.SWEEP_INTERVAL", timedelta(0))
    before = NOW - timedelta(hours=1)
    await store.new_epoch(before, Record(kind=RecordKind.EPOCH, time=before))
    made = [grant(plan=Plan(user="u", objects=(LEFT,))) for _ in range(2)]
    for each in made:
        await store.begin(intent(grant=each))
    record = entries.ended(made[1].id, GrantState.REVOKED, "x", by="x", at=NOW)
    await store.end(made[1].id, GrantState.REVOKED, "x", record)
    await store.withdrawn(made[1].id, entries.withdrawn(made[1], NOW))
    mode = Swept([made[0].id, made[1].id, GrantId("unknown")])
    with refusing(monkeypatch, store, "due"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(keep_sweeping(PROD, mode, store, lambda: NOW), 0.05)
        assert mode.failures == 1
    sweeping = asyncio.create_task(keep_sweeping(PROD, mode, store, lambda: NOW))
    async with asyncio.timeout(5):
        told = [await mode.told.get() for _ in range(2)]
    sweeping.cancel()
    known = {made[0].id: True, made[1].id: False, GrantId("unknown"): False}
    assert told == [(known, before, frozenset({"web"}))] * 2
    assert "swept" in [stored.record.kind.value for stored in await store.records(after=0, limit=99)]


async def test_a_cluster_without_grants_is_swept_too(store: SqliteStore) -> None:
    """Without an epoch and without grants only what the mode itself is configured with is searched."""
    mode: Any = Swept([])
    mode.failures = 0
    sweeping = asyncio.create_task(keep_sweeping(ClusterName("x"), mode, store, lambda: NOW))
    async with asyncio.timeout(5):
        assert await mode.told.get() == ({}, None, frozenset())
    sweeping.cancel()
