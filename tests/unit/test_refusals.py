import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from exchanged.errors import PolicyDenied, Reason, StoreUnavailable, SubjectTokenRejected
from exchanged.log import entries
from exchanged.model import AuthorizationDetail, IssuerName
from exchanged.refusals import PER_ISSUER, PER_SUBJECT, Refusals
from exchanged.store.sqlite import SqliteStore
from tests.grants import NOW, context, identity, request

DENIED = PolicyDenied(Reason.NO_POLICY, "nothing matches")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store."""
    opened = SqliteStore.open(tmp_path / "state")
    yield opened
    await opened.close()


def _refusals(store: SqliteStore) -> Refusals:
    return Refusals(store=store, clock=lambda: NOW, unverified_per_minute=2)


async def _bodies(store: SqliteStore) -> list[Any]:
    found: list[Any] = []
    while records := await store.records(after=len(found), limit=1_000):
        found += [stored.record.body for stored in records]
    return found


async def test_one_subject_cannot_fill_the_log(store: SqliteStore) -> None:
    """A subject's refusals leave so many records a minute; what was left out stands in the next of its issuer."""
    refusals, flooding = _refusals(store), identity(subject="repo:evil/x")
    for _ in range(PER_SUBJECT + 70):
        await refusals.record(DENIED, request(), context(), flooding, None)
    assert len(await _bodies(store)) == PER_SUBJECT
    await refusals.record(DENIED, request(), context(), identity(subject="repo:acme/web"), None)
    bodies = await _bodies(store)
    assert (len(bodies), bodies[-1]["left_out"]) == (PER_SUBJECT + 1, 70)
    assert not any("left_out" in body for body in bodies[:-1])
    await refusals.record(DENIED, request(), context(time=NOW + timedelta(minutes=2)), flooding, None)
    assert "left_out" not in (await _bodies(store))[-1]


async def test_many_subjects_of_one_issuer_cannot_either(store: SqliteStore) -> None:
    """All subjects of an issuer together leave so many records a minute; another issuer's are not among them."""
    refusals = _refusals(store)
    for number in range(PER_ISSUER + 50):
        await refusals.record(DENIED, request(), context(), identity(subject=f"repo:evil/{number}"), None)
    assert len(await _bodies(store)) == PER_ISSUER
    other = identity(issuer=IssuerName("gitlab"))
    await refusals.record(DENIED, request(), context(), other, None)
    assert (await _bodies(store))[-1]["subject"]["issuer"] == "gitlab"


async def test_tokens_that_are_only_signed_are_bounded_too(store: SqliteStore) -> None:
    """An expired token is some issuer's: its refusals are on record, and bounded like one issuer's."""
    refusals = _refusals(store)
    expired = SubjectTokenRejected(Reason.TOKEN_EXPIRED, "expired", verified=True)
    for _ in range(PER_ISSUER + 5):
        await refusals.record(expired, request(), context(), None, None)
    assert len(await _bodies(store)) == PER_ISSUER


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)])
async def test_a_clock_that_was_set_stops_no_record(store: SqliteStore, step: timedelta) -> None:
    """After a step of the clock, forward or back, refusals are recorded again."""
    refusals = _refusals(store)
    unknown = SubjectTokenRejected(Reason.TOKEN_MALFORMED, "")
    for _ in range(5):
        await refusals.record(unknown, request(), context(), None, None)
    assert len(await _bodies(store)) == 2
    await refusals.record(unknown, request(), context(time=NOW + step), None, None)
    assert (await _bodies(store))[-1]["left_out"] == 3


async def test_a_little_out_of_order_begins_no_window(store: SqliteStore) -> None:
    """Calls are not recorded in the order in which they came, and that gives nobody more records."""
    refusals = _refusals(store)
    for number in range(20):
        time = NOW + timedelta(milliseconds=(-1) ** number)
        await refusals.record(SubjectTokenRejected(Reason.TOKEN_MALFORMED), request(), context(time=time), None, None)
    assert len(await _bodies(store)) == 2


async def test_what_was_asked_is_shown_within_a_bound(store: SqliteStore) -> None:
    """A refusal's record shows a short request as it was, and of a long one counts, beginnings and a digest."""
    refusals = _refusals(store)
    long = AuthorizationDetail(resources=("r" * 500,) * 60, verbs=("v" * 500,) * 60)
    asked = request(authorization_details=(long,) * 4, audience=("prod",), lifetime=timedelta(seconds=60))
    await refusals.record(DENIED, request(), context(), identity(), None)
    await refusals.record(DENIED, asked, context(), identity(), None)
    short, bounded = (body["asked"] for body in await _bodies(store))
    assert short == {"audience": ["prod"], "scope": ["deploy-web/rollout"]}
    assert len(json.dumps(bounded)) <= entries.ASKED_BYTES
    assert bounded["bytes"] > 200_000
    assert (bounded["authorization_details"]["count"], bounded["lifetime"]) == (4, 60)
    assert bounded["audience"] == {"count": 1, "first": "prod"}
    assert len(bounded["sha256"]) == 64


async def test_what_a_door_turned_away_is_sampled(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a stranger's; and where it cannot be recorded, its caller is told no other thing for it."""
    refusals = _refusals(store)
    for _ in range(4):
        await refusals.turned_away(DENIED, context())
    assert [body["left_out"] for body in await _bodies(store)] == [0, 0]

    async def fails(_: object) -> None:
        raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "disk full")

    monkeypatch.setattr(store, "append", fails)
    await refusals.turned_away(DENIED, context(time=NOW + timedelta(hours=1)))
    assert "could not be recorded" in caplog.text
