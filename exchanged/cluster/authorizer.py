"""Mode `authorizer`: a signed token, and an answer to each request made with it; nothing is made at the cluster."""

import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from exchanged.keys.signing import KeyRing
from exchanged.model import (
    Allowed,
    ClusterObject,
    ClusterTraits,
    Grant,
    GrantId,
    IssuedToken,
    Plan,
)

USER_PREFIX = "exchanged:"
"""Added by the API server itself, so that even a stolen key speaks for no other user."""


class AuthorizerMode:
    """Implements `ClusterMode` for a cluster whose API server trusts the daemon as issuer and asks it as authorizer."""

    def __init__(self, *, traits: ClusterTraits, keys: KeyRing, issuer: str, audience: str) -> None:
        self._traits = traits
        self._keys = keys
        self._issuer = issuer
        self._audience = audience

    @property
    def traits(self) -> ClusterTraits:
        """See `ClusterMode.traits`."""
        return self._traits

    def plan(self, grant_id: GrantId, allowed: Allowed) -> Plan:
        """See `ClusterMode.plan`."""
        return Plan(user=f"{USER_PREFIX}{allowed.policy}:{grant_id}", credential_id=os.urandom(16).hex())

    async def issue(self, grant: Grant) -> IssuedToken:
        """See `ClusterMode.issue`."""
        text = self._keys.sign(_claims(grant, self._issuer, self._audience))
        return IssuedToken(text=text, credential_id=grant.plan.credential_id)

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`: the store has ended the grant, and the store is what answers."""

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: frozenset[str],
    ) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        del is_known, now, epoch, namespaces
        return ()

    async def run(self) -> None:
        """See `ClusterMode.run`."""

    def unready(self) -> str | None:
        """See `ClusterMode.unready`."""
        return None


def _claims(grant: Grant, issuer: str, audience: str) -> dict[str, Any]:
    """What the token says (RFC 7519 §4.1, RFC 8693 §4.1); the API server maps it to user, uid and extras."""
    issued, subject = int(grant.created_at.timestamp()), grant.subject
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": grant.plan.user.removeprefix(USER_PREFIX),
        "iat": issued,
        "nbf": issued,
        "exp": int(grant.expires_at.timestamp()),
        "jti": grant.plan.credential_id,
        "grant": grant.id,
        "owner": grant.allowed.owner,
        "subject": f"{subject.issuer}/{subject.subject}",
        "kind": subject.kind,
        "workload_accounts": list(grant.allowed.workload_accounts),
    }
    if grant.actor is not None:
        actor = f"{grant.actor.issuer}/{grant.actor.subject}"
        claims |= {"actor": actor, "act": {"sub": actor}}
    return claims
