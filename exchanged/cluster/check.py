"""What is wrong at a cluster, or wider than it looks: asked of the cluster itself, as the daemon."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import yaml

from exchanged.authenticate.jws import time_claim, unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.check_fence import holds, known_as, stands
from exchanged.cluster.check_rights import has_rights
from exchanged.cluster.finding import Finding
from exchanged.cluster.manifests import INSTANCE_LABEL, RBAC
from exchanged.cluster.setup import token_audience
from exchanged.config import Cluster, Credential
from exchanged.model import PresentedToken

LONGEST_CREDENTIAL = 24 * 3600
"""Seconds that the daemon's own credential may live before it is called static."""
DEFAULT_ROLES = frozenset(
    {
        "system:basic-user",
        "system:cluster-trust-bundle-discovery",
        "system:discovery",
        "system:public-info-viewer",
        "system:service-account-issuer-discovery",
    }
)
"""What Kubernetes itself binds to everybody."""


async def check(
    name: str, cluster: Cluster, api: KubernetesApi, *, instance: str, reviewing_tokens: bool
) -> list[Finding]:
    """Everything that is to be said of a cluster by whoever has the daemon's credential there.

    `instance` is the id of the daemon's store, which in mode `bindings` the fence goes by; `reviewing_tokens`, whether
    the daemon asks the cluster about tokens.

    Raises:
        ClusterUnavailable: it does not answer.
    """
    checks = [
        _credential(cluster),
        known_as(name, cluster, api),
        has_rights(cluster, api, reviewing_tokens=reviewing_tokens),
        stands(name, cluster, api, instance),
    ]
    if cluster.mode == "bindings":
        checks += [holds(name, cluster, api), _everybody(cluster, api), _accounts(cluster, api, instance)]
        checks.append(_audience(name, cluster, api))
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


async def _accounts(cluster: Cluster, api: KubernetesApi, instance: str) -> AsyncIterator[Finding]:
    path = f"/api/v1/namespaces/{cluster.grants_namespace}/serviceaccounts"
    try:
        items = (await api.call("GET", path)).get("items") or ()
    except ApiError as error:
        yield Finding(level="wrong", what=f"accounts of grants cannot be read ({error})", remedy="see above")
        return
    for item in items:
        labels, name = item["metadata"].get("labels") or {}, item["metadata"]["name"]
        made_by = labels.get(INSTANCE_LABEL)
        if made_by != instance and name != "default":
            what = f"{cluster.grants_namespace} holds {name}, which this daemon did not make"
            yield Finding(level="wrong", what=what, remedy="keep that namespace to this daemon's grants")


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
