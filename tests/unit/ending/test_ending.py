import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exchanged.ending.endings import Endings
from exchanged.errors import StoreUnavailable
from exchanged.keys.signing import KeyRing
from exchanged.log import entries
from exchanged.model import ClusterName, ClusterObject, Grant, GrantId, GrantState, Mode, Plan
from exchanged.store.sqlite import SqliteStore
from tests.faults import refusing
from tests.grants import NOW, PROD, allowed, grant, intent, token, traits
from tests.world import Faulty

OTHER = ClusterName("other")
ACCOUNT = ClusterObject(kind="ServiceAccount", namespace="grants", name="x")
LATER = NOW + timedelta(hours=1)


class Noting(Faulty):
    """A mode that notes, and that fails as nobody foresaw for some grants, or altogether."""

    unforeseen: frozenset[GrantId] | None = frozenset()
    failed: asyncio.Event

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`."""
        if self.gate is not None:
            await self.gate.wait()
        if self.unforeseen is None or grant.id in self.unforeseen:
            self.failed.set()
            raise ValueError("nobody foresaw this")
        await super().withdraw(grant)

    async def sweep(self, *arguments: Any, **options: Any) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        del arguments, options
        if self.unforeseen is None:
            raise ValueError("nobody foresaw this")
        return ()


@dataclass(slots=True)
class Made:
    """Endings over a real store, an hour after all grants expired."""

    store: SqliteStore
    modes: dict[ClusterName, Noting]
    time: datetime = LATER
    endings: Endings = field(init=False)

    def __post_init__(self) -> None:
        self.endings = Endings(store=self.store, clusters=self.modes, clock=lambda: self.time)

    async def issued(self, cluster: ClusterName = PROD, **changes: Any) -> Grant:
        """A grant with something at its cluster."""
        usual: dict[str, Any] = {
            "mode": Mode.BINDINGS,
            "allowed": allowed(cluster=cluster),
            "plan": Plan(user="u", objects=(ACCOUNT,)),
        }
        made = grant(**(usual | changes))
        await self.store.begin(intent(grant=made))
        await self.store.complete(made.id, token(), entries.issued(made, token(), NOW))
        return replace(made, state=GrantState.ISSUED)

    async def state(self, made: Grant) -> GrantState:
        """Where a grant stands."""
        found = await self.store.grant(made.id)
        assert found is not None
        return found.state

    async def until(self, made: Grant, state: GrantState) -> None:
        """Returns when a grant stands there."""
        async with asyncio.timeout(10):
            while await self.state(made) is not state:  # noqa: ASYNC110 - on disk
                await asyncio.sleep(0.001)


def _mode(folder: Path, name: ClusterName, mode: Mode = Mode.BINDINGS) -> Noting:
    keys = KeyRing(
        folder=folder,
        rotate_after=timedelta(days=30),
        publish_ahead=timedelta(days=1),
        longest_grant=timedelta(hours=1),
        clock=lambda: NOW,
    )
    made = Noting(traits=traits(name=name, mode=mode), keys=keys, issuer="https://x", audience="x")
    made.note()
    made.failed = asyncio.Event()
    return made


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    """Two clusters in mode bindings."""
    store = SqliteStore.open(tmp_path / "state")
    yield Made(store, {name: _mode(tmp_path, name) for name in (PROD, OTHER)})
    await store.close()


async def test_a_broken_cluster_holds_up_no_other(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw at one cluster, in its withdrawals and its sweeps, ends no withdrawal at another."""
    monkeypatch.setattr("exchanged.background.PAUSE_SECONDS", 0.01)
    broken, whole = made.modes[PROD], made.modes[OTHER]
    broken.unforeseen, whole.gate = None, asyncio.Event()
    await made.issued()
    theirs = await made.issued(OTHER)
    running = asyncio.create_task(made.endings.run())
    await broken.failed.wait()
    whole.gate.set()
    await made.until(theirs, GrantState.WITHDRAWN)
    running.cancel()
    await asyncio.wait([running])
    assert whole.withdrawn == [theirs.id]


async def test_a_grant_that_fails_as_nobody_foresaw_is_put_off(made: Made) -> None:
    """It is tried again later, and not at once; the others are withdrawn by the same look."""
    first, second = await made.issued(), await made.issued()
    made.modes[PROD].unforeseen = frozenset({first.id})
    assert await made.endings.look(PROD) == 2
    assert (await made.state(first), await made.state(second)) == (GrantState.EXPIRED, GrantState.WITHDRAWN)
    assert await made.endings.look(PROD) == 0
    made.modes[PROD].unforeseen = frozenset()
    made.endings._retry.clear()
    assert await made.endings.look(PROD) == 1
    assert await made.state(first) is GrantState.WITHDRAWN


async def test_another_mode_withdraws_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a cluster changed its mode, a grant of the old one is backlog, and is not said to be withdrawn."""
    store = SqliteStore.open(tmp_path / "state")
    made = Made(store, {PROD: _mode(tmp_path, PROD, Mode.AUTHORIZER)})
    bound = await made.issued()
    ended = await made.endings.end(bound.id, GrantState.REVOKED, "test", by="test")
    assert ended is not None
    assert await made.state(bound) is GrantState.REVOKED
    assert (await store.counts()).backlog == 1
    assert made.modes[PROD].withdrawn == []
    assert "withdrawal failed" in caplog.text
    await store.close()


async def test_grants_of_a_cluster_that_is_gone_end_at_their_expiry(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """They count as live no more, what has nothing there is withdrawn, and the rest is told as backlog."""
    gone = ClusterName("gone")
    bound = await made.issued(gone)
    signed = await made.issued(gone, mode=Mode.AUTHORIZER, plan=Plan(user="u", credential_id="c"))
    alive = await made.issued(gone, expires_at=LATER + timedelta(hours=1))
    assert await made.endings.elsewhere() == {gone: 3}
    running = asyncio.create_task(made.endings.run())
    await made.until(bound, GrantState.EXPIRED)
    await made.until(signed, GrantState.WITHDRAWN)
    async with asyncio.timeout(10):
        while "not configured have unfinished" not in caplog.text:  # noqa: ASYNC110 - a log
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert await made.state(alive) is GrantState.ISSUED
    assert ((await made.store.counts()).live, (await made.store.counts()).backlog) == (1, 1)
    assert await made.endings.elsewhere() == {gone: 2}


async def test_an_expiry_that_cannot_be_recorded_is_an_expiry(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the disk full an expired grant is taken from its cluster, once, and recorded when there is room again."""
    expired = await made.issued()
    with refusing(monkeypatch, made.store):
        for _ in range(3):
            await made.endings.look(PROD)
            made.endings._retry.clear()
        assert made.modes[PROD].withdrawn == [expired.id]
        assert await made.state(expired) is GrantState.ISSUED
    made.endings._late._pauses.clear()
    await made.endings.look(PROD)
    assert await made.state(expired) is GrantState.WITHDRAWN
    kinds = [stored.record.kind.value for stored in await made.store.records(after=2, limit=9)]
    assert kinds == ["expired", "withdrawn"]


async def test_a_revocation_that_cannot_be_recorded_cuts_all_the_same(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever revokes is told that it is not on record; the cluster forgets the grant, and the record follows."""
    made.time = NOW
    live = await made.issued()
    with refusing(monkeypatch, made.store):
        with pytest.raises(StoreUnavailable):
            await made.endings.end(live.id, GrantState.REVOKED, "stolen", by="test")
        assert made.modes[PROD].withdrawn == [live.id]
    await made.endings.look(OTHER)
    assert await made.state(live) is GrantState.ISSUED
    await made.endings.look(PROD)
    found = await made.store.grant(live.id)
    assert found is not None
    assert (found.state, found.ended) == (GrantState.WITHDRAWN, "stolen")


async def test_a_cut_that_failed_is_tried_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither store nor cluster were there; the cluster is back first, and the grant is cut before it is recorded."""
    made.time = NOW
    live = await made.issued()
    with refusing(monkeypatch, made.store):
        made.modes[PROD].fail_withdraw = True
        with pytest.raises(StoreUnavailable):
            await made.endings.end(live.id, GrantState.REVOKED, "stolen", by="test")
        made.modes[PROD].fail_withdraw = False
        await made.endings.look(PROD)
        assert made.modes[PROD].withdrawn == []
        made.endings._retry.clear()
        await made.endings.look(PROD)
        assert made.modes[PROD].withdrawn == [live.id]


async def test_an_end_is_remembered_though_the_store_cannot_be_read(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to go by but the id, the grant is cut when it can be told what it has, and recorded then."""
    made.time = NOW
    live = await made.issued()
    with refusing(monkeypatch, made.store):
        with refusing(monkeypatch, made.store, "grant"), pytest.raises(StoreUnavailable):
            await made.endings.end(live.id, GrantState.REVOKED, "stolen", by="test")
        assert made.modes[PROD].withdrawn == []
        await made.endings.look(OTHER)
        assert made.modes[PROD].withdrawn == [live.id]
    made.endings._late._pauses.clear()
    await made.endings.look(PROD)
    assert await made.state(live) is GrantState.WITHDRAWN


async def test_what_does_not_live_is_not_remembered(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end of nothing, or of what has ended, is no work for later."""
    ended = await made.issued()
    await made.endings.end(ended.id, GrantState.REVOKED, "test", by="test")
    with refusing(monkeypatch, made.store):
        for grant_id in (ended.id, GrantId("unknown")):
            with pytest.raises(StoreUnavailable):
                await made.endings.end(grant_id, GrantState.REVOKED, "again", by="test")
    assert len(made.endings._late) == 0


async def test_an_end_that_the_store_never_takes_blocks_no_other(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look begins with another one."""
    made.time = NOW
    bad, good = await made.issued(), await made.issued()
    with refusing(monkeypatch, made.store):
        for each in (bad, good):
            with pytest.raises(StoreUnavailable):
                await made.endings.end(each.id, GrantState.REVOKED, "test", by="test")
    with refusing(monkeypatch, made.store, "end", only=bad.id):
        await made.endings.look(PROD)
        made.endings._late._pauses.clear()
        await made.endings.look(PROD)
        assert (await made.state(bad), await made.state(good)) == (GrantState.ISSUED, GrantState.WITHDRAWN)
        assert bad.id in made.endings._late


async def test_a_grant_that_is_being_made_is_cut_by_whoever_makes_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation that cannot be recorded leaves the cluster to the exchange under way; a failed one does not."""
    making = await made.issued()
    made.endings.in_flight.add(making.id)
    with refusing(monkeypatch, made.store):
        with pytest.raises(StoreUnavailable):
            await made.endings.end(making.id, GrantState.REVOKED, "test", by="test")
        assert made.modes[PROD].withdrawn == []
        with pytest.raises(StoreUnavailable):
            await made.endings.end(making.id, GrantState.FAILED, "test", by="test", give_back=True)
        assert made.modes[PROD].withdrawn == [making.id]
