"""What is wrong at a cluster, or wider than it looks: asked of the cluster itself, as the daemon."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from exchanged.authenticate.jws import time_claim, unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.fence import fence
from exchanged.cluster.manifests import INSTANCE_LABEL, RBAC
from exchanged.cluster.setup import token_audience
from exchanged.config import Cluster, Credential
from exchanged.model import PresentedToken

LONGEST_CREDENTIAL = 24 * 3600
"""Seconds that the daemon's own credential may live before it is called static."""
DEFAULT_ROLES = frozenset(
    {
        "system:basic-user",
        "system:discovery",
        "system:public-info-viewer",
        "system:service-account-issuer-discovery",
    }
)
"""What Kubernetes itself binds to everybody."""
ADMISSION = "/apis/admissionregistration.k8s.io/v1"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing: `wrong` (something will not work, or a promise does not hold) or `wide` (more than is needed)."""

    level: str
    what: str
    remedy: str

    def as_json(self) -> JsonObject:
        """For programs."""
        return asdict(self)


async def check(name: str, cluster: Cluster, api: KubernetesApi) -> list[Finding]:
    """Everything that is to be said of a cluster.

    Raises:
        ClusterUnavailable: it does not answer.
    """
    checks = [_credential(cluster), _rights(cluster, api), _fence(name, cluster, api)]
    if cluster.mode == "bindings":
        checks += [_everybody(cluster, api), _accounts(cluster, api), _audience(name, cluster, api)]
    found = await asyncio.gather(*(_listed(each) for each in checks))
    return [finding for findings in found for finding in findings]


async def _listed(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


async def _credential(cluster: Cluster) -> AsyncIterator[Finding]:
    credential = cluster.credential
    remedy = "use a projected service account token (tokenFile), or an exec plugin in the kubeconfig"
    if credential is None:
        return
    if credential.kubeconfig is not None:
        for kind in _static(credential):
            yield Finding(level="wide", what=f"the daemon's own credential is static: {kind}", remedy=remedy)
    elif credential.token_file is not None:
        try:
            claims = unverified(PresentedToken(text=credential.token_file.read_text(encoding="utf-8").strip())).claims
            seconds = (time_claim(claims, "exp") - time_claim(claims, "iat")).total_seconds()
        except (OSError, TokenRefused) as error:
            what = f"the daemon's own token has no end, or cannot be read: {error}"
            yield Finding(level="wrong", what=what, remedy=remedy)
            return
        if seconds > LONGEST_CREDENTIAL:
            what = f"the daemon's own token lives {seconds / 3600:.0f} h"
            yield Finding(level="wide", what=what, remedy=remedy)


def _static(credential: Credential) -> Iterable[str]:
    assert credential.kubeconfig is not None  # noqa: S101 - the caller's case
    document = yaml.safe_load(credential.kubeconfig.read_text(encoding="utf-8")) or {}
    for user in document.get("users") or ():
        held = user.get("user") or {}
        for kind in ("token", "client-certificate", "client-certificate-data", "password"):
            if kind in held:
                yield f"{kind} of user {user.get('name')}"


async def _rights(cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    for what, attributes in _needed(cluster):
        if not await _may(api, attributes):
            remedy = "apply what `exchanged cluster setup` prints"
            yield Finding(level="wrong", what=f"the daemon may not {what}", remedy=remedy)
    for what, attributes in _excess(cluster):
        if await _may(api, attributes):
            remedy = "take it away; `exchanged cluster setup` prints what is needed"
            yield Finding(level="wide", what=f"the daemon may {what}", remedy=remedy)


def _needed(cluster: Cluster) -> Iterable[tuple[str, JsonObject]]:
    if cluster.mode == "authorizer":
        return
    grants, rbac = cluster.grants_namespace, "rbac.authorization.k8s.io"
    yield "review access", {"group": "authorization.k8s.io", "resource": "subjectaccessreviews", "verb": "create"}
    for verb in ("create", "delete", "get", "list"):
        yield f"{verb} service accounts in {grants}", _on("", "serviceaccounts", verb, grants)
        for namespace in cluster.namespaces:
            yield f"{verb} role bindings in {namespace}", _on(rbac, "rolebindings", verb, namespace)
    token = {**_on("", "serviceaccounts", "create", grants), "subresource": "token"}
    yield f"request tokens in {grants}", token
    for namespace in cluster.namespaces:
        for role in cluster.cluster_roles:
            yield (
                f"bind cluster role {role} in {namespace}",
                {**_on(rbac, "clusterroles", "bind", namespace), "name": role},
            )
        if cluster.fenced_roles:
            yield f"make roles in {namespace}", _on(rbac, "roles", "escalate", namespace)


def _excess(cluster: Cluster) -> Iterable[tuple[str, JsonObject]]:
    rbac = "rbac.authorization.k8s.io"
    yield "read secrets everywhere", _on("", "secrets", "get", "")
    yield "bind in the whole cluster", _on(rbac, "clusterrolebindings", "create", "")
    yield "make cluster roles", _on(rbac, "clusterroles", "create", "")
    yield "bind every cluster role", _on(rbac, "clusterroles", "bind", "")
    yield "move its own fence", _on("admissionregistration.k8s.io", "validatingadmissionpolicies", "update", "")
    yield "impersonate", _on("", "users", "impersonate", "")
    yield "make pods", _on("", "pods", "create", "")
    if not cluster.fenced_roles:
        for namespace in cluster.namespaces:
            yield f"escalate in {namespace}", _on(rbac, "roles", "escalate", namespace)


def _on(group: str, resource: str, verb: str, namespace: str) -> JsonObject:
    return {"group": group, "resource": resource, "verb": verb, "namespace": namespace}


async def _may(api: KubernetesApi, attributes: JsonObject) -> bool:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return answer.get("status", {}).get("allowed") is True


async def _fence(name: str, cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    remedy = f"apply manifests.yaml of `exchanged cluster setup {name}`"
    for expected in fence(cluster, token_audience(cluster)):
        kind = expected["kind"]
        plural = "validatingadmissionpolicies" if kind.endswith("Policy") else "validatingadmissionpolicybindings"
        called = f"{kind} {expected['metadata']['name']}"
        try:
            found = await api.call("GET", f"{ADMISSION}/{plural}/{expected['metadata']['name']}")
        except ApiError as error:
            what = f"the fence has a gap: {called} is not there, or may not be read ({error.status})"
            yield Finding(level="wrong", what=what, remedy=remedy)
            continue
        if not _includes(found["spec"], expected["spec"]):
            yield Finding(level="wrong", what=f"the fence was moved: {called} is not what setup prints", remedy=remedy)


def _includes(found: Any, expected: Any) -> bool:
    """Whether everything expected is there; the server adds defaults of its own."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_includes(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(_includes(*pair) for pair in zip(found, expected, strict=True))
        )
    return bool(found == expected)


async def _everybody(cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    """RBAC adds up: what everybody may do, every grant may."""
    groups = {"system:authenticated", "system:unauthenticated", "system:serviceaccounts"}
    groups.add(f"system:serviceaccounts:{cluster.grants_namespace}")
    paths = [f"{RBAC}/clusterrolebindings"]
    paths += [f"{RBAC}/namespaces/{namespace}/rolebindings" for namespace in cluster.namespaces]
    for path in paths:
        try:
            items = (await api.call("GET", path)).get("items") or ()
        except ApiError as error:
            what = f"bindings cannot be read, so that what everybody may do is not known ({error})"
            yield Finding(level="wrong", what=what, remedy="apply what `exchanged cluster setup` prints")
            continue
        for item in items:
            role = item["roleRef"]["name"]
            named = {subject["name"] for subject in item.get("subjects") or () if subject["kind"] == "Group"}
            for group in sorted(named & groups) if role not in DEFAULT_ROLES else ():
                what = f"every grant may what {role} may: {item['metadata']['name']} binds it to {group}"
                yield Finding(level="wide", what=what, remedy="bind it to those who need it")


async def _accounts(cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    path = f"/api/v1/namespaces/{cluster.grants_namespace}/serviceaccounts"
    try:
        items = (await api.call("GET", path)).get("items") or ()
    except ApiError as error:
        yield Finding(level="wrong", what=f"accounts of grants cannot be read ({error})", remedy="see above")
        return
    for item in items:
        labels, name = item["metadata"].get("labels") or {}, item["metadata"]["name"]
        if INSTANCE_LABEL not in labels and name != "default":
            what = f"{cluster.grants_namespace} holds {name}, which no daemon made"
            yield Finding(level="wrong", what=what, remedy="keep that namespace to grants")


async def _audience(name: str, cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    try:
        issuer = (await api.call("GET", "/.well-known/openid-configuration")).get("issuer")
    except ApiError:
        return
    wanted = token_audience(cluster)
    if issuer != wanted:
        what = f"tokens are asked for audience {wanted}, while the API server calls itself {issuer}"
        remedy = f"set clusters.{name}.audience to one of the API server's --api-audiences"
        yield Finding(level="wrong", what=what, remedy=remedy)
