"""Grants and records as rows, and back. Times are whole microseconds since 1970, UTC."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from exchanged.log.record import Record, RecordKind, StoredRecord
from exchanged.model import (
    REMEMBERED_DECISIONS,
    Allowed,
    ClusterName,
    ClusterObject,
    Grant,
    GrantId,
    GrantState,
    IdentityKind,
    IssuerName,
    Mode,
    Party,
    Plan,
    RequestId,
    Rule,
    TokenDigest,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECONDS_A_DAY = 86_400

SingleUse = tuple[int, str, str]
"""A token for one use: its end, its issuer, and its own id."""

GRANT_COLUMNS = (
    "id, state, cluster, policy, issuer, subject, job, created_at, expires_at, decision, credential_id, token_digest, "
    "objects, ended"
)
RECORD_COLUMNS = "sequence, time, kind, grant_id, request_id, body"


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    since = time - _EPOCH
    return (since.days * _SECONDS_A_DAY + since.seconds) * 1_000_000 + since.microseconds


def moment(value: int) -> datetime:
    """The time of these microseconds."""
    return _EPOCH + value * _MICROSECOND


def decision(grant: Grant, single_use: Sequence[SingleUse]) -> str:
    """The part of a grant that never changes, and the single uses it claims."""
    allowed, plan, actor = grant.allowed, grant.plan, grant.actor
    return _dump(
        {
            "mode": grant.mode,
            "kind": grant.subject.kind,
            "actor": [actor.issuer, actor.subject, actor.kind] if actor else None,
            "intent": grant.stated_intent,
            "request": grant.request_id,
            "source": grant.source,
            "single_use": single_use,
            "allowed": _allowed_row(allowed),
            "plan": [plan.user, plan.credential_id, _objects(plan.objects), plan.role_digest],
        }
    )


@lru_cache(maxsize=REMEMBERED_DECISIONS)
def _allowed_row(allowed: Allowed) -> Sequence[Any]:
    return [
        allowed.scope,
        allowed.policy_digest,
        allowed.owner,
        allowed.function,
        allowed.namespaces,
        allowed.cluster_scoped,
        [[rule.api_groups, rule.resources, rule.verbs, rule.resource_names] for rule in allowed.rules],
        allowed.cluster_role,
        allowed.acknowledged,
        allowed.workload_accounts,
        allowed.lifetime // _MICROSECOND,
    ]


def objects(made: tuple[ClusterObject, ...]) -> str:
    """Objects as JSON."""
    return _dump(_objects(made)) if made else "[]"


def single_uses(text: str) -> list[SingleUse]:
    """What a decision's grant claimed."""
    return [(expires_at, issuer, token) for expires_at, issuer, token in orjson.loads(text)["single_use"]]


def grant(row: tuple[Any, ...]) -> Grant:
    """A grant from its GRANT_COLUMNS."""
    (
        grant_id,
        state,
        cluster,
        policy,
        issuer,
        subject,
        job,
        created_at,
        expires_at,
        text,
        credential_id,
        token_digest,
        made,
        ended,
    ) = row
    fixed = orjson.loads(text)
    actor = fixed["actor"]
    user, planned_id, planned, role_digest = fixed["plan"]
    return Grant(
        id=GrantId(grant_id),
        state=GrantState(state),
        mode=Mode(fixed["mode"]),
        allowed=_allowed(policy, ClusterName(cluster), fixed["allowed"]),
        plan=Plan(user=user, credential_id=planned_id, objects=_made(planned), role_digest=role_digest),
        subject=Party(issuer=IssuerName(issuer), subject=subject, kind=IdentityKind(fixed["kind"])),
        actor=Party(issuer=actor[0], subject=actor[1], kind=IdentityKind(actor[2])) if actor else None,
        job=job,
        stated_intent=fixed["intent"],
        request_id=RequestId(fixed["request"]),
        source=fixed["source"],
        created_at=moment(created_at),
        expires_at=moment(expires_at),
        credential_id=credential_id,
        token_digest=TokenDigest(token_digest) if token_digest is not None else None,
        objects=_made(orjson.loads(made)) if made != "[]" else (),
        ended=ended,
    )


def record_row(record: Record) -> tuple[int, str, str | None, str | None, str]:
    """A record's columns after its sequence."""
    return micros(record.time), str(record.kind), record.grant_id, record.request_id, _body(record.body)


def stored_record(row: tuple[Any, ...]) -> StoredRecord:
    """A record from its RECORD_COLUMNS."""
    sequence, time, kind, grant_id, request_id, body = row
    return StoredRecord(
        sequence=sequence,
        record=Record(
            kind=RecordKind(kind), time=moment(time), grant_id=grant_id, request_id=request_id, body=orjson.loads(body)
        ),
    )


def _body(body: Mapping[str, Any]) -> str:
    return _dump(body)


def _objects(made: tuple[ClusterObject, ...]) -> list[list[str]]:
    return [[each.kind, each.namespace, each.name, each.uid] for each in made]


def _made(rows: list[list[str]]) -> tuple[ClusterObject, ...]:
    return tuple(ClusterObject(kind=row[0], namespace=row[1], name=row[2], uid=row[3]) for row in rows)


def _allowed(policy: str, cluster: ClusterName, row: list[Any]) -> Allowed:
    scope, digest, owner, function, namespaces, cluster_scoped, rules, role, acknowledged, accounts, lifetime = row
    return Allowed(
        policy=policy,
        scope=scope,
        policy_digest=digest,
        owner=owner,
        function=function,
        cluster=cluster,
        namespaces=tuple(namespaces),
        cluster_scoped=cluster_scoped,
        rules=tuple(
            Rule(
                api_groups=tuple(rule[0]), resources=tuple(rule[1]), verbs=tuple(rule[2]), resource_names=tuple(rule[3])
            )
            for rule in rules
        ),
        cluster_role=role,
        acknowledged=tuple(acknowledged),
        workload_accounts=tuple(accounts),
        lifetime=lifetime * _MICROSECOND,
    )
