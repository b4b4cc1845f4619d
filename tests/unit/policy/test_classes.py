import pytest

from exchanged.model import Rule
from exchanged.policy.classes import ALL, breeding, reaches_everywhere


def _rule(group: str, resource: str, *verbs: str) -> Rule:
    return Rule(api_groups=(group,), resources=(resource,), verbs=verbs)


@pytest.mark.parametrize(
    ("rule", "classes"),
    [
        (_rule("", "pods", "get", "list", "watch", "delete"), set()),
        (_rule("", "pods", "create"), {"workloads"}),
        (_rule("apps", "deployments", "patch"), {"workloads"}),
        (_rule("apps", "deployments/scale", "patch"), set()),
        (_rule("batch", "cronjobs", "update"), {"workloads"}),
        (_rule("", "secrets", "get"), {"secrets"}),
        (_rule("", "secrets", "delete"), {"secrets"}),
        (_rule("", "pods/exec", "create"), {"exec"}),
        (_rule("", "pods/portforward", "get"), {"exec"}),
        (_rule("", "pods/ephemeralcontainers", "patch"), {"exec", "workloads"}),
        (_rule("", "nodes/proxy", "get"), {"exec", "nodes"}),
        (_rule("", "serviceaccounts/token", "create"), {"tokens"}),
        (_rule("", "nodes/pods", "get"), {"nodes"}),
        (_rule("", "nodes/metrics", "get"), {"nodes"}),
        (_rule("", "nodes/stats", "get"), {"nodes"}),
        (_rule("", "nodes/checkpoint", "create"), {"nodes"}),
        (_rule("", "nodes", "get", "list"), set()),
        (_rule("", "serviceaccounts", "create"), {"rbac"}),
        (_rule("", "serviceaccounts", "delete"), {"rbac"}),
        (_rule("", "serviceaccounts", "get", "list"), set()),
        (_rule("certificates.k8s.io", "clustertrustbundles", "create"), {"tokens"}),
        (_rule("certificates.k8s.io", "clustertrustbundles", "get"), set()),
        (_rule("certificates.k8s.io", "certificatesigningrequests", "create"), {"tokens"}),
        (_rule("rbac.authorization.k8s.io", "rolebindings", "create"), {"rbac"}),
        (_rule("rbac.authorization.k8s.io", "roles", "get"), set()),
        (_rule("rbac.authorization.k8s.io", "clusterroles", "bind"), {"rbac"}),
        (_rule("admissionregistration.k8s.io", "validatingwebhookconfigurations", "delete"), {"rbac"}),
        (_rule("", "users", "impersonate"), {"impersonate"}),
        (_rule("authentication.k8s.io", "anything", "impersonate:user-info"), {"impersonate"}),
        (_rule("authentication.k8s.io", "userextras/scopes", "*"), {"impersonate", "wildcard"}),
        (_rule("authentication.k8s.io", "*/scopes", "*"), {"impersonate", "wildcard"}),
        (_rule("", "nodes", "patch"), {"nodes"}),
        (_rule("", "*", "get"), {"wildcard", "secrets", "exec", "tokens", "nodes"}),
        (_rule("apps", "*/scale", "update"), {"wildcard"}),
        (_rule("", "*/exec", "create"), {"wildcard", "exec"}),
        (_rule("*", "*", "*"), ALL),
        (_rule("apps", "deployments", "*"), {"wildcard", "workloads"}),
        (_rule("*", "deployments", "create"), {"wildcard", "workloads", "rbac"}),
    ],
)
def test_classes_of_a_rule(rule: Rule, classes: set[str]) -> None:
    """Each right that breeds is of its class; a wildcard is of every class that it may stand for."""
    assert breeding([rule]) == classes


def test_what_nobody_reaches_everywhere() -> None:
    """Secrets, accounts, pods and what makes them are not to be had in all namespaces at once, nor by a wildcard."""
    assert reaches_everywhere([_rule("", "secrets", "get"), _rule("", "pods/log", "get"), _rule("", "*", "get")]) == {
        "secrets",
        "pods/log",
        "*",
    }
    assert not reaches_everywhere([_rule("", "nodes", "get")])
