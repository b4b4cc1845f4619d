"""The objects of a grant at a cluster in mode `bindings`, as JSON, and their paths."""

from typing import Any, Final
from urllib.parse import quote

from exchanged.model import ClusterObject, Grant, Rule

GRANT_LABEL: Final = "exchanged.dev/grant"
INSTANCE_LABEL: Final = "exchanged.dev/instance"
EXPIRES: Final = "exchanged.dev/expires-at"
RUN_AS: Final = "run-as"
"""A verb on service accounts that nothing in Kubernetes knows. The fence asks for it before a grant's pod template may
name an account, in both modes: here a Role grants it, in mode `authorizer` the daemon answers."""
RUN_AS_SUFFIX: Final = "-run-as"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"

JsonObject = dict[str, Any]


def name_of(grant_policy: str, grant_id: str) -> str:
    """The name of everything that is made for a grant; never used again."""
    return f"{grant_policy}-{grant_id}"


def metadata(grant: Grant, instance: str, made: ClusterObject) -> JsonObject:
    """Whose it is, and until when."""
    return {
        "name": made.name,
        "namespace": made.namespace,
        "labels": {
            "app.kubernetes.io/managed-by": "exchanged",
            INSTANCE_LABEL: instance,
            GRANT_LABEL: grant.id,
        },
        "annotations": {
            EXPIRES: f"{grant.expires_at:%Y-%m-%dT%H:%M:%SZ}",
            "exchanged.dev/policy": f"{grant.policy}/{grant.allowed.scope}",
            "exchanged.dev/owner": grant.allowed.owner,
            "exchanged.dev/subject": f"{grant.subject.issuer}/{grant.subject.subject}"[:1_000],
        },
    }


def manifest(grant: Grant, instance: str, made: ClusterObject, grants_namespace: str) -> JsonObject:
    """The object itself."""
    head = {"kind": made.kind, "metadata": metadata(grant, instance, made)}
    if made.kind == "ServiceAccount":
        return {"apiVersion": "v1", **head, "automountServiceAccountToken": False}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", **head}
    allowed = grant.allowed
    if made.kind == "Role":
        rules = [rule_json(rule) for rule in allowed.rules]
        if allowed.workload_accounts:
            rules.append(rule_json(run_as(allowed.workload_accounts)))
        return {**head, "rules": rules}
    own_role = not allowed.cluster_role or made.name.endswith(RUN_AS_SUFFIX)
    role = {"kind": "Role", "name": made.name} if own_role else {"kind": "ClusterRole", "name": allowed.cluster_role}
    account = {"kind": "ServiceAccount", "name": name_of(grant.policy, grant.id), "namespace": grants_namespace}
    return {**head, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **role}, "subjects": [account]}


def run_as(accounts: tuple[str, ...]) -> Rule:
    """The right to name these accounts in pod templates."""
    return Rule(api_groups=("",), resources=("serviceaccounts",), verbs=(RUN_AS,), resource_names=accounts)


def rule_json(rule: Rule) -> JsonObject:
    """A rule as RBAC has it."""
    body: JsonObject = {
        "apiGroups": list(rule.api_groups),
        "resources": list(rule.resources),
        "verbs": list(rule.verbs),
    }
    if rule.resource_names:
        body["resourceNames"] = list(rule.resource_names)
    return body


def collection(kind: str, namespace: str) -> str:
    """The path of a kind's objects in a namespace."""
    place = f"namespaces/{segment(namespace)}"
    if kind == "ServiceAccount":
        return f"/api/v1/{place}/serviceaccounts"
    return f"{RBAC}/{place}/{'roles' if kind == 'Role' else 'rolebindings'}"


def path(made: ClusterObject) -> str:
    """The path of an object."""
    return f"{collection(made.kind, made.namespace)}/{segment(made.name)}"


def segment(name: str) -> str:
    """A name as part of a path."""
    return quote(name, safe="")
