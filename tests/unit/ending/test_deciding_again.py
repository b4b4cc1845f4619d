from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from exchanged.ending import end_where
from exchanged.ending.deciding_again import decide_again
from exchanged.ending.endings import Endings
from exchanged.errors import ClusterUnavailable, Reason, ScopeDenied, StoreUnavailable
from exchanged.log import entries
from exchanged.model import Allowed, Grant, GrantId, GrantState, Plan
from exchanged.store.sqlite import SqliteStore
from tests.faults import refusing
from tests.grants import NOW, PROD, allowed, grant, intent, token, traits
from tests.world import Faulty


class Deciding(Faulty):
    """A mode whose role grew: one policy would not be granted any more."""

    def __init__(self) -> None:
        self._traits = traits()
        self.unknown: str | None = None
        self.note()

    def unready(self) -> str | None:
        """See `ClusterMode.unready`."""
        return self.unknown

    def plan(self, grant_id: GrantId, allowed: Allowed) -> Plan:
        """See `ClusterMode.plan`."""
        del grant_id
        if allowed.policy == "grew":
            raise ScopeDenied(Reason.BREEDING_NOT_ACKNOWLEDGED, "holds secrets")
        return Plan(user="u", role_digest="another")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A fresh store."""
    opened = SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def _issued(store: SqliteStore, policy: str, digest: str = "d") -> Grant:
    made = grant(allowed=allowed(policy=policy), plan=Plan(user="u", role_digest=digest))
    made = replace(made, expires_at=NOW + timedelta(hours=1))
    await store.begin(intent(grant=made))
    await store.complete(made.id, token(), entries.issued(made, token(), NOW))
    return made


async def _state(store: SqliteStore, made: Grant) -> GrantState:
    found = await store.grant(made.id)
    assert found is not None
    return found.state


async def test_every_live_grant_is_decided_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: those that would be refused now end, and say why; all others live on."""
    monkeypatch.setattr(end_where, "PAGE", 2)
    oldest = await _issued(store, "grew")
    others = [await _issued(store, "fine") for _ in range(5)]
    exact = await _issued(store, "grew", digest="")
    intended = grant(allowed=allowed(policy="grew"), plan=Plan(user="u", role_digest="d"))
    await store.begin(intent(grant=intended))
    mode = Deciding()
    await decide_again(mode, store, Endings(store=store, clusters={PROD: mode}, clock=lambda: NOW))
    assert [await _state(store, each) for each in others] == [GrantState.ISSUED] * 5
    assert await _state(store, exact) is GrantState.ISSUED
    for ended in (oldest, intended):
        found = await store.grant(ended.id)
        assert found is not None
        assert found.state is GrantState.WITHDRAWN
        assert "holds secrets" in found.ended


async def test_what_cannot_be_recorded_is_not_done(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one end cannot be recorded the others are, and it is said that it was not all."""
    bad, good = await _issued(store, "grew"), await _issued(store, "grew")
    mode = Deciding()
    endings = Endings(store=store, clusters={PROD: mode}, clock=lambda: NOW)
    with refusing(monkeypatch, store, "end", only=bad.id), pytest.raises(StoreUnavailable):
        await decide_again(mode, store, endings)
    assert (await _state(store, bad), await _state(store, good)) == (GrantState.ISSUED, GrantState.WITHDRAWN)
    await decide_again(mode, store, endings)
    assert await _state(store, bad) is GrantState.WITHDRAWN


async def test_roles_that_are_not_known_end_nothing(store: SqliteStore) -> None:
    """While the cluster cannot be watched live grants live, and are decided again when it can."""
    bad = await _issued(store, "grew")
    mode = Deciding()
    mode.unknown = "not read"
    endings = Endings(store=store, clusters={PROD: mode}, clock=lambda: NOW)
    with pytest.raises(ClusterUnavailable, match="not read"):
        await decide_again(mode, store, endings)
    assert await _state(store, bad) is GrantState.ISSUED
