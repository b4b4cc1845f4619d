from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from exchanged.ending import end_where
from exchanged.ending.deciding_again import decide_again, end_of_untrusted
from exchanged.ending.endings import Endings
from exchanged.errors import ClusterUnavailable, Reason, ScopeDenied, StoreUnavailable
from exchanged.log import entries
from exchanged.model import Allowed, Grant, GrantId, GrantState, IssuerName, Plan
from exchanged.store.sqlite import SqliteStore
from tests.faults import refusing
from tests.grants import NOW, PROD, allowed, grant, identity, intent, party, token, traits
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


async def _vouched(store: SqliteStore, subject: str, actor: str | None = None, *, complete: bool = True) -> Grant:
    """A grant of a subject, and an actor, of these issuers."""
    who = identity(issuer=IssuerName(subject))
    acting = identity(issuer=IssuerName(actor), subject="tool") if actor else None
    remembered = party(acting) if acting else None
    made = grant(subject=party(who), actor=remembered, expires_at=NOW + timedelta(hours=1))
    await store.begin(intent(who, acting, grant=made))
    if complete:
        await store.complete(made.id, token(), entries.issued(made, token(), NOW))
    return made


async def _end_of(store: SqliteStore, *issuers: str) -> None:
    """What happens when these issuers are not trusted any more."""
    mode = Deciding()
    endings = Endings(store=store, clusters={PROD: mode}, clock=lambda: NOW)
    await end_of_untrusted(lambda issuer: issuer not in issuers, "has no bundle any more", store, endings)


async def test_grants_of_who_is_not_trusted_end(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subject or actor, issued or still intended, on whatever page: their grants end, and say why; all others live."""
    monkeypatch.setattr(end_where, "PAGE", 2)
    gone = [
        await _vouched(store, "partner"),
        await _vouched(store, "acme", "partner"),
        await _vouched(store, "partner", "acme"),
        await _vouched(store, "partner", complete=False),
    ]
    kept = [await _vouched(store, "acme"), await _vouched(store, "acme", "tools"), await _vouched(store, "partner-2")]
    await _end_of(store, "partner")
    assert [await _state(store, each) for each in kept] == [GrantState.ISSUED] * 3
    for ended in gone:
        found = await store.grant(ended.id)
        assert found is not None
        assert (found.state, found.ended) == (GrantState.WITHDRAWN, "issuer partner has no bundle any more")
    records = await store.records(after=0, limit=100, grant_id=gone[0].id)
    assert [stored.record.kind.value for stored in records][-2:] == ["revoked", "withdrawn"]


async def test_everybody_is_trusted(store: SqliteStore) -> None:
    """Where all are trusted nothing ends."""
    made = await _vouched(store, "acme", "partner")
    await _end_of(store, "elsewhere")
    assert await _state(store, made) is GrantState.ISSUED


async def test_an_end_that_cannot_be_recorded_is_told(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The grants that can be ended are; for the others it is said that it was not all, and done when asked again."""
    bad, good = await _vouched(store, "partner"), await _vouched(store, "partner")
    with refusing(monkeypatch, store, "end", only=bad.id), pytest.raises(StoreUnavailable):
        await _end_of(store, "partner")
    assert (await _state(store, bad), await _state(store, good)) == (GrantState.ISSUED, GrantState.WITHDRAWN)
    await _end_of(store, "partner")
    assert await _state(store, bad) is GrantState.WITHDRAWN
