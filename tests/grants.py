"""Identities, grants and intents for tests, with one thing changed at a time."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from exchanged.log import entries
from exchanged.model import (
    Allowed,
    ClusterName,
    ClusterTraits,
    ExchangeRequest,
    Grant,
    GrantId,
    GrantState,
    Identity,
    IdentityKind,
    IssuedToken,
    IssuerName,
    Mode,
    Party,
    Plan,
    PresentedToken,
    RequestContext,
    RequestId,
    Rule,
    TokenType,
)
from exchanged.ports import Bounds, Intent

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""A Monday, noon."""
WIDE = Bounds(live_per_subject=100_000, live_in_all=100_000)
PROD = ClusterName("prod")


def identity(**changes: Any) -> Identity:
    """A CI job of repository 4711, with a token for one use."""
    token = PresentedToken(text=secrets.token_hex(8))
    usual = Identity(
        issuer=IssuerName("github"),
        subject="repo:acme/web:ref:refs/heads/main",
        kind=IdentityKind.WORKLOAD,
        claims={"repository_id": "4711", "ref": "refs/heads/main", "iss": "https://ci.example"},
        issued_at=NOW - timedelta(seconds=5),
        expires_at=NOW + timedelta(minutes=5),
        token_digest=token.digest(),
        single_use=token.text,
        job="77",
        job_uses=32,
    )
    return replace(usual, **changes)


def rule(**changes: Any) -> Rule:
    """May get and patch the deployment web."""
    usual = Rule(api_groups=("apps",), resources=("deployments",), verbs=("get", "patch"), resource_names=("web",))
    return replace(usual, **changes)


def allowed(**changes: Any) -> Allowed:
    """A decision to allow by deploy-web/rollout."""
    usual = Allowed(
        policy="deploy-web",
        scope="rollout",
        policy_digest="d" * 64,
        owner="team-web@example.com",
        function="deploy",
        cluster=PROD,
        namespaces=("web",),
        cluster_scoped=False,
        rules=(rule(),),
        cluster_role="",
        acknowledged=("workloads",),
        workload_accounts=("web",),
        lifetime=timedelta(minutes=5),
    )
    return replace(usual, **changes)


def grant(**changes: Any) -> Grant:
    """An intended grant of mode authorizer."""
    grant_id = GrantId(secrets.token_hex(10))
    usual = Grant(
        id=grant_id,
        state=GrantState.INTENDED,
        mode=Mode.AUTHORIZER,
        allowed=allowed(),
        plan=Plan(user=f"exchanged:deploy-web:{grant_id}", credential_id=secrets.token_hex(16)),
        subject=party(identity()),
        actor=None,
        job="77",
        stated_intent="",
        request_id=RequestId("r-1"),
        source="192.0.2.1",
        created_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
    )
    return replace(usual, **changes)


def party(who: Identity) -> Party:
    """An identity as a grant remembers it."""
    return Party(issuer=who.issuer, subject=who.subject, kind=who.kind)


def intent(who: Identity | None = None, actor: Identity | None = None, **changes: Any) -> Intent:
    """The intent to grant something to somebody."""
    who = who or identity()
    made = changes.pop("grant", None) or grant(subject=party(who), job=who.job or "")
    parties = (who, actor) if actor else (who,)
    usual = Intent(
        grant=made,
        parties=parties,
        bounds=WIDE,
        job_uses=who.job_uses,
        records=(entries.intended(made, parties, request()),),
    )
    return replace(usual, **changes)


def request(**changes: Any) -> ExchangeRequest:
    """A request for deploy-web/rollout at prod."""
    usual = ExchangeRequest(
        subject_token=PresentedToken(text="not.a.token"),
        subject_token_type=TokenType.JWT,
        audience=(PROD,),
        scope=("deploy-web/rollout",),
    )
    return replace(usual, **changes)


def context(**changes: Any) -> RequestContext:
    """A call over gRPC at NOW."""
    return replace(RequestContext(request_id=RequestId("r-1"), time=NOW, source="192.0.2.1", door="grpc"), **changes)


def traits(**changes: Any) -> ClusterTraits:
    """A cluster in mode authorizer that admits workloads."""
    usual = ClusterTraits(
        name=PROD,
        mode=Mode.AUTHORIZER,
        resource="https://prod.example:6443",
        max_lifetime=timedelta(hours=1),
        breeding=frozenset({"workloads"}),
        closed_namespaces=frozenset({"exchanged", "exchanged-grants"}),
    )
    return replace(usual, **changes)


def token() -> IssuedToken:
    """Something like an issued token."""
    return IssuedToken(text=f"e.{secrets.token_hex(32)}.s", credential_id=secrets.token_hex(16))
