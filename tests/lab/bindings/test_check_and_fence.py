import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.worlds import World, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pod-reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
"""
MODE = {
    "mode": "bindings",
    "namespaces": ["web"],
    "clusterRoles": ["pod-reader"],
    "fencedRoles": True,
    "allow": ["workloads"],
}
GRANTS = "exchanged-grants"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
LABELS = {"exchanged.dev/instance": "aaaaaaaaaaaa", "exchanged.dev/grant": "bbbbbbbbbbbbbbbbbbbb"}
EXPIRES = {"exchanged.dev/expires-at": "2030-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with fenced roles, set up as printed."""
    with world(tmp_path_factory.mktemp("fence"), {"prod": MODE}, {"web.yaml": policy("deploy-web")}) as running:
        running.cluster.apply(ROLE)
        _until_fenced(running)
        yield running


def _metadata(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "labels": LABELS, "annotations": EXPIRES, **changes}


def _binding(role: dict[str, str], subjects: list[dict[str, str]] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": _metadata("attack", **changes),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **role},
        "subjects": subjects or [{"kind": "ServiceAccount", "name": "attack", "namespace": GRANTS}],
    }


def _role(group: str, resource: str, *verbs: str) -> dict[str, Any]:
    rules = [{"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}]
    return {"metadata": _metadata("attack"), "rules": rules}


LISTED = {"kind": "ClusterRole", "name": "pod-reader"}
ATTACKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("an account outside of its namespace", "POST", "/api/v1/namespaces/web/serviceaccounts",
     {"metadata": _metadata("x")}),
    ("an account without labels", "POST", f"/api/v1/namespaces/{GRANTS}/serviceaccounts", {"metadata": {"name": "x"}}),
    ("an account that never expires", "POST", f"/api/v1/namespaces/{GRANTS}/serviceaccounts",
     {"metadata": {"name": "x", "labels": LABELS}}),
    ("an account that a finalizer keeps", "POST", f"/api/v1/namespaces/{GRANTS}/serviceaccounts",
     {"metadata": _metadata("x", finalizers=["example.com/keep"])}),
    ("a binding to a role that is not listed", "POST", f"{RBAC}/web/rolebindings",
     _binding({"kind": "ClusterRole", "name": "admin"})),
    ("a binding for somebody else", "POST", f"{RBAC}/web/rolebindings",
     _binding(LISTED, [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}])),
    ("a binding for an account elsewhere", "POST", f"{RBAC}/web/rolebindings",
     _binding(LISTED, [{"kind": "ServiceAccount", "name": "powerful", "namespace": "web"}])),
    ("a binding in another namespace", "POST", f"{RBAC}/other/rolebindings", _binding(LISTED)),
    ("a binding in the grants' namespace", "POST", f"{RBAC}/{GRANTS}/rolebindings", _binding(LISTED)),
    ("a binding without labels", "POST", f"{RBAC}/web/rolebindings", _binding(LISTED, labels={})),
    ("a binding to another grant's role", "POST", f"{RBAC}/web/rolebindings", _binding({"kind": "Role", "name": "x"})),
    ("a role that reads secrets", "POST", f"{RBAC}/web/roles", _role("", "secrets", "get")),
    ("a role that writes roles", "POST", f"{RBAC}/web/roles", _role("rbac.authorization.k8s.io", "roles", "create")),
    ("a role that makes tokens", "POST", f"{RBAC}/web/roles", _role("", "serviceaccounts/token", "create")),
    ("a role that runs commands", "POST", f"{RBAC}/web/roles", _role("", "pods/exec", "create")),
    ("a role that impersonates", "POST", f"{RBAC}/web/roles", _role("", "users", "impersonate")),
    ("a role with wildcards", "POST", f"{RBAC}/web/roles", _role("*", "*", "*")),
    ("a binding in the whole cluster", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     _binding({"kind": "ClusterRole", "name": "cluster-admin"})),
    ("a pod", "POST", "/api/v1/namespaces/web/pods",
     {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}),
    ("a token of another account", "POST", "/api/v1/namespaces/web/serviceaccounts/powerful/token", {"spec": {}}),
    ("the end of somebody's account", "DELETE", "/api/v1/namespaces/web/serviceaccounts/powerful", {}),
    ("the end of its own fence", "DELETE",
     "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/exchanged-daemon", {}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "method", "path", "body"), ATTACKS, ids=[attack[0] for attack in ATTACKS])
def test_the_daemon_cannot_break_out(made: World, what: str, method: str, path: str, body: dict[str, Any]) -> None:
    """With the daemon's own credential, nothing can be made or ended at the cluster but a grant's own objects."""
    token = (made.daemon.folder / "prod.token").read_text()
    kind = {"serviceaccounts": "ServiceAccount", "rolebindings": "RoleBinding", "roles": "Role", "pods": "Pod"}
    kind |= {"token": "TokenRequest", "clusterrolebindings": "ClusterRoleBinding"}
    version = "rbac.authorization.k8s.io/v1" if "rbac" in path else "v1"
    if path.endswith("/token"):
        version = "authentication.k8s.io/v1"
    full = {"apiVersion": version, "kind": kind.get(path.rsplit("/", 1)[1], "DeleteOptions"), **body}
    status, answer = made.cluster.request(method, path, token=token, body=full if method == "POST" else None)
    assert status in {403, 422}, (what, answer)


def test_a_long_token_is_not_to_be_had(made: World) -> None:
    """A token of a grant's account lives no longer than the ceiling, and is for this cluster alone."""
    reply = made.token("deploy-web/rollout")
    token = (made.daemon.folder / "prod.token").read_text()
    path = f"/api/v1/namespaces/{GRANTS}/serviceaccounts/deploy-web-{reply['grant_id']}/token"
    head = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    for spec in (
        {"expirationSeconds": 86400, "audiences": [made.cluster.issuer]},
        {"expirationSeconds": 600, "audiences": ["https://elsewhere.example"]},
    ):
        status, answer = made.cluster.request("POST", path, token=token, body={**head, "spec": spec})
        assert status in {403, 422}, answer


def test_a_grant_cannot_break_out(made: World) -> None:
    """Even where RBAC was given by mistake, a grant writes no RBAC, no accounts and no tokens."""
    reply = made.token("deploy-web/rollout")
    name = f"deploy-web-{reply['grant_id']}"
    made.cluster.apply(f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: mistake-{reply["grant_id"]}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {GRANTS}}}]
""")
    token = reply["access_token"]
    rbac = "rbac.authorization.k8s.io/v1"
    containers = [{"name": "x", "image": "x"}]
    pod = {"hostNetwork": True, "serviceAccountName": "web", "containers": containers}
    tries: list[tuple[str, str, str, dict[str, Any]]] = [
        (f"{RBAC}/web/rolebindings", rbac, "RoleBinding", _binding(LISTED)),
        ("/api/v1/namespaces/web/serviceaccounts", "v1", "ServiceAccount", {"metadata": {"name": "x"}}),
        ("/api/v1/namespaces/web/serviceaccounts/powerful/token", "authentication.k8s.io/v1", "TokenRequest", {}),
        (f"/api/v1/namespaces/{GRANTS}/configmaps", "v1", "ConfigMap", {"metadata": {"name": "x"}}),
        ("/api/v1/namespaces/web/pods", "v1", "Pod", {"metadata": {"name": "x"}, "spec": pod}),
    ]
    for path, version, kind, rest in tries:
        body = {"apiVersion": version, "kind": kind, "spec": {}, **rest}
        if kind not in {"Pod", "TokenRequest"}:
            del body["spec"]
        status, answer = made.cluster.request("POST", path, token=token, body=body)
        assert status in {403, 422}, (path, answer)
        assert "exchanged:" in answer["message"]


def test_check_finds_nothing_wrong_in_what_setup_printed(made: World) -> None:
    """A cluster that is set up as printed has no finding of level wrong."""
    done = made.daemon.run("cluster", "check", "prod", "-o", "json", check=False)
    findings = json.loads(done.stdout)
    assert [finding for finding in findings if finding["level"] == "wrong"] == []
    assert done.returncode == 0


def test_check_tells_what_is_wrong_and_what_is_wide(made: World) -> None:
    """A fence that was moved, a right that everybody has, and a foreign account are found."""
    made.cluster.apply(f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: everybody-views}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:authenticated"}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: foreign, namespace: {GRANTS}}}
""")
    made.cluster.kubectl("delete", "validatingadmissionpolicybinding", "exchanged-daemon")
    try:
        done = made.daemon.run("cluster", "check", "prod", "-o", "json", check=False)
        told = " ".join(finding["what"] for finding in json.loads(done.stdout))
        assert done.returncode == 1
        for expected in ("everybody-views", "foreign", "the fence has a gap"):
            assert expected in told
    finally:
        made.cluster.kubectl("delete", "serviceaccount", "foreign", "-n", GRANTS)
        made.cluster.kubectl("delete", "clusterrolebinding", "everybody-views")
        made.cluster.apply((made.daemon.folder / "setup-prod" / "manifests.yaml").read_text())
        _until_fenced(made)


def _until_fenced(made: World) -> None:
    """An admission policy is in force a moment after it was applied."""
    token = (made.daemon.folder / "prod.token").read_text()
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}}
    until = time.monotonic() + 20
    path = f"/api/v1/namespaces/{GRANTS}/serviceaccounts?dryRun=All"
    while made.cluster.request("POST", path, token=token, body=body)[0] == 201:
        assert time.monotonic() < until
