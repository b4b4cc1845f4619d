"""The daemon's rights at a cluster, as RBAC objects: printed for an administrator, and asked about by the check."""

from typing import Any, Final

from exchanged.cluster.fence import DAEMON_ACCOUNT
from exchanged.cluster.manifests import RUN_AS
from exchanged.config import Cluster, Configuration, KubernetesIssuer

RBAC_GROUP: Final = "rbac.authorization.k8s.io"
_RBAC_V1: Final = f"{RBAC_GROUP}/v1"

JsonObject = dict[str, Any]


def reviews_tokens(configuration: Configuration, name: str) -> bool:
    """Whether the daemon asks this cluster about tokens that it issued."""
    return any(
        isinstance(issuer, KubernetesIssuer) and issuer.cluster == name for issuer in configuration.issuers.values()
    )


def rights(cluster: Cluster, *, reviewing_tokens: bool) -> list[JsonObject]:
    """Roles with their bindings; none where the daemon needs nothing."""
    rules: list[JsonObject] = []
    if reviewing_tokens:
        rules.append({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]})
    if cluster.mode == "bindings":
        rules.append(
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}
        )
        # Roles are watched because they change; bindings are read by `cluster check`. Neither says a secret.
        rules.append({"apiGroups": [RBAC_GROUP], "resources": ["clusterroles"], "verbs": ["get", "list", "watch"]})
        rules.append({"apiGroups": [RBAC_GROUP], "resources": ["clusterrolebindings"], "verbs": ["list"]})
    if cluster.credential is not None:
        # To see that the fence stands, and where; never to move it.
        rules.append(
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
                "verbs": ["get"],
            }
        )
    objects = _bound("ClusterRole", "", rules, cluster) if rules else []
    return objects + (_for_bindings(cluster) if cluster.mode == "bindings" else [])


def _for_bindings(cluster: Cluster) -> list[JsonObject]:
    own = ["create", "delete", "get", "list"]
    in_grants: list[JsonObject] = [
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": own},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]
    objects = _bound("Role", cluster.grants_namespace, in_grants, cluster)
    in_targets: list[JsonObject] = [
        {"apiGroups": [RBAC_GROUP], "resources": ["rolebindings", "roles"], "verbs": own},
        # Held so that it may be given: nothing but the fence knows this verb.
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": [RUN_AS]},
    ]
    if cluster.cluster_roles:
        listed = list(cluster.cluster_roles)
        in_targets.append(
            {"apiGroups": [RBAC_GROUP], "resources": ["clusterroles"], "resourceNames": listed, "verbs": ["bind"]}
        )
    if cluster.fenced_roles:
        # To make a role with rules that it does not hold itself, and to bind it. The fence says which rules.
        in_targets.append({"apiGroups": [RBAC_GROUP], "resources": ["roles"], "verbs": ["escalate", "bind"]})
    for namespace in cluster.namespaces:
        objects += _bound("Role", namespace, in_targets, cluster)
    return objects


def _bound(kind: str, namespace: str, rules: list[JsonObject], cluster: Cluster) -> list[JsonObject]:
    # Named after the daemon's namespace: another daemon at this cluster has objects of its own.
    head: JsonObject = {"name": f"{cluster.daemon_namespace}-daemon"}
    if namespace:
        head["namespace"] = namespace
    return [
        {"apiVersion": _RBAC_V1, "kind": kind, "metadata": head, "rules": rules},
        {
            "apiVersion": _RBAC_V1,
            "kind": f"{kind}Binding",
            "metadata": head,
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": head["name"]},
            "subjects": [_subject(cluster)],
        },
    ]


def _subject(cluster: Cluster) -> JsonObject:
    if cluster.daemon_user is not None:
        return {"apiGroup": RBAC_GROUP, "kind": "User", "name": cluster.daemon_user}
    return {"kind": "ServiceAccount", "name": DAEMON_ACCOUNT, "namespace": cluster.daemon_namespace}
