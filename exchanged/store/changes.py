"""The changes of the SQLite store: each checks first and writes after, within a transaction that others share."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from exchanged.errors import ActorTokenRejected, MalformedRequest, Reason, SubjectTokenRejected, TooManyRequests
from exchanged.log import entries
from exchanged.log.record import Record
from exchanged.model import Grant, GrantId, GrantState, Identity, IssuedToken, IssuerName
from exchanged.ports import Intent
from exchanged.store import codec
from exchanged.store.codec import SingleUse, micros

KEPT_AFTER_EXPIRY = timedelta(hours=1)
"""How long a used token is remembered after its end: longer than any leeway in judging it."""
PRUNED_AT_ONCE = 64
"""Used tokens forgotten at a time."""
PRUNING_IDS = "0"
"""Grants with an id that ends so forget some: one in sixteen, and of four times as many as were used since."""
RETRY = timedelta(seconds=30)
"""When a caller over a bound may try again: grants are short."""

Rejected = type[SubjectTokenRejected] | type[ActorTokenRejected]

_INTENDED, _ISSUED = GrantState.INTENDED.value, GrantState.ISSUED.value
_LIVE = "('intended', 'issued')"
_KNOWN = (
    "SELECT (SELECT at FROM revoked_subjects WHERE issuer = ?1 AND subject = ?2), "
    "(SELECT grant_id FROM used WHERE expires_at = ?3 AND issuer = ?1 AND token = ?4), "
    "(SELECT grants FROM live WHERE issuer = ?1 AND subject = ?2), "
    "(SELECT grants FROM live WHERE issuer = '' AND subject = ''), "
    "(SELECT count(*) FROM grants WHERE issuer = ?1 AND job = ?5 AND job <> '' AND outcome IS NOT 'failed')"
)
"""Of a party and its token: when revoked, used for which grant; live grants of it and in all, and those of its job."""
_GRANT = (
    "INSERT INTO grants (id, state, cluster, policy, issuer, subject, job, created_at, expires_at, due_at, decision, "
    "credential_id, token_digest, objects) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ENDED = "('failed', 'revoked', 'expired', 'returned')"


class Beginning(NamedTuple):
    """An intent with its rows. They are written out before the transaction in which others wait."""

    intent: Intent
    single_use: tuple[SingleUse, ...]
    grant_row: tuple[Any, ...]
    record_rows: tuple[Any, ...]


def beginning(intent: Intent) -> Beginning:
    """What `begin` is to write."""
    grant, token = intent.grant, intent.token
    single_use = tuple(
        (micros(party.expires_at), party.issuer, party.single_use)
        for party in intent.parties
        if party.single_use is not None
    )
    expires = micros(grant.expires_at)
    row = (
        grant.id,
        _ISSUED if token else _INTENDED,
        grant.cluster,
        grant.policy,
        grant.subject.issuer,
        grant.subject.subject,
        grant.job,
        micros(grant.created_at),
        expires,
        expires,
        codec.decision(grant, single_use),
        token.credential_id if token else "",
        token.digest if token else None,
        codec.objects(token.objects if token else ()),
    )
    return Beginning(intent, single_use, row, _rows(intent.records))


def begin(db: sqlite3.Connection, new: Beginning, epoch: int) -> Grant | None:
    """Claims and records a grant; returns the one it replaced (`Store.begin`)."""
    intent, single_use, grant = new.intent, new.single_use, new.intent.grant
    subject = _known(db, intent.parties[0], grant.job)
    _check_token(intent.parties[0], subject, SubjectTokenRejected, epoch)
    for actor in intent.parties[1:]:
        _check_token(actor, _known(db, actor), ActorTokenRejected, epoch)
    if intent.peer is not None:
        _check_token(intent.peer, _known(db, intent.peer), SubjectTokenRejected, epoch)
    if len(set(single_use)) < len(single_use):
        raise ActorTokenRejected(Reason.TOKEN_REPLAYED, "the subject token again")
    _check_bounds(intent, subject)
    replaced = _replaceable(db, intent)
    now = intent.records[0].time
    for token_of_one_use in single_use:
        db.execute("INSERT INTO used VALUES (?, ?, ?, ?)", (*token_of_one_use, grant.id))
    if single_use and grant.id.endswith(PRUNING_IDS):
        _forget_used(db, now)
    db.execute(_GRANT, new.grant_row)
    _count(db, grant.subject.issuer, grant.subject.subject, 1)
    db.execute(_insert_records(len(intent.records)), new.record_rows)
    if replaced is not None and replaced.state in {GrantState.INTENDED, GrantState.ISSUED}:
        why = f"replaced by {grant.id}"
        record = entries.ended(replaced.id, GrantState.REVOKED, why, by="holder", at=now)
        return end(db, replaced.id, GrantState.REVOKED, why, record)
    return None


def complete(db: sqlite3.Connection, grant_id: GrantId, token: IssuedToken, record: Record) -> bool:
    """Intended becomes issued (`Store.complete`)."""
    changed = db.execute(
        "UPDATE grants SET state = 'issued', credential_id = ?, token_digest = ?, objects = ? "
        "WHERE id = ? AND state = 'intended'",
        (token.credential_id, token.digest, codec.objects(token.objects), grant_id),
    ).rowcount
    if changed:
        append(db, record)
    return bool(changed)


def end(
    db: sqlite3.Connection,
    grant_id: GrantId,
    state: GrantState,
    why: str,
    record: Record,
    *,
    give_back: bool = False,
) -> Grant | None:
    """Intended or issued becomes one of the ends (`Store.end`)."""
    row = db.execute(
        f"UPDATE grants SET state = ?1, outcome = ?1, ended = ?2, due_at = 0 WHERE id = ?3 AND state IN {_LIVE} "  # noqa: S608
        f"RETURNING {codec.GRANT_COLUMNS}",
        (state.value, why, grant_id),
    ).fetchone()
    if row is None:
        return None
    grant = codec.grant(row)
    _count(db, grant.subject.issuer, grant.subject.subject, -1)
    _count_backlog(db, 1)
    if give_back:
        (text,) = db.execute("SELECT decision FROM grants WHERE id = ?", (grant_id,)).fetchone()
        for token_of_one_use in codec.single_uses(text):
            db.execute(
                "DELETE FROM used WHERE expires_at = ? AND issuer = ? AND token = ? AND grant_id = ?",
                (*token_of_one_use, grant_id),
            )
    append(db, record)
    return grant


def withdrawn(db: sqlite3.Connection, grant_id: GrantId, record: Record) -> bool:
    """An ended grant becomes withdrawn (`Store.withdrawn`)."""
    changed = db.execute(
        f"UPDATE grants SET state = 'withdrawn', due_at = NULL WHERE id = ? AND state IN {_ENDED}",  # noqa: S608 - a constant
        (grant_id,),
    ).rowcount
    if changed:
        _count_backlog(db, -1)
        append(db, record)
    return bool(changed)


def revoke_subject(db: sqlite3.Connection, issuer: IssuerName, subject: str, at: datetime, record: Record) -> None:
    """Older tokens of this subject are refused (`Store.revoke_subject`); an earlier revocation never moves back."""
    db.execute(
        "INSERT INTO revoked_subjects VALUES (?, ?, ?) "
        "ON CONFLICT (issuer, subject) DO UPDATE SET at = max(at, excluded.at)",
        (issuer, subject, micros(at)),
    )
    append(db, record)


def new_epoch(db: sqlite3.Connection, at: datetime, record: Record) -> int:
    """Every live grant ends, and older subject tokens are refused (`Store.new_epoch`)."""
    live = [GrantId(row[0]) for row in db.execute(f"SELECT id FROM grants WHERE state IN {_LIVE}")]  # noqa: S608
    why = "the store was restored"
    for grant_id in live:
        end(
            db,
            grant_id,
            GrantState.REVOKED,
            why,
            entries.ended(grant_id, GrantState.REVOKED, why, by="operator", at=at),
        )
    db.execute(
        "INSERT INTO meta VALUES ('epoch', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (micros(at),)
    )
    append(db, record)
    return len(live)


def append(db: sqlite3.Connection, record: Record) -> None:
    """Writes one record."""
    db.execute(_insert_records(1), _rows((record,)))


def _rows(records: Sequence[Record]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(map(codec.record_row, records)))


@cache
def _insert_records(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?)"] * count)
    return f"INSERT INTO records (time, kind, grant_id, request_id, body) VALUES {rows}"  # noqa: S608 - constants


class _Known(NamedTuple):
    """What the store knows of a party: see `_KNOWN`."""

    revoked_at: int | None
    used_for: str | None
    live: int | None
    live_in_all: int
    of_job: int


def _known(db: sqlite3.Connection, party: Identity, job: str = "") -> _Known:
    values = (party.issuer, party.subject, micros(party.expires_at), party.single_use, job)
    return _Known(*db.execute(_KNOWN, values).fetchone())


def _check_token(party: Identity, known: _Known, rejected: Rejected, epoch: int) -> None:
    """Not revoked since it was issued, and not used before if it is for one use."""
    issued = micros(party.issued_at)
    if issued <= epoch or (known.revoked_at is not None and issued <= known.revoked_at):
        raise rejected(Reason.SUBJECT_REVOKED, f"tokens of {party.issuer}/{party.subject} up to now are revoked")
    if known.used_for is not None:
        raise rejected(Reason.TOKEN_REPLAYED, f"used before, for grant {known.used_for}")


def _check_bounds(intent: Intent, known: _Known) -> None:
    bounds, who = intent.bounds, intent.grant.subject
    if (known.live or 0) >= bounds.live_per_subject:
        detail = f"{bounds.live_per_subject} live grants of {who.issuer}/{who.subject}"
        raise _too_many(Reason.TOO_MANY_LIVE_GRANTS, detail)
    if known.live_in_all >= bounds.live_in_all:
        raise _too_many(Reason.TOO_MANY_LIVE_GRANTS, f"{bounds.live_in_all} live grants in all")
    if intent.job_uses and known.of_job >= intent.job_uses:
        raise _too_many(Reason.JOB_EXHAUSTED, f"job {intent.grant.job} had {known.of_job} grants", retry=None)


def _too_many(reason: Reason, detail: str, retry: timedelta | None = RETRY) -> TooManyRequests:
    return TooManyRequests(reason, detail, retry_after=retry)


def _replaceable(db: sqlite3.Connection, intent: Intent) -> Grant | None:
    """The grant that the intent names, if it is of the same issuer and job; anybody else's is not to be had."""
    if intent.replaces is None:
        return None
    row = db.execute(
        f"SELECT {codec.GRANT_COLUMNS} FROM grants WHERE id = ?",  # noqa: S608 - a constant
        (intent.replaces,),
    ).fetchone()
    found = codec.grant(row) if row is not None else None
    grant = intent.grant
    if found is None or not grant.job or (found.subject.issuer, found.job) != (grant.subject.issuer, grant.job):
        raise MalformedRequest(
            Reason.PARAMETER_CONFLICT,
            f"{intent.replaces} is no grant of this job",
            public={"parameter": "replaces_grant_id"},
        )
    return found


def _forget_used(db: sqlite3.Connection, now: datetime) -> None:
    db.execute(
        "DELETE FROM used WHERE (expires_at, issuer, token) IN "
        "(SELECT expires_at, issuer, token FROM used WHERE expires_at < ? LIMIT ?)",
        (micros(now - KEPT_AFTER_EXPIRY), PRUNED_AT_ONCE),
    )


def _count(db: sqlite3.Connection, issuer: str, subject: str, by: int) -> None:
    db.execute(
        "INSERT INTO live VALUES (?1, ?2, ?3), ('', '', ?3) "
        "ON CONFLICT (issuer, subject) DO UPDATE SET grants = grants + excluded.grants",
        (issuer, subject, by),
    )


def _count_backlog(db: sqlite3.Connection, by: int) -> None:
    db.execute("UPDATE live SET grants = grants + ? WHERE issuer = '' AND subject = 'backlog'", (by,))
