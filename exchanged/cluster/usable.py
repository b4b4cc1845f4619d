"""Whether a new binding works: the cluster's own authorizer is asked until it says so."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exchanged.cluster.api import KubernetesApi
from exchanged.cluster.together import together
from exchanged.model import Rule

USABLE_SECONDS = 5.0
"""How long a new binding may take to be seen by the cluster's authorizer; milliseconds are usual."""
FIRST_PAUSE = 0.0003
"""Seconds before the cluster is asked again whether a binding works: it takes 1 to 4 ms."""
LONGER = 1.4
"""How much longer each further pause is."""
LONGEST_PAUSE = 0.2
"""Seconds; the longest such pause."""
MOST_RULES = 8
"""Rules of a binding that are asked about, where everybody has the rights of those before."""
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A role binding, and the rules of the role it binds."""

    namespace: str
    name: str
    rules: tuple[Rule, ...]


async def until_usable(api: KubernetesApi, account: str, grants_namespace: str, bindings: Iterable[Binding]) -> None:
    """Returns when the cluster says that the user `account` may do what these bindings say.

    Raises:
        TimeoutError: it did not within USABLE_SECONDS.
        ApiError, ClusterUnavailable: it cannot be asked.
    """
    async with asyncio.timeout(USABLE_SECONDS):
        await together(_until_usable(api, account, grants_namespace, binding) for binding in bindings)


async def _until_usable(api: KubernetesApi, account: str, grants_namespace: str, binding: Binding) -> None:
    """One rule proves its binding, if it is by this binding that it is allowed; RBAC says by which."""
    for rule in binding.rules[:MOST_RULES]:
        reason = await _until_allowed(api, _review(account, grants_namespace, binding.namespace, rule))
        if f'RoleBinding "{binding.name}/{binding.namespace}"' in reason:
            return


async def _until_allowed(api: KubernetesApi, review: dict[str, Any]) -> str:
    """Why it is allowed."""
    pause = FIRST_PAUSE
    while True:
        status = (await api.call("POST", REVIEWS, review)).get("status") or {}
        if status.get("allowed") is True:
            return str(status.get("reason", ""))
        await asyncio.sleep(pause)
        pause = min(pause * LONGER, LONGEST_PAUSE)


def _review(account: str, grants_namespace: str, namespace: str, rule: Rule) -> dict[str, Any]:
    resource, _, subresource = rule.resources[0].partition("/")
    attributes = {
        "namespace": namespace,
        "verb": "get" if rule.verbs[0] == "*" else rule.verbs[0],
        "group": "" if rule.api_groups[0] == "*" else rule.api_groups[0],
        "resource": "pods" if resource == "*" else resource,
        "subresource": subresource,
        "name": rule.resource_names[0] if rule.resource_names else "",
    }
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{grants_namespace}", "system:authenticated"]
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "groups": groups, "resourceAttributes": attributes},
    }
