import json
from collections.abc import Iterator
from typing import Any

import pytest

from exchanged.cluster.state import instance
from tests.lab.worlds import FENCED_MODE, POD_READER, World, until_fenced, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

_OTHERS = 'labels: {exchanged.dev/instance: "000000000000", exchanged.dev/grant: cccccccccccccccccccc}'
OTHERS = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: sre, namespace: web}}
rules: [{{apiGroups: [""], resources: [serviceaccounts], verbs: [impersonate]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: others, namespace: web, {_OTHERS}}}
rules: []
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: others, namespace: exchanged-grants, {_OTHERS}}}
"""
GRANTS = "exchanged-grants"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
ACCOUNTS = f"/api/v1/namespaces/{GRANTS}/serviceaccounts"
GRANT = "bbbbbbbbbbbbbbbbbbbb"
NAME = f"attack-{GRANT}"
LABELS = {"exchanged.dev/instance": "INSTANCE", "exchanged.dev/grant": GRANT}
"""INSTANCE is put in where it is known."""
EXPIRES = {"exchanged.dev/expires-at": "2030-01-01T00:00:00Z"}
KINDS = {
    "serviceaccounts": ("v1", "ServiceAccount"),
    "rolebindings": ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    "clusterrolebindings": ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    "roles": ("rbac.authorization.k8s.io/v1", "Role"),
    "pods": ("v1", "Pod"),
    "token": ("authentication.k8s.io/v1", "TokenRequest"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with fenced roles, set up as printed."""
    with world(tmp_path_factory.mktemp("fence"), {"prod": FENCED_MODE}, {"web.yaml": policy("deploy-web")}) as running:
        running.cluster.apply(f"{POD_READER}\n---\n{OTHERS}")
        until_fenced(running)
        yield running


def _metadata(name: str = NAME, **changes: Any) -> dict[str, Any]:
    return {"name": name, "labels": LABELS, "annotations": EXPIRES, **changes}


def _binding(role: dict[str, str], subjects: list[dict[str, str]] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": _metadata(**changes),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **role},
        "subjects": subjects or [{"kind": "ServiceAccount", "name": NAME, "namespace": GRANTS}],
    }


def _role(group: str, resource: str, *verbs: str, **changes: Any) -> dict[str, Any]:
    rules = [{"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}]
    return {"metadata": _metadata(**changes), "rules": rules}


LISTED = {"kind": "ClusterRole", "name": "pod-reader"}
OWN = {"kind": "Role", "name": NAME}
ALLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("an account", ACCOUNTS, {"metadata": _metadata()}),
    ("a role", f"{RBAC}/web/roles", _role("apps", "deployments", "get", "patch")),
    ("a binding to a listed role", f"{RBAC}/web/rolebindings", _binding(LISTED)),
    ("a binding to the grant's own role", f"{RBAC}/web/rolebindings", _binding(OWN)),
    ("a binding to the grant's run-as role", f"{RBAC}/web/rolebindings",
     _binding({"kind": "Role", "name": f"{NAME}-run-as"}, name=f"{NAME}-run-as")),
]  # fmt: skip
ATTACKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("an account outside of its namespace", "POST", "/api/v1/namespaces/web/serviceaccounts",
     {"metadata": _metadata()}),
    ("an account without labels", "POST", ACCOUNTS, {"metadata": {"name": "x"}}),
    ("an account of another daemon", "POST", ACCOUNTS,
     {"metadata": _metadata(labels={**LABELS, "exchanged.dev/instance": "aaaaaaaaaaaa"})}),
    ("an account that never expires", "POST", ACCOUNTS, {"metadata": _metadata(annotations={})}),
    ("an account that a finalizer keeps", "POST", ACCOUNTS, {"metadata": _metadata(finalizers=["example.com/keep"])}),
    ("an account of any name", "POST", ACCOUNTS, {"metadata": _metadata("attack")}),
    ("a label that is a pattern", "POST", ACCOUNTS,
     {"metadata": _metadata("attack-x", labels={**LABELS, "exchanged.dev/grant": "x"})}),
    ("a binding to a role that is not listed", "POST", f"{RBAC}/web/rolebindings",
     _binding({"kind": "ClusterRole", "name": "admin"})),
    ("a binding for somebody else", "POST", f"{RBAC}/web/rolebindings",
     _binding(LISTED, [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}])),
    ("a binding for an account elsewhere", "POST", f"{RBAC}/web/rolebindings",
     _binding(LISTED, [{"kind": "ServiceAccount", "name": NAME, "namespace": "web"}])),
    ("a binding for an account of any name", "POST", f"{RBAC}/web/rolebindings",
     _binding(LISTED, [{"kind": "ServiceAccount", "name": "foreign", "namespace": GRANTS}])),
    ("a binding of any name", "POST", f"{RBAC}/web/rolebindings", _binding(LISTED, name="attack")),
    ("a binding in another namespace", "POST", f"{RBAC}/other/rolebindings", _binding(LISTED)),
    ("a binding in the grants' namespace", "POST", f"{RBAC}/{GRANTS}/rolebindings", _binding(LISTED)),
    ("a binding without labels", "POST", f"{RBAC}/web/rolebindings", _binding(LISTED, labels={})),
    ("a binding to another grant's role", "POST", f"{RBAC}/web/rolebindings", _binding({"kind": "Role", "name": "x"})),
    ("a binding to a role that somebody made, by its name", "POST", f"{RBAC}/web/rolebindings",
     _binding({"kind": "Role", "name": "sre"}, name="sre")),
    ("a role that somebody's binding waits for", "POST", f"{RBAC}/web/roles",
     _role("apps", "deployments", "patch", name="missing")),
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
    ("the end of another daemon's account", "DELETE", f"{ACCOUNTS}/others", {}),
    ("the end of another daemon's role", "DELETE", f"{RBAC}/web/roles/others", {}),
    ("the end of its own fence", "DELETE",
     "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/exchanged-daemon", {}),
]  # fmt: skip


def _as_daemon(made: World, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """One request with the daemon's own credential; kinds and the instance are put in."""
    token = (made.daemon.folder / "prod.token").read_text()
    version, kind = KINDS.get(path.split("?", 1)[0].rsplit("/", 1)[1], ("v1", "DeleteOptions"))
    text = json.dumps({"apiVersion": version, "kind": kind, **body})
    full = json.loads(text.replace("INSTANCE", instance(made.daemon.folder / "state")))
    return made.cluster.request(method, path, token=token, body=full if method == "POST" else None)


@pytest.mark.parametrize(("what", "path", "body"), ALLOWED, ids=[each[0] for each in ALLOWED])
def test_the_daemon_does_its_work(made: World, what: str, path: str, body: dict[str, Any]) -> None:
    """What a grant is made of passes, so that each attack below is refused for its one difference."""
    status, answer = _as_daemon(made, "POST", f"{path}?dryRun=All", body)
    assert status == 201, (what, answer)


@pytest.mark.parametrize(("what", "method", "path", "body"), ATTACKS, ids=[attack[0] for attack in ATTACKS])
def test_the_daemon_cannot_break_out(made: World, what: str, method: str, path: str, body: dict[str, Any]) -> None:
    """With the daemon's own credential, nothing can be made or ended at the cluster but a grant's own objects."""
    status, answer = _as_daemon(made, method, path, body)
    assert status in {403, 422}, (what, answer)


def test_what_lies_in_a_namespace_that_was_taken_from_the_list_can_be_withdrawn(made: World) -> None:
    """Where the daemon may create no more, it still deletes what carries its label and instance."""
    made.cluster.apply(f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: exchanged-daemon, namespace: other}}
rules:
- {{apiGroups: [rbac.authorization.k8s.io], resources: [rolebindings], verbs: [create, delete]}}
- {{apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], verbs: [bind]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: exchanged-daemon, namespace: other}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: exchanged-daemon}}
subjects: [{{kind: ServiceAccount, name: exchanged, namespace: exchanged}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {NAME}
  namespace: other
  labels: {{exchanged.dev/instance: "{instance(made.daemon.folder / "state")}", exchanged.dev/grant: {GRANT}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pod-reader}}
subjects: [{{kind: ServiceAccount, name: {NAME}, namespace: {GRANTS}}}]
""")
    status, answer = _as_daemon(made, "POST", f"{RBAC}/other/rolebindings", _binding(LISTED, name=f"b-{GRANT}"))
    assert (status, "listed namespaces" in answer["message"]) == (403, True), answer
    assert _as_daemon(made, "DELETE", f"{RBAC}/other/rolebindings/{NAME}", {})[0] == 200


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


WRITES: list[tuple[str, str, dict[str, Any]]] = [
    (f"{RBAC}/web/rolebindings", "rbac.authorization.k8s.io/v1 RoleBinding", _binding(LISTED)),
    ("/api/v1/namespaces/web/serviceaccounts", "v1 ServiceAccount", {}),
    ("/api/v1/namespaces/web/serviceaccounts/powerful/token", "authentication.k8s.io/v1 TokenRequest",
     {"metadata": {"name": "powerful"}, "spec": {}}),
    (f"/api/v1/namespaces/{GRANTS}/configmaps", "v1 ConfigMap", {}),
    ("/api/v1/namespaces/web/secrets", "v1 Secret",
     {"type": "kubernetes.io/service-account-token",
      "metadata": {"name": "x", "annotations": {"kubernetes.io/service-account.name": "powerful"}}}),
    ("/api/v1/namespaces/kube-system/secrets", "v1 Secret",
     {"type": "bootstrap.kubernetes.io/token", "metadata": {"name": "bootstrap-token-abcdef"}}),
    ("/apis/apps/v1/namespaces/web/controllerrevisions", "apps/v1 ControllerRevision",
     {"revision": 1, "data": {"spec": {"template": {"spec": {"hostPID": True, "serviceAccountName": "powerful"}}}}}),
    ("/api/v1/namespaces/web/pods/placed/binding", "v1 Binding",
     {"metadata": {"name": "placed"}, "target": {"kind": "Node", "name": "control-plane"}}),
    ("/api/v1/namespaces/web/bindings", "v1 Binding",
     {"metadata": {"name": "placed"}, "target": {"kind": "Node", "name": "control-plane"}}),
    ("/api/v1/namespaces", "v1 Namespace", {}),
    ("/apis/certificates.k8s.io/v1/clustertrustbundles", "certificates.k8s.io/v1 ClusterTrustBundle",
     {"spec": {"trustBundle": "AUTHORITY"}}),
    ("/apis/apiregistration.k8s.io/v1/apiservices", "apiregistration.k8s.io/v1 APIService",
     {"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
      "service": {"name": "x", "namespace": "web"}, "groupPriorityMinimum": 1, "versionPriority": 1}}),
    ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "apiextensions.k8s.io/v1 CustomResourceDefinition",
     {"metadata": {"name": "xs.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
      "names": {"plural": "xs", "kind": "X"}, "versions": [{"name": "v1", "served": True, "storage": True,
      "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
]  # fmt: skip


def test_a_grant_cannot_break_out(made: World) -> None:
    """Even where RBAC was given by mistake, a grant writes no RBAC, accounts or tokens, nor what they are made of."""
    reply = made.token("deploy-web/rollout")
    name = f"deploy-web-{reply['grant_id']}"
    made.cluster.apply(f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: mistake-{reply["grant_id"]}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {GRANTS}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: placed, namespace: web}}
spec: {{serviceAccountName: web, containers: [{{name: x, image: x}}]}}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {{name: token-of-web, namespace: web, annotations: {{kubernetes.io/service-account.name: web}}}}
""")
    token = reply["access_token"]
    for path, of_kind, rest in WRITES:
        version, kind = of_kind.split()
        full = json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, **rest})
        body = json.loads(full.replace('"AUTHORITY"', json.dumps(made.cluster.ca_pem)))
        status, answer = made.cluster.request("POST", path, token=token, body=body)
        assert status in {403, 422}, (path, answer)
        assert "exchanged:" in answer["message"], (path, answer)
    turned = (
        "annotate",
        "secret/token-of-web",
        "-n",
        "web",
        "--overwrite",
        "kubernetes.io/service-account.name=powerful",
    )
    assert "by way of Secrets" in made.cluster.kubectl(*turned, token=token, check=False).stderr
    for body in ({"type": "Opaque"}, {}):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, **body}
        assert (
            made.cluster.request("POST", "/api/v1/namespaces/web/secrets?dryRun=All", token=token, body=secret)[0]
            == 201
        )
    assert made.cluster.request("DELETE", "/api/v1/namespaces/web/secrets/token-of-web", token=token)[0] == 200
