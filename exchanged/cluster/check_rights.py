"""Whether the daemon has the rights that it needs, and none that it does not: asked of the cluster."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from exchanged.cluster.api import KubernetesApi
from exchanged.cluster.finding import Finding
from exchanged.cluster.rights import RBAC_GROUP, rights
from exchanged.config import Cluster

_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

JsonObject = dict[str, Any]


async def has_rights(cluster: Cluster, api: KubernetesApi, *, reviewing_tokens: bool) -> AsyncIterator[Finding]:
    """Everything that setup prints, and nothing of what would let it out."""
    for attributes in _needed(cluster, reviewing_tokens=reviewing_tokens):
        if not await _may(api, attributes):
            remedy = "apply what `exchanged cluster setup` prints"
            yield Finding(level="wrong", what=f"the daemon may not {_said(attributes)}", remedy=remedy)
    for what, attributes in _excess(cluster):
        if await _may(api, attributes):
            remedy = "take it away; `exchanged cluster setup` prints what is needed"
            yield Finding(level="wide", what=f"the daemon may {what}", remedy=remedy)


def _needed(cluster: Cluster, *, reviewing_tokens: bool) -> Iterable[JsonObject]:
    """The printed rules, one by one."""
    for role in rights(cluster, reviewing_tokens=reviewing_tokens):
        namespace = role["metadata"].get("namespace", "")
        for rule in role.get("rules", ()):
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        for name in rule.get("resourceNames", [""]):
                            yield {**_on(group, resource, verb, namespace), "name": name}


def _excess(cluster: Cluster) -> Iterable[tuple[str, JsonObject]]:
    yield "read secrets everywhere", _on("", "secrets", "get", "")
    yield "bind in the whole cluster", _on(RBAC_GROUP, "clusterrolebindings", "create", "")
    yield "make cluster roles", _on(RBAC_GROUP, "clusterroles", "create", "")
    yield "bind every cluster role", _on(RBAC_GROUP, "clusterroles", "bind", "")
    yield "move its own fence", _on("admissionregistration.k8s.io", "validatingadmissionpolicies", "update", "")
    yield "impersonate", _on("", "users", "impersonate", "")
    yield "make pods", _on("", "pods", "create", "")
    for namespace in (*cluster.namespaces, cluster.grants_namespace, cluster.daemon_namespace):
        yield f"read secrets in {namespace}", _on("", "secrets", "get", namespace)
        yield f"make pods in {namespace}", _on("", "pods", "create", namespace)
        for resource in ("roles", "rolebindings"):
            for verb in ("update", "patch"):
                yield f"{verb} {resource} in {namespace}", _on(RBAC_GROUP, resource, verb, namespace)
        if not cluster.fenced_roles or namespace not in cluster.namespaces:
            yield f"escalate in {namespace}", _on(RBAC_GROUP, "roles", "escalate", namespace)


def _on(group: str, resource: str, verb: str, namespace: str) -> JsonObject:
    resource, _, subresource = resource.partition("/")
    return {"group": group, "resource": resource, "subresource": subresource, "verb": verb, "namespace": namespace}


def _said(attributes: JsonObject) -> str:
    """For people: create serviceaccounts/token in exchanged-grants."""
    full = "/".join(part for part in (attributes["resource"], attributes["subresource"]) if part)
    name = f" {attributes['name']}" if attributes["name"] else ""
    place = f" in {attributes['namespace']}" if attributes["namespace"] else ""
    return f"{attributes['verb']} {full}{name}{place}"


async def _may(api: KubernetesApi, attributes: JsonObject) -> bool:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.call("POST", _ACCESS_REVIEWS, body)
    return answer.get("status", {}).get("allowed") is True
