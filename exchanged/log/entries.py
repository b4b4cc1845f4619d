"""What each record says. JSON values only, text from callers as data, and never a token."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from exchanged.errors import ExchangeError
from exchanged.log.record import Record, RecordKind
from exchanged.model import (
    REMEMBERED_DECISIONS,
    Allowed,
    AuthorizationDetail,
    ClusterName,
    ClusterObject,
    ExchangeRequest,
    Grant,
    GrantId,
    GrantState,
    Identity,
    IssuedToken,
    RequestContext,
    RequestId,
    Rule,
)

_ENDS = {
    GrantState.FAILED: RecordKind.FAILED,
    GrantState.REVOKED: RecordKind.REVOKED,
    GrantState.EXPIRED: RecordKind.EXPIRED,
    GrantState.RETURNED: RecordKind.RETURNED,
}


ASKED_BYTES = 2_048
"""JSON of what was asked for, as a refusal's record shows it: whoever is refused does not say how much is kept."""
ASKED_SHOWN = 200
"""Characters of each of the first values that are shown of what is longer."""


def intended(
    grant: Grant, parties: tuple[Identity, ...], request: ExchangeRequest, peer: Identity | None = None
) -> Record:
    """The record of intent: who asked for what, what was decided and by which policy, what is about to be made.

    `peer` is whose certificate the call came over, where that is not the subject's proof itself.
    """
    body: dict[str, Any] = {
        "subject": identity(parties[0]),
        "asked": asked(request),
        "decided": decided(grant.allowed),
        "mode": grant.mode,
        "user": grant.plan.user,
        "expires_at": grant.expires_at,
        "source": grant.source,
    }
    if len(parties) > 1:
        body["actor"] = identity(parties[1])
    if peer is not None:
        body["peer"] = identity(peer)
    if grant.stated_intent:
        body["stated"] = {"intent": grant.stated_intent}
    if grant.job:
        body["job"] = grant.job
    if request.replaces:
        body["replaces"] = request.replaces
    if grant.plan.role_digest:
        body["role_digest"] = grant.plan.role_digest
    return Record(
        kind=RecordKind.INTENDED,
        time=grant.created_at,
        request_id=grant.request_id,
        grant_id=grant.id,
        body=body,
    )


def issued(grant: Grant, token: IssuedToken, at: datetime) -> Record:
    """The record of outcome: the credential's id, the SHA-256 of its text, and what was made."""
    body: dict[str, Any] = {"credential_id": token.credential_id, "token_sha256": token.digest.hex()}
    if token.objects:
        body["objects"] = [_object(made) for made in token.objects]
    return Record(kind=RecordKind.ISSUED, time=at, request_id=grant.request_id, grant_id=grant.id, body=body)


def ended(
    grant_id: GrantId, state: GrantState, why: str, *, by: str, at: datetime, request_id: RequestId | None = None
) -> Record:
    """The record of an end: which, why, and by whom."""
    return Record(kind=_ENDS[state], time=at, request_id=request_id, grant_id=grant_id, body={"why": why, "by": by})


def withdrawn(grant: Grant, at: datetime) -> Record:
    """Nothing of the grant is left at its cluster."""
    return Record(kind=RecordKind.WITHDRAWN, time=at, grant_id=grant.id, body={"cluster": grant.cluster})


def swept(cluster: ClusterName, found: ClusterObject, at: datetime) -> Record:
    """An object that no grant accounts for was deleted."""
    return Record(kind=RecordKind.SWEPT, time=at, body={"cluster": cluster, "object": _object(found)})


def refused(
    refusal: ExchangeError,
    request: ExchangeRequest,
    context: RequestContext,
    subject: Identity | None,
    actor: Identity | None,
    *,
    left_out: int = 0,
) -> Record:
    """A refusal of somebody whom an issuer vouches for, and how many of the same issuer's were left out before it."""
    body = _refusal(refusal, context) | {"asked": _bounded(asked(request))}
    if left_out:
        body["left_out"] = left_out
    if subject is not None:
        body["subject"] = identity(subject)
    if actor is not None:
        body["actor"] = identity(actor)
    if request.intent:
        body["stated"] = {"intent": request.intent}
    return Record(kind=RecordKind.REFUSED, time=context.time, request_id=context.request_id, body=body)


def unverified(refusal: ExchangeError, context: RequestContext, left_out: int) -> Record:
    """A sample of the refusals of strangers, and how many were left out since the last one."""
    body = _refusal(refusal, context) | {"left_out": left_out}
    return Record(kind=RecordKind.UNVERIFIED, time=context.time, request_id=context.request_id, body=body)


def identity(who: Identity) -> dict[str, Any]:
    """An identity with the claims that were verified."""
    body: dict[str, Any] = {
        "issuer": who.issuer,
        "subject": who.subject,
        "kind": who.kind,
        "claims": dict(who.claims),
        "token_sha256": who.token_digest.hex(),
        "issued_at": who.issued_at,
        "expires_at": who.expires_at,
    }
    if who.unknown_claims:
        body["unknown_claims"] = list(who.unknown_claims)
    return body


def asked(request: ExchangeRequest) -> dict[str, Any]:
    """What a caller asked for, without the tokens."""
    body: dict[str, Any] = {}
    for name, values in (("audience", request.audience), ("resource", request.resource), ("scope", request.scope)):
        if values:
            body[name] = list(values)
    if request.authorization_details:
        body["authorization_details"] = [detail(each) for each in request.authorization_details]
    if request.lifetime is not None:
        body["lifetime"] = request.lifetime.total_seconds()
    return body


def _bounded(body: dict[str, Any]) -> dict[str, Any]:
    """As it is where it is short, else how many values there were, the first of each, and a digest of all."""
    whole = orjson.dumps(body)
    if len(whole) <= ASKED_BYTES:
        return body
    short: dict[str, Any] = {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}
    for name, values in body.items():
        if isinstance(values, list):
            short[name] = {"count": len(values), "first": str(values[0])[:ASKED_SHOWN]}
        else:
            short[name] = values
    return short


@lru_cache(maxsize=REMEMBERED_DECISIONS)
def decided(allowed: Allowed) -> Mapping[str, Any]:
    """A decision to allow, with its author."""
    body: dict[str, Any] = {
        "policy": allowed.policy,
        "scope": allowed.scope,
        "policy_digest": allowed.policy_digest,
        "owner": allowed.owner,
        "function": allowed.function,
        "cluster": allowed.cluster,
        "lifetime": allowed.lifetime.total_seconds(),
    }
    if allowed.cluster_scoped:
        body["cluster_scoped"] = True
    else:
        body["namespaces"] = list(allowed.namespaces)
    if allowed.cluster_role:
        body["cluster_role"] = allowed.cluster_role
    else:
        body["rules"] = [rule(each) for each in allowed.rules]
    if allowed.acknowledged:
        body["acknowledged"] = list(allowed.acknowledged)
    if allowed.workload_accounts:
        body["workload_accounts"] = list(allowed.workload_accounts)
    return body


def rule(granted: Rule) -> dict[str, Any]:
    """One rule, in Kubernetes' own words."""
    return _without_empty(
        {
            "apiGroups": granted.api_groups,
            "resources": granted.resources,
            "resourceNames": granted.resource_names,
            "verbs": granted.verbs,
        }
    )


def detail(narrowing: AuthorizationDetail) -> dict[str, Any]:
    """One authorization detail (RFC 9396 §2), without what it leaves open."""
    return {"type": "kubernetes"} | _without_empty(
        {
            "namespaces": narrowing.namespaces,
            "apiGroups": narrowing.api_groups,
            "resources": narrowing.resources,
            "resourceNames": narrowing.resource_names,
            "verbs": narrowing.verbs,
        }
    )


def _without_empty(lists: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    return {name: list(values) for name, values in lists.items() if values}


def _refusal(refusal: ExchangeError, context: RequestContext) -> dict[str, Any]:
    body = {
        "class": type(refusal).__name__,
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "source": context.source,
        "door": context.door,
    }
    if context.peer:
        body["peer"] = context.peer
    return body


def _object(made: ClusterObject) -> dict[str, str]:
    return {"kind": made.kind, "namespace": made.namespace, "name": made.name, "uid": made.uid}
