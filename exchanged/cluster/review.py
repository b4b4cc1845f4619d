"""What a grant may do: the answer to a SubjectAccessReview, from the grant on record and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from exchanged.cluster.authorizer import USER_PREFIX
from exchanged.cluster.kinds import OF_NO_NAMESPACE
from exchanged.cluster.manifests import RUN_AS
from exchanged.model import ClusterTraits, Grant, GrantId, GrantState
from exchanged.policy.narrow import covers

CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
NO_SUCH_GRANT: Final = "exchanged: no such grant at this cluster"

_COLLECTION_VERBS: Final = frozenset({"list", "watch", "deletecollection"})
_BASELINE_PATHS: Final = ("/api", "/apis", "/openapi", "/version")
_BASELINE_REVIEWS: Final = frozenset(
    {
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer. Neither allowed nor denied means that the user is none of ours."""

    allowed: bool
    denied: bool
    reason: str


def grant_id_of(spec: Mapping[str, Any]) -> GrantId | None:
    """The grant that the user name speaks of, or None for a user that is none of ours."""
    user = spec.get("user")
    if not isinstance(user, str) or not user.startswith(USER_PREFIX):
        return None
    return GrantId(user.rpartition(":")[2])


def review(spec: Mapping[str, Any], grant: Grant | None, cluster: ClusterTraits, now: datetime) -> Verdict:
    """Whether a grant's holder may do what a SubjectAccessReview's `spec` describes.

    1. the grant is on record, for this cluster
    2. user, uid and credential are those on record: another credential with the same name is somebody else
    3. it lives
    4. one of its rules covers the request, or it is what every client needs
    """
    if grant_id_of(spec) is None:
        return Verdict(False, False, "")
    if grant is None or grant.cluster != cluster.name:
        return Verdict(False, True, NO_SUCH_GRANT)
    if (spec.get("user"), spec.get("uid")) != (grant.plan.user, grant.id):
        return _denied("not the user of this grant")
    extra = spec.get("extra")
    credential = extra.get(CREDENTIAL_ID) if isinstance(extra, Mapping) else None
    if credential != [f"JTI={grant.plan.credential_id}"]:
        return _denied("not the credential of this grant")
    if grant.state is not GrantState.ISSUED:
        return _denied(f"grant {grant.id} is {_ended(grant)}")
    if grant.expires_at <= now:
        return _denied(f"grant {grant.id} is expired")
    if _covered(spec, grant, cluster):
        return Verdict(True, False, f"granted by {grant.policy}/{grant.allowed.scope}")
    return _denied(f"not granted by {grant.policy}/{grant.allowed.scope}")


def _denied(reason: str) -> Verdict:
    return Verdict(False, True, f"exchanged: {reason}")


def _ended(grant: Grant) -> str:
    return "not issued yet" if grant.state is GrantState.INTENDED else f"over ({grant.ended})"


def _covered(spec: Mapping[str, Any], grant: Grant, cluster: ClusterTraits) -> bool:
    asked = spec.get("nonResourceAttributes")
    if isinstance(asked, Mapping):
        return asked.get("verb") == "get" and _is_baseline(str(asked.get("path", "")))
    asked = spec.get("resourceAttributes")
    if not isinstance(asked, Mapping):
        return False
    group, resource, verb = (str(asked.get(name, "")) for name in ("group", "resource", "verb"))
    subresource, namespace = str(asked.get("subresource", "")), str(asked.get("namespace", ""))
    if verb == "create" and not subresource and (group, resource) in _BASELINE_REVIEWS:
        return True
    allowed = grant.allowed
    if namespace in cluster.closed_namespaces:
        return False
    if not allowed.cluster_scoped and namespace not in allowed.namespaces:
        return False
    if not namespace and verb in _COLLECTION_VERBS and (group, resource) not in OF_NO_NAMESPACE:
        # Of a kind that has namespaces, the closed ones would be in the answer; and a request does not say which it is.
        return False
    if (group, resource, subresource, verb) == ("", "serviceaccounts", "", RUN_AS):
        return str(asked.get("name", "")) in allowed.workload_accounts
    full = f"{resource}/{subresource}" if subresource else resource
    return any(covers(rule, group, full, str(asked.get("name", "")), verb) for rule in allowed.rules)


def _is_baseline(path: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in _BASELINE_PATHS)
