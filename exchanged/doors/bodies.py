"""What the HTTP door answers with: the daemon's own values as JSON."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from exchanged.doors import messages
from exchanged.log import entries
from exchanged.model import REMEMBERED_DECISIONS, Allowed, ClusterTraits, Exchanged, Grant


def response(exchanged: Exchanged, requested: str | None, now: datetime) -> dict[str, Any]:
    """RFC 8693 §2.2.1."""
    grant = exchanged.grant
    return {
        "access_token": exchanged.token.text,
        "issued_token_type": messages.issued_type(requested),
        "token_type": "Bearer",
        "expires_in": messages.seconds_left(grant, now),
        "scope": messages.scope_of(grant),
        "authorization_details": _details(grant.allowed),
        "grant_id": grant.id,
        "cluster": _cluster(exchanged.cluster),
    }


def introspection(grant: Grant, traits: ClusterTraits) -> dict[str, Any]:
    """RFC 7662 §2.2."""
    body = {
        "active": True,
        "scope": messages.scope_of(grant),
        "token_type": "Bearer",
        "exp": int(grant.expires_at.timestamp()),
        "iat": int(grant.created_at.timestamp()),
        "sub": f"{grant.subject.issuer}/{grant.subject.subject}",
        "aud": grant.cluster,
        "jti": grant.credential_id,
        "username": grant.plan.user,
        "grant_id": grant.id,
        "policy": grant.policy,
        "owner": grant.allowed.owner,
        "authorization_details": _details(grant.allowed),
        "cluster": _cluster(traits),
        "mode": grant.mode.value,
        "promise": grant.mode.promise,
    }
    if grant.actor is not None:
        body["act"] = {"sub": f"{grant.actor.issuer}/{grant.actor.subject}"}
    return body


@lru_cache(maxsize=REMEMBERED_DECISIONS)
def _details(allowed: Allowed) -> Sequence[Mapping[str, Any]]:
    where = {"type": messages.DETAIL_TYPE, "namespaces": list(allowed.namespaces)}
    if allowed.cluster_role:
        return [{**where, "clusterRole": allowed.cluster_role}]
    return [{**where, **entries.rule(rule)} for rule in allowed.rules]


def _cluster(traits: ClusterTraits) -> dict[str, str]:
    cluster = {"name": traits.name, "server": traits.resource}
    if traits.certificate_authority:
        cluster["certificate_authority"] = traits.certificate_authority
    return cluster


def metadata(issuer: str) -> dict[str, Any]:
    """RFC 8414 §2 and OpenID Connect Discovery §3 in one document; the issuer is named exactly as configured (§3.3)."""
    base = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "token_endpoint": f"{base}/token",
        "revocation_endpoint": f"{base}/revoke",
        "introspection_endpoint": f"{base}/introspect",
        "jwks_uri": f"{base}/keys",
        "grant_types_supported": [messages.GRANT_TYPE],
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "introspection_endpoint_auth_methods_supported": ["none"],
        "authorization_details_types_supported": [messages.DETAIL_TYPE],
    }
