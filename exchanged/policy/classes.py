"""Classes of rules that breed credentials or outlive their grant, and have to be owned up to.

A grant is short; what these rights make or reveal is not. Each class is something that a policy's author acknowledges
and a cluster's administrator admits.
"""

from collections.abc import Iterable
from typing import Final

from exchanged.model import Rule

WORKLOADS: Final = "workloads"
SECRETS: Final = "secrets"
EXEC: Final = "exec"
TOKENS: Final = "tokens"
RBAC: Final = "rbac"
IMPERSONATE: Final = "impersonate"
WILDCARD: Final = "wildcard"
NODES: Final = "nodes"
ALL: Final = frozenset({WORKLOADS, SECRETS, EXEC, TOKENS, RBAC, IMPERSONATE, WILDCARD, NODES})

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_MAKES: Final = frozenset({"create", "update", "patch"})
_ANY: Final[frozenset[str]] = frozenset()
"""No restriction: every verb counts."""

# class, API groups (none: every group), resources, verbs that count (none: every verb)
TABLE: Final[tuple[tuple[str, frozenset[str], frozenset[str], frozenset[str]], ...]] = (
    # Whoever writes a pod template chooses a service account and runs as it, long after the grant.
    (WORKLOADS, frozenset({""}), frozenset({"pods", "replicationcontrollers", "podtemplates"}), _MAKES),
    (WORKLOADS, frozenset({""}), frozenset({"pods/ephemeralcontainers", "pods/binding", "bindings"}), _MAKES),
    (WORKLOADS, frozenset({"apps"}), frozenset({"deployments", "daemonsets", "statefulsets", "replicasets"}), _MAKES),
    (WORKLOADS, frozenset({"apps"}), frozenset({"controllerrevisions"}), _MAKES),
    (WORKLOADS, frozenset({"batch"}), frozenset({"jobs", "cronjobs"}), _MAKES),
    (SECRETS, frozenset({""}), frozenset({"secrets"}), _ANY),
    # Commands and tunnels into what runs: with its service account, and not cut by a revocation.
    (
        EXEC,
        frozenset({""}),
        frozenset({"pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"}),
        _ANY,
    ),
    (EXEC, frozenset({""}), frozenset({"pods/ephemeralcontainers"}), _MAKES),
    (TOKENS, frozenset({""}), frozenset({"serviceaccounts/token"}), _ANY),
    (
        TOKENS,
        frozenset({"certificates.k8s.io"}),
        frozenset(
            {
                "certificatesigningrequests",
                "certificatesigningrequests/approval",
                "certificatesigningrequests/status",
                "clustertrustbundles",
                "signers",
                "podcertificaterequests",
                "podcertificaterequests/status",
            }
        ),
        WRITES | {"approve", "sign", "attest"},
    ),
    (
        RBAC,
        frozenset({"rbac.authorization.k8s.io"}),
        frozenset({"roles", "rolebindings", "clusterroles", "clusterrolebindings"}),
        WRITES | {"bind", "escalate"},
    ),
    # A new service account, a webhook or a policy is a way around what RBAC says.
    (RBAC, frozenset({""}), frozenset({"serviceaccounts"}), WRITES),
    (RBAC, frozenset({"admissionregistration.k8s.io"}), _ANY, WRITES),
    (RBAC, frozenset({"apiregistration.k8s.io"}), _ANY, WRITES),
    (RBAC, frozenset({"apiextensions.k8s.io"}), _ANY, WRITES),
    (
        IMPERSONATE,
        frozenset({"", "authentication.k8s.io"}),
        frozenset({"users", "groups", "serviceaccounts", "userextras", "uids"}),
        frozenset({"impersonate"}),
    ),
    (NODES, frozenset({""}), frozenset({"nodes", "nodes/status", "nodes/proxy"}), WRITES),
    # What a kubelet serves itself: what runs there, with its environment, logs and memory.
    (
        NODES,
        frozenset({""}),
        frozenset(
            {
                "nodes/checkpoint",
                "nodes/configz",
                "nodes/healthz",
                "nodes/log",
                "nodes/metrics",
                "nodes/pods",
                "nodes/proxy",
                "nodes/spec",
                "nodes/stats",
            }
        ),
        _ANY,
    ),
    # A volume can be a path of the host.
    (NODES, frozenset({""}), frozenset({"persistentvolumes"}), _MAKES),
    # Labels of a namespace decide what admission lets through; and a namespace takes everything with it.
    (RBAC, frozenset({""}), frozenset({"namespaces", "namespaces/finalize"}), WRITES),
)

_NEVER_EVERYWHERE: Final = frozenset(
    {
        "secrets",
        "serviceaccounts",
        "pods",
        "replicationcontrollers",
        "podtemplates",
        "deployments",
        "daemonsets",
        "statefulsets",
        "replicasets",
        "jobs",
        "cronjobs",
        "roles",
        "rolebindings",
    }
)


def breeding(rules: Iterable[Rule]) -> frozenset[str]:
    """The classes that any of these rules holds; a wildcard holds what it may stand for."""
    return frozenset(name for rule in rules for name in _of(rule))


def reaches_everywhere(rules: Iterable[Rule]) -> frozenset[str]:
    """Of rules that hold in all namespaces at once: resources that nobody may reach like that."""
    return frozenset(
        resource
        for rule in rules
        for resource in rule.resources
        if resource.split("/", 1)[0] in _NEVER_EVERYWHERE or resource.startswith("*")
    )


def _of(rule: Rule) -> set[str]:
    held = set()
    if "*" in rule.verbs or any(resource.startswith("*") for resource in rule.resources) or "*" in rule.api_groups:
        held.add(WILDCARD)
    # Constrained impersonation has verbs of its own: impersonate:user-info and impersonate-on:…
    if any(verb.startswith("impersonate") for verb in rule.verbs):
        held.add(IMPERSONATE)
    # Extras have their keys where others have subresources.
    if "*" in rule.verbs and any(resource.startswith(("userextras/", "*/")) for resource in rule.resources):
        held.add(IMPERSONATE)
    for name, groups, resources, verbs in TABLE:
        if (
            _meet(rule.api_groups, groups)
            and (not resources or any(_covers_any(resource, resources) for resource in rule.resources))
            and _meet(rule.verbs, verbs)
        ):
            held.add(name)
    return held


def _meet(granted: tuple[str, ...], counting: frozenset[str]) -> bool:
    return not counting or "*" in granted or not counting.isdisjoint(granted)


def _covers_any(granted: str, resources: frozenset[str]) -> bool:
    if granted in {"*", "*/*"} or granted in resources:
        return True
    return granted.startswith("*/") and any(resource.endswith(granted[1:]) for resource in resources)
