"""What every store promises; a new one joins the parameters."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from exchanged.errors import (
    ActorTokenRejected,
    LogUnavailable,
    MalformedRequest,
    Reason,
    StoreUnavailable,
    SubjectTokenRejected,
    TooManyRequests,
)
from exchanged.log import entries
from exchanged.log.record import Record, RecordKind
from exchanged.model import ClusterName, Grant, GrantState, IssuerName
from exchanged.ports import Bounds, GrantQuery, Intent, Store
from exchanged.store.sqlite import SqliteStore
from tests.grants import NOW, PROD, allowed, grant, identity, intent, party, token


@pytest.fixture(params=["sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A fresh store of each kind."""
    assert request.param == "sqlite"
    opened = SqliteStore.open(tmp_path / "state")
    yield opened
    await opened.close()


async def _issued(store: Store, made: Intent | None = None) -> Grant:
    made = made or intent()
    await store.begin(made)
    given = token()
    assert await store.complete(made.grant.id, given, entries.issued(made.grant, given, NOW))
    found = await store.grant_by_token(given.digest)
    assert found is not None
    return found


async def _end(
    store: Store, ended: Grant, state: GrantState = GrantState.REVOKED, *, back: bool = False
) -> Grant | None:
    record = entries.ended(ended.id, state, "test", by="test", at=NOW)
    return await store.end(ended.id, state, "test", record, give_back=back)


async def test_one_token_is_not_two_proofs(store: Store) -> None:
    """A token for one use is not subject and actor at once, and the refusal leaves nothing behind."""
    who = identity()
    with pytest.raises(ActorTokenRejected) as refused:
        await store.begin(intent(who, who))
    assert refused.value.reason is Reason.TOKEN_REPLAYED
    assert await store.last_sequence() == 0
    assert await store.begin(intent(who)) is None


async def test_a_grant_goes_through_its_states(store: Store) -> None:
    """Intended, issued, revoked, withdrawn: each once, each with its record, and nothing of it is lost."""
    made = intent()
    assert await store.begin(made) is None
    assert await store.grant(made.grant.id) == made.grant
    issued = await _issued_token(store, made)
    assert issued.state is GrantState.ISSUED
    ended = await _end(store, issued)
    assert ended == replace(issued, state=GrantState.REVOKED, ended="test")
    assert await _end(store, issued) is None
    record = entries.withdrawn(issued, NOW)
    assert await store.withdrawn(issued.id, record)
    assert not await store.withdrawn(issued.id, record)
    kinds = [stored.record.kind for stored in await store.records(after=0, limit=10, grant_id=issued.id)]
    assert kinds == [RecordKind.INTENDED, RecordKind.ISSUED, RecordKind.REVOKED, RecordKind.WITHDRAWN]


async def _issued_token(store: Store, made: Intent) -> Grant:
    given = token()
    assert await store.complete(made.grant.id, given, entries.issued(made.grant, given, NOW))
    assert not await store.complete(made.grant.id, given, entries.issued(made.grant, given, NOW))
    found = await store.grant_by_token(given.digest)
    assert found is not None
    assert found.credential_id == given.credential_id
    return found


async def test_a_grant_whose_token_is_there_is_issued_at_once(store: Store) -> None:
    """With a token, the claim, both records and the state are one transaction; refused, none of it is there."""
    who, given = identity(), token()
    asked = intent(who)
    made = replace(asked, token=given, records=(*asked.records, entries.issued(asked.grant, given, NOW)))
    assert await store.begin(made) is None
    found = await store.grant_by_token(given.digest)
    assert found is not None
    assert found == replace(
        made.grant, state=GrantState.ISSUED, credential_id=given.credential_id, token_digest=given.digest
    )
    again = replace(made, grant=grant(), token=token())
    with pytest.raises(SubjectTokenRejected):
        await store.begin(again)
    assert await store.grant(again.grant.id) is None
    assert [stored.record.kind for stored in await store.records(after=0, limit=9)] == [
        RecordKind.INTENDED,
        RecordKind.ISSUED,
    ]
    assert (await store.counts()).live == 1


async def test_a_grant_that_was_ended_meanwhile_is_not_issued(store: Store) -> None:
    """Issuing is a compare-and-set: whoever comes after a revocation loses, and leaves no record of having won."""
    made = intent()
    await store.begin(made)
    assert await _end(store, made.grant) is not None
    given = token()
    assert not await store.complete(made.grant.id, given, entries.issued(made.grant, given, NOW))
    assert await store.grant_by_token(given.digest) is None


async def test_actors_and_everything_else_come_back(store: Store) -> None:
    """What a grant remembers of actor, rules and objects is what was put in."""
    who, actor = identity(), identity(subject="tool", single_use=None, job=None)
    rich = grant(
        actor=party(actor),
        stated_intent="a line",
        allowed=allowed(cluster_scoped=True, namespaces=(), cluster_role="x"),
    )
    await store.begin(intent(who, actor, grant=rich))
    assert await store.grant(rich.id) == rich


async def test_a_token_for_one_use_is_used_once(store: Store) -> None:
    """The same token is refused a second time, also as an actor's, until its own grant gives it back."""
    who = identity()
    first = intent(who)
    await store.begin(first)
    with pytest.raises(SubjectTokenRejected) as refused:
        await store.begin(intent(who))
    assert refused.value.reason is Reason.TOKEN_REPLAYED
    with pytest.raises(ActorTokenRejected):
        await store.begin(intent(identity(), who))
    other = intent()
    await store.begin(other)
    await _end(store, other.grant, GrantState.FAILED, back=True)
    with pytest.raises(SubjectTokenRejected):
        await store.begin(intent(who))
    await _end(store, first.grant, GrantState.FAILED, back=True)
    await store.begin(intent(who))


async def test_many_at_once_and_only_one_has_the_token(store: Store) -> None:
    """Of many exchanges with one token at the same moment exactly one begins."""
    who = identity()
    results = await asyncio.gather(*(store.begin(intent(who)) for _ in range(50)), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert all(result is None or isinstance(result, SubjectTokenRejected) for result in results)


async def test_revoked_subjects_are_refused(store: Store) -> None:
    """Tokens issued up to the revocation are refused, later ones are not; an earlier revocation moves nothing back."""
    who = identity()
    record = Record(kind=RecordKind.SUBJECT_REVOKED, time=NOW)
    await store.revoke_subject(who.issuer, who.subject, who.issued_at, record)
    await store.revoke_subject(who.issuer, who.subject, who.issued_at - timedelta(days=1), record)
    with pytest.raises(SubjectTokenRejected) as refused:
        await store.begin(intent(who))
    assert refused.value.reason is Reason.SUBJECT_REVOKED
    await store.begin(intent(replace(who, issued_at=who.issued_at + timedelta(seconds=1))))
    await store.begin(intent(identity(issuer=IssuerName("another"))))


async def test_a_revoked_peer_is_refused(store: Store) -> None:
    """Whose certificate a call came over must not be revoked either, though the token is somebody else's."""
    who = identity()
    peer = identity(issuer=IssuerName("acme"), subject="spiffe://acme.example/proxy", single_use=None)
    await store.begin(intent(identity(), peer=peer))
    record = Record(kind=RecordKind.SUBJECT_REVOKED, time=NOW)
    await store.revoke_subject(peer.issuer, peer.subject, peer.issued_at, record)
    before = await store.last_sequence()
    with pytest.raises(SubjectTokenRejected, match=r"acme/spiffe://acme\.example/proxy") as refused:
        await store.begin(intent(who, peer=peer))
    assert refused.value.reason is Reason.SUBJECT_REVOKED
    assert await store.last_sequence() == before
    # The subject's token was not used up by that, and a newer certificate of the same peer is good.
    await store.begin(intent(who, peer=replace(peer, issued_at=peer.issued_at + timedelta(seconds=1))))
    await store.begin(intent(identity(), peer=replace(peer, issuer=IssuerName("partner"))))
    await store.begin(intent(identity(), peer=replace(peer, subject="spiffe://acme.example/proxy/2")))


async def test_a_peer_of_before_the_epoch_is_refused(store: Store) -> None:
    """After a restore older certificates count as little as older tokens."""
    await store.new_epoch(NOW, Record(kind=RecordKind.EPOCH, time=NOW))
    new = identity(issued_at=NOW + timedelta(seconds=1))
    with pytest.raises(SubjectTokenRejected) as refused:
        await store.begin(intent(new, peer=identity(single_use=None)))
    assert refused.value.reason is Reason.SUBJECT_REVOKED
    await store.begin(intent(new, peer=identity(single_use=None, issued_at=NOW + timedelta(seconds=1))))


async def test_a_peer_is_counted_nowhere(store: Store) -> None:
    """Bounds are the subject's: over one certificate there may be calls for many."""
    peer = identity(subject="proxy", single_use=None)
    tight = Bounds(live_per_subject=1, live_in_all=100)
    for number in range(3):
        await store.begin(intent(identity(subject=f"s{number}"), peer=peer, bounds=tight))
    assert (await store.counts()).live == 3


async def test_a_new_epoch_ends_everything(store: Store) -> None:
    """After a restore all live grants are revoked, and older tokens refused."""
    live, ended = await _issued(store), await _issued(store)
    await _end(store, ended)
    assert store.epoch is None
    assert await store.new_epoch(NOW, Record(kind=RecordKind.EPOCH, time=NOW)) == 1
    assert store.epoch == NOW
    found = await store.grant(live.id)
    assert found is not None
    assert found.state is GrantState.REVOKED
    with pytest.raises(SubjectTokenRejected):
        await store.begin(intent())
    await store.begin(intent(identity(issued_at=NOW + timedelta(seconds=1))))


async def test_bounds_on_live_grants(store: Store) -> None:
    """A subject has as many live grants as it may, all subjects together too; an ended one makes room."""
    who = identity(job=None, job_uses=0)

    def asked(**bounds: int) -> Intent:
        fresh = replace(who, single_use=None)
        return intent(fresh, bounds=Bounds(**({"live_per_subject": 2, "live_in_all": 100} | bounds)))

    first = await _issued(store, asked())
    await store.begin(asked())
    for refused in (asked(), asked(live_per_subject=100, live_in_all=2), asked(live_per_subject=0)):
        with pytest.raises(TooManyRequests) as error:
            await store.begin(refused)
        assert error.value.reason is Reason.TOO_MANY_LIVE_GRANTS
        assert error.value.retry_after
    assert (await store.counts()).live == 2
    await _end(store, first)
    counts = await store.counts()
    assert (counts.live, counts.backlog) == (1, 1)
    await store.begin(asked())
    await store.withdrawn(first.id, entries.withdrawn(first, NOW))
    assert (await store.counts()).backlog == 0


async def test_a_job_has_so_many_grants_and_no_more(store: Store) -> None:
    """The cap counts all of a job's grants but failed ones."""

    def asked() -> Intent:
        return intent(identity(job="j", job_uses=2))

    failed = asked()
    await store.begin(failed)
    await _end(store, failed.grant, GrantState.FAILED)
    await _end(store, await _issued(store, asked()))
    await store.begin(asked())
    with pytest.raises(TooManyRequests) as error:
        await store.begin(asked())
    assert error.value.reason is Reason.JOB_EXHAUSTED


async def test_only_a_grant_of_the_same_job_is_replaced(store: Store) -> None:
    """A job may name its own earlier grant, which ends; nobody else's, and none that is not there."""
    mine = await _issued(store, intent(identity(job="j")))
    replaced = await store.begin(intent(identity(job="j"), replaces=mine.id))
    assert replaced is not None
    assert (replaced.id, replaced.state) == (mine.id, GrantState.REVOKED)
    assert await store.begin(intent(identity(job="j"), replaces=mine.id)) is None
    others = (
        intent(identity(job="k"), replaces=mine.id),
        intent(identity(job="j", issuer=IssuerName("another")), replaces=mine.id),
        intent(identity(job=None), replaces=mine.id),
        intent(identity(job="j"), replaces=grant().id),
    )
    for other in others:
        with pytest.raises(MalformedRequest):
            await store.begin(other)
        assert await store.grant(other.grant.id) is None


async def test_what_is_due(store: Store) -> None:
    """Due is what has ended and what has expired, at its cluster; what lives and what is withdrawn is not."""
    live = await _issued(store)
    short = intent(grant=grant(expires_at=NOW + timedelta(seconds=5)))
    expiring = await _issued(store, short)
    ended = await _issued(store)
    await _end(store, ended)
    gone = await _issued(store)
    await _end(store, gone)
    await store.withdrawn(gone.id, entries.withdrawn(gone, NOW))

    async def due(seconds: int) -> set[str]:
        return {each.id for each in await store.due(NOW + timedelta(seconds=seconds), 10, cluster=PROD)}

    assert await due(4) == {ended.id}
    assert await due(5) == {ended.id, expiring.id}
    assert await due(10_000) == {ended.id, expiring.id, live.id}
    assert len(await store.due(NOW + timedelta(hours=3), 2, cluster=PROD)) == 2
    assert not await store.due(NOW + timedelta(hours=3), 10, cluster=ClusterName("another"))


async def test_what_is_unfinished_is_counted_by_cluster(store: Store) -> None:
    """Live and ended grants count for their cluster until they are withdrawn."""
    assert await store.unfinished() == {}
    for name in ("a", "b", "b"):
        await _issued(store, intent(grant=grant(allowed=allowed(cluster=ClusterName(name)))))
    ended = await _issued(store)
    await _end(store, ended)
    assert await store.unfinished() == {"a": 1, "b": 2, PROD: 1}
    await store.withdrawn(ended.id, entries.withdrawn(ended, NOW))
    assert await store.unfinished() == {"a": 1, "b": 2}


async def test_listing_grants(store: Store) -> None:
    """Grants are listed newest first, by what is asked for, page by page."""
    made = [await _issued(store, intent(identity(subject=f"s{number % 2}"))) for number in range(4)]
    await _end(store, made[0])
    ids = [each.id for each in made]

    async def listed(**query: object) -> list[str]:
        return [each.id for each in await store.grants(GrantQuery(**query))]  # type: ignore[arg-type] # any field

    assert await listed() == ids[::-1]
    assert await listed(limit=2) == ids[:1:-1]
    assert await listed(before=ids[2]) == [ids[1], ids[0]]
    assert await listed(live_only=True) == ids[:0:-1]
    assert await listed(subject="s1", issuer=IssuerName("github")) == [ids[3], ids[1]]
    assert await listed(state=GrantState.REVOKED, cluster=PROD, policy="deploy-web") == [ids[0]]
    assert await listed(policy="another") == []


async def test_records_are_in_order_and_without_gaps(store: Store) -> None:
    """Sequences count from 1; what was refused leaves none."""
    who = identity()
    await store.begin(intent(who))
    await asyncio.gather(*(store.begin(intent(who)) for _ in range(5)), return_exceptions=True)
    await asyncio.gather(*(store.append(Record(kind=RecordKind.REFUSED, time=NOW, body={"n": n})) for n in range(5)))
    records = await store.records(after=0, limit=100)
    assert [stored.sequence for stored in records] == list(range(1, 7))
    assert await store.last_sequence() == 6
    assert [stored.record.body for stored in await store.records(after=5, limit=1)] == [{"n": 4}]


async def test_a_closed_store_says_so(store: Store) -> None:
    """After closing, everything is refused as unavailable."""
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.grant(grant().id)
    with pytest.raises(StoreUnavailable):
        await store.begin(intent())
    with pytest.raises(LogUnavailable):
        await store.append(Record(kind=RecordKind.REFUSED, time=NOW))
