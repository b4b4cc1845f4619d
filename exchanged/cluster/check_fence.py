"""Whether the fence stands as it was printed, and whether it holds: compared, and tried."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.fence import daemon_user, fence
from exchanged.cluster.finding import Finding
from exchanged.cluster.setup import token_audience
from exchanged.config import Cluster

ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
SELF: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_NAMED: Final = 5
"""Differences that one finding names; more would not fit a line."""

JsonObject = dict[str, Any]


async def stands(name: str, cluster: Cluster, api: KubernetesApi, instance: str) -> AsyncIterator[Finding]:
    """Every policy and binding is there, and says what setup prints: no less, and nothing besides."""
    files = f"-f manifests.yaml of `exchanged cluster setup {name}`"
    apply = f"kubectl apply --server-side --force-conflicts {files}"
    for expected in fence(cluster, token_audience(cluster), instance):
        kind = expected["kind"]
        plural = "validatingadmissionpolicies" if kind.endswith("Policy") else "validatingadmissionpolicybindings"
        called = f"{kind} {expected['metadata']['name']}"
        try:
            found = await api.call("GET", f"{ADMISSION}/{plural}/{expected['metadata']['name']}")
        except ApiError as error:
            what = f"the fence has a gap: {called} is not there, or may not be read ({error.status})"
            yield Finding(level="wrong", what=what, remedy=apply)
            continue
        different = list(_differences(found["spec"], expected["spec"], "spec"))
        if different:
            what = f"the fence was moved: {called} is not what setup prints ({', '.join(different[:_NAMED])})"
            # To apply is to merge: an entry that somebody added to a list would stay.
            remedy = f"kubectl replace {files}"
            yield Finding(level="wrong", what=what, remedy=remedy)


def _differences(found: Any, expected: Any, where: str) -> Iterable[str]:
    """Where they differ; the API server's defaults are among what is expected."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            if key not in expected or key not in found:
                yield f"{where}.{key}"
            else:
                yield from _differences(found[key], expected[key], f"{where}.{key}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for number, (left, right) in enumerate(zip(found, expected, strict=True)):
            yield from _differences(left, right, f"{where}[{number}]")
    elif found != expected:
        yield where


async def known_as(name: str, cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    """The fence and the rights are for the daemon's name as the API server has it."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = await api.call("POST", SELF, body)
    except ApiError as error:
        what = f"who the daemon is there cannot be asked ({error})"
        yield Finding(level="wrong", what=what, remedy="bind system:basic-user to system:authenticated, as is usual")
        return
    user = str(answer.get("status", {}).get("userInfo", {}).get("username", ""))
    if user != daemon_user(cluster):
        what = f"the API server knows the daemon as {user}, while rights and fence are for {daemon_user(cluster)}"
        remedy = f"set clusters.{name}.daemonUser, and apply what `exchanged cluster setup {name}` prints"
        yield Finding(level="wrong", what=what, remedy=remedy)


async def holds(name: str, cluster: Cluster, api: KubernetesApi) -> AsyncIterator[Finding]:
    """What the fence forbids is tried, without making it: whatever keeps the fence from binding, this sees it."""
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "without-labels"}}
    path = f"/api/v1/namespaces/{cluster.grants_namespace}/serviceaccounts"
    try:
        await api.call("POST", path, body, {"dryRun": "All"})
    except ApiError as error:
        # Refused: by the fence, or for want of a right, which is a finding of its own.
        if error.status == 403:  # noqa: PLR2004 - forbidden
            return
        what = f"whether the fence holds could not be tried ({error})"
    else:
        what = "the fence does not hold: the daemon may make an account without labels (tried, not made)"
    remedy = f"apply manifests.yaml of `exchanged cluster setup {name}`, and see what else this check tells"
    yield Finding(level="wrong", what=what, remedy=remedy)
