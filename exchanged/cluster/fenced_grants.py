"""What grants write: nothing that breeds rights or tokens, unless its class is admitted in mode authorizer."""

from typing import Final

from exchanged.cluster.admission import KIND, JsonObject, listed, policy, rule
from exchanged.cluster.authorizer import USER_PREFIX
from exchanged.config import Cluster
from exchanged.policy.classes import RBAC, TABLE, TOKENS

_UNSEEN: Final = ("apps/controllerrevisions", "/bindings", "/pods/binding")
"""Ways to a pod that the fence around pods cannot look into: a template as opaque data, and the choice of a node."""
_TOKEN_SECRETS: Final = ("bootstrap.kubernetes.io/token", "kubernetes.io/service-account-token")
"""Types of Secrets that the cluster makes credentials of, for whichever account they name, without an end."""


def is_grant(cluster: Cluster) -> str:
    """CEL: whether a request is a grant's."""
    return (
        f"request.userInfo.username.startsWith('{USER_PREFIX}') || "
        f"'system:serviceaccounts:{cluster.grants_namespace}' in request.userInfo.groups"
    )


def grants_fence(cluster: Cluster) -> JsonObject:
    """The policy for everything that grants write; what their pods may be is in `fenced_pods`."""
    admits = frozenset(cluster.allow) if cluster.mode == "authorizer" else frozenset()
    closed = listed(_closed(admits))
    # With all classes admitted there is still the daemon's own.
    own = listed([cluster.grants_namespace, cluster.daemon_namespace])
    validations = [
        (
            f"!(variables.kind in {closed} || (request.resource.group + '/*') in {closed})",
            "grants do not breed grants",
        ),
        (f"!has(request.namespace) || !(request.namespace in {own})", "this namespace is closed to grants"),
    ]
    if TOKENS not in admits:
        validations.append(
            (
                "variables.kind != '/secrets' || request.operation == 'DELETE' || "
                f"!(object.?type.orValue('') in {listed(_TOKEN_SECRETS)})",
                "grants make no tokens by way of Secrets",
            )
        )
    return policy(
        f"{cluster.daemon_namespace}-grants",
        is_grant(cluster),
        [rule(["*"], ["*/*"], ["CREATE", "UPDATE", "DELETE", "CONNECT"])],
        {"kind": f"request.resource.group + '/' + {KIND}"},
        validations,
    )


def _closed(admits: frozenset[str]) -> list[str]:
    """Kinds as group/resource, or group/* for a whole group: those of the classes that breed by being written."""
    kinds = {
        f"{group}/{resource}"
        for name, groups, resources, _ in TABLE
        if name in {RBAC, TOKENS} and name not in admits
        for group in groups
        for resource in resources or {"*"}
    }
    return sorted(kinds | set(_UNSEEN))
