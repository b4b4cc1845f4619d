"""The fence: ValidatingAdmissionPolicies that bound what the daemon, and every grant, may do at a cluster.

The daemon holds no right on admission policies, so it cannot move its own fence. A fence around the daemon alone would
not hold: it could make itself a grant that acts outside; so grants are fenced too.
"""

from typing import Final

from exchanged.cluster.admission import KIND, JsonObject, binding, listed, policy, quoted, rule
from exchanged.cluster.fenced_grants import grants_fence
from exchanged.cluster.fenced_pods import pods_fences
from exchanged.cluster.fenced_roles import role_rules
from exchanged.cluster.manifests import EXPIRES, GRANT_LABEL, INSTANCE_LABEL, RUN_AS_SUFFIX
from exchanged.config import Cluster

DAEMON_ACCOUNT: Final = "exchanged"
"""The daemon's service account, in its own namespace."""
INSTANCE: Final = "instance"
"""The variable of the daemon's fence that says for which daemon it was printed."""
_GRANT_ID: Final = "^[0-9a-f]{20}$"
_MADE: Final = "variables.kind in ['serviceaccounts', 'roles', 'rolebindings']"
_NOT_CREATE: Final = "request.operation != 'CREATE'"


def fence(cluster: Cluster, audience: str, instance: str) -> list[JsonObject]:
    """The policies with their bindings, for a cluster; `instance` is the id of the daemon's store."""
    policies = [grants_fence(cluster), *pods_fences(cluster)]
    if cluster.mode == "bindings":
        policies.insert(0, _daemon(cluster, audience, instance))
    return [each for made in policies for each in (made, binding(made))]


def daemon_user(cluster: Cluster) -> str:
    """The user name that the API server knows the daemon by."""
    return cluster.daemon_user or f"system:serviceaccount:{cluster.daemon_namespace}:{DAEMON_ACCOUNT}"


def _daemon(cluster: Cluster, audience: str, instance: str) -> JsonObject:
    """What the daemon writes: objects of a grant, labelled, in the namespaces that are listed; and nothing else.

    Where it creates is bounded by namespace; what it deletes, by label and instance, wherever it lies: what was made
    before a namespace was taken from the list can still be withdrawn.
    """
    return policy(
        f"{cluster.daemon_namespace}-daemon",
        f"request.userInfo.username == {quoted(daemon_user(cluster))}",
        [rule(["*"], ["*/*"], ["CREATE", "UPDATE", "DELETE", "CONNECT"])],
        {
            "it": "request.operation == 'DELETE' ? oldObject : object",
            "kind": KIND,
            "place": "has(request.namespace) ? request.namespace : ''",
            "labels": "variables.it.?metadata.?labels.orValue({})",
            INSTANCE: quoted(instance),
            "grant": f"variables.labels[?'{GRANT_LABEL}'].orValue('')",
        },
        [
            (
                "variables.kind in ['serviceaccounts', 'serviceaccounts/token', 'rolebindings', 'roles', "
                "'selfsubjectaccessreviews', 'selfsubjectrulesreviews', 'selfsubjectreviews']",
                "the daemon writes service accounts, roles and bindings, and nothing else",
            ),
            ("request.operation != 'UPDATE' && request.operation != 'CONNECT'", "the daemon changes nothing in place"),
            (
                f"!({_MADE}) || (variables.grant.matches('{_GRANT_ID}') && "
                f"variables.labels[?'{INSTANCE_LABEL}'].orValue('') == variables.{INSTANCE})",
                "only objects that carry the labels of a grant of this daemon's",
            ),
            (
                f"!({_MADE}) || {_NOT_CREATE} || ({_named('object.metadata.name', f'({RUN_AS_SUFFIX})?')})",
                "objects are named after their grant",
            ),
            (
                f"!({_MADE}) || {_NOT_CREATE} || (object.metadata.?annotations[?'{EXPIRES}'].hasValue() && "
                "!has(object.metadata.finalizers) && !has(object.metadata.ownerReferences))",
                "objects say when they expire, and have no finalizers or owners",
            ),
            *_places(cluster),
            *_binding_rules(cluster),
            *role_rules(cluster),
            (
                f"variables.kind != 'serviceaccounts/token' || {_NOT_CREATE} || "
                f"(object.spec.?expirationSeconds.orValue(0) <= {_ceiling(cluster)} && "
                "has(object.spec.expirationSeconds) && has(object.spec.audiences) && "
                f"object.spec.audiences.all(a, a == {quoted(audience)}))",
                "tokens for this cluster, no longer than the ceiling",
            ),
        ],
    )


def _places(cluster: Cluster) -> list[tuple[str, str]]:
    """Where it creates."""
    grants = cluster.grants_namespace
    return [
        (
            f"!(variables.kind in ['serviceaccounts', 'serviceaccounts/token']) || {_NOT_CREATE} || "
            f"variables.place == '{grants}'",
            f"service accounts and tokens of {grants} alone",
        ),
        (
            f"!(variables.kind in ['roles', 'rolebindings']) || {_NOT_CREATE} || "
            f"variables.place in {listed(cluster.namespaces)}",
            "roles and bindings in the listed namespaces alone",
        ),
    ]


def _binding_rules(cluster: Cluster) -> list[tuple[str, str]]:
    """Whom it binds to what. A role that somebody else made is never of a grant's name, so it is never bound."""
    bound = f"variables.kind != 'rolebindings' || {_NOT_CREATE} || "
    return [
        (
            f"{bound}(has(object.subjects) && object.subjects.size() == 1 && object.subjects.all(s, "
            f"s.kind == 'ServiceAccount' && s.namespace == '{cluster.grants_namespace}' && {_named('s.name')}))",
            f"bindings for the grant's account in {cluster.grants_namespace}",
        ),
        (
            f"{bound}(object.roleRef.kind == 'ClusterRole' && "
            f"object.roleRef.name in {listed(cluster.cluster_roles)}) || "
            "(object.roleRef.kind == 'Role' && object.roleRef.name == object.metadata.name)",
            "bindings to the listed cluster roles, or to the grant's own role",
        ),
    ]


def _named(name: str, suffix: str = "") -> str:
    """CEL: whether a name is made of a policy's and the grant's; the grant's id has been looked at by then."""
    return f"variables.grant.matches('{_GRANT_ID}') && {name}.matches('^[a-z0-9-]+-' + variables.grant + '{suffix}$')"


def _ceiling(cluster: Cluster) -> int:
    return max(600, int(cluster.max_lifetime.total_seconds()))
