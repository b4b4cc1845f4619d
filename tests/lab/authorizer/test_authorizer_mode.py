import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from kubernetes.client.exceptions import ApiException

from exchanged.cluster.kinds import OF_NO_NAMESPACE
from tests.lab.worlds import World, python_client, world
from tests.policies import policy, reading

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

EVERYWHERE = [
    {"apiGroups": [""], "resources": ["configmaps", "namespaces"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["list"]},
]
MODE = {"mode": "authorizer", "allow": ["workloads"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two clusters in mode authorizer, and their daemon."""
    folder = tmp_path_factory.mktemp("authorizer")
    policies = {
        "web.yaml": policy("deploy-web"),
        "all.yaml": reading("read-all", namespaces=None, clusterScoped=True, rules=EVERYWHERE),
        "pods.yaml": reading(clusters=["prod", "test"], lifetime={"default": "5m", "max": "15m"}),
    }
    with world(folder, {"prod": MODE, "test": MODE}, policies) as made:
        yield made


def _get(made: World, token: str, what: str, cluster: str = "prod", namespace: str = "web") -> tuple[bool, str]:
    kind, _, name = what.partition("/")
    arguments = ("get", kind, *([name] if name else []), "-n", namespace)
    done = made.clusters[cluster].kubectl(*arguments, token=token, check=False)
    return done.returncode == 0, done.stderr


def test_exactly_what_was_granted(both: World) -> None:
    """One verb on one named object is allowed, and nothing beside it."""
    token = both.token("deploy-web/rollout")["access_token"]
    assert _get(both, token, "deployment/web")[0]
    patched = both.cluster.kubectl(
        "label", "deployment/web", "a=b", "-n", "web", "--overwrite", token=token, check=False
    )
    assert patched.returncode == 0, patched.stderr
    for what, namespace in (("deployment/beside", "web"), ("deployments", "web"), ("pods", "web"), ("secrets", "web")):
        allowed, error = _get(both, token, what, namespace=namespace)
        assert not allowed
        assert "not granted by deploy-web/rollout" in error
    assert not _get(both, token, "deployment/web", namespace="other")[0]
    deleted = both.cluster.kubectl("delete", "deployment/web", "-n", "web", token=token, check=False)
    assert deleted.returncode != 0
    assert "Forbidden" in deleted.stderr


def test_the_whole_cluster_is_without_the_closed_namespaces(both: World) -> None:
    """A grant for the whole cluster reads namespace by namespace, and at once only what belongs to no namespace."""
    both.cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: private, namespace: exchanged}")
    token = both.token("read-all/pods")["access_token"]
    expected = {
        "/api/v1/namespaces/web/configmaps": 200,
        "/api/v1/namespaces": 200,
        "/apis/rbac.authorization.k8s.io/v1/clusterroles": 200,
        "/api/v1/configmaps": 403,
        "/api/v1/configmaps?watch=true&timeoutSeconds=1": 403,
        "/api/v1/configmaps?fieldSelector=metadata.name%3Dprivate": 403,
        "/api/v1/namespaces/exchanged/configmaps": 403,
    }
    assert {path: both.cluster.request("GET", path, token=token)[0] for path in expected} == expected


def test_which_kinds_belong_to_no_namespace(both: World) -> None:
    """The list that this goes by is the API server's own."""
    found = set()
    for version in both.cluster.request("GET", "/apis")[1]["groups"]:
        path = f"/apis/{version['preferredVersion']['groupVersion']}"
        found |= {(version["name"], each["name"]) for each in _of_no_namespace(both, path)}
    found |= {("", each["name"]) for each in _of_no_namespace(both, "/api/v1")}
    assert OF_NO_NAMESPACE - {("metrics.k8s.io", "nodes")} == found


def _of_no_namespace(both: World, path: str) -> list[dict[str, Any]]:
    resources = both.cluster.request("GET", path)[1]["resources"]
    return [each for each in resources if not each["namespaced"] and "list" in each["verbs"]]


def test_clients_have_what_they_need(both: World) -> None:
    """Kubectl's questions about itself and the API are answered for every grant."""
    token = both.token("read-pods/pods")["access_token"]
    who = json.loads(both.cluster.kubectl("auth", "whoami", "-o", "json", token=token).stdout)["status"]["userInfo"]
    assert who["username"].startswith("exchanged:read-pods:")
    assert who["extra"]["exchanged.dev/owner"] == ["team-web@example.com"]
    assert who["groups"] == ["system:authenticated"]
    assert both.cluster.kubectl("auth", "can-i", "list", "pods", "-n", "web", token=token).stdout.strip() == "yes"
    can_not = both.cluster.kubectl("auth", "can-i", "delete", "pods", "-n", "web", token=token, check=False)
    assert can_not.stdout.startswith("no")
    assert both.cluster.kubectl("api-resources", token=token).returncode == 0


def test_the_python_client_works_with_it(both: World) -> None:
    """The official Python client uses the token as any other, and is told what it may not do."""
    token = both.token("read-pods/pods")["access_token"]
    with python_client(both.cluster, token) as api:
        assert api.list_namespaced_pod("web").items == []
        with pytest.raises(ApiException) as refused:
            api.list_namespaced_secret("web")
    assert refused.value.status == 403


def test_revocation_takes_effect_on_the_next_request(both: World) -> None:
    """A warm token is denied right after its grant was revoked."""
    reply = both.token("read-pods/pods")
    token, path = reply["access_token"], "/api/v1/namespaces/web/pods"
    assert both.cluster.request("GET", path, token=token)[0] == 200
    both.daemon.run("grants", "revoke", reply["grant_id"], "--why", "test")
    status, answer = both.cluster.request("GET", path, token=token)
    assert status == 403
    assert "over (test)" in answer["message"]


def test_giving_back_ends_it(both: World) -> None:
    """A caller that gives its token back cannot use it any more."""
    token = both.token("read-pods/pods")["access_token"]
    assert both.cluster.request("GET", "/api/v1/namespaces/web/pods", token=token)[0] == 200
    both.daemon.run("token", "revoke", stdin=token)
    assert both.cluster.request("GET", "/api/v1/namespaces/web/pods", token=token)[0] == 403


def test_expiry_to_the_second(both: World) -> None:
    """A grant of ten seconds is allowed before its end, and denied after."""
    reply = both.token("read-pods/pods", lifetime="10s")
    token = reply["access_token"]
    end = jwt.decode(token, options={"verify_signature": False})["exp"]
    last_allowed = 0.0
    while time.time() < end + 1:
        began = time.time()
        if both.cluster.request("GET", "/api/v1/namespaces/web/pods", token=token)[0] == 200:
            last_allowed = began
    assert end - 1 < last_allowed <= end


def test_a_token_for_one_cluster_is_worthless_at_another(both: World) -> None:
    """Two clusters of one daemon tell their tokens apart."""
    token = both.token("read-pods/pods", cluster="test")["access_token"]
    path = "/api/v1/namespaces/web/pods"
    assert both.clusters["test"].request("GET", path, token=token)[0] == 200
    assert both.clusters["prod"].request("GET", path, token=token)[0] == 401


def test_a_signed_token_without_a_record_is_denied(both: World) -> None:
    """The daemon's own key is not enough: what is not on record is nobody."""
    real = both.token("read-pods/pods")["access_token"]
    claims = jwt.decode(real, options={"verify_signature": False})
    (key_file,) = (both.daemon.folder / "state" / "keys").glob("*.pem")
    key = load_pem_private_key(key_file.read_bytes(), None)
    path = "/api/v1/namespaces/web/pods"
    for change in ({"jti": "0" * 32}, {"sub": "deploy-web:0123456789abcdef0123", "grant": "0123456789abcdef0123"}):
        forged = jwt.encode(claims | change, key, "ES256", headers={"kid": jwt.get_unverified_header(real)["kid"]})  # type: ignore[arg-type] # an EC key
        status, answer = both.cluster.request("GET", path, token=forged)
        assert status == 403, answer
    long = jwt.encode(
        claims | {"exp": claims["exp"] + 7200},
        key,  # type: ignore[arg-type] # an EC key
        "ES256",
        headers={"kid": jwt.get_unverified_header(real)["kid"]},
    )
    assert both.cluster.request("GET", path, token=long)[0] == 401


def test_another_credential_with_the_same_name_is_denied(both: World, tmp_path: Path) -> None:
    """A client certificate with a grant's user name is not the grant's credential."""
    reply = both.token("read-pods/pods")
    user = f"exchanged:read-pods:{reply['grant_id']}"
    certificate, key = both.cluster.authority.client(user).write(tmp_path, "client")
    done = both.cluster.kubectl(
        "get", "pods", "-n", "web", f"--client-certificate={certificate}", f"--client-key={key}",
        "--token=", kubeconfig=both.cluster.kubeconfig_for("", tmp_path / "kubeconfig"), check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Forbidden" in done.stderr
    assert "not the" in done.stderr


def test_pod_templates_keep_to_the_listed_accounts(both: World) -> None:
    """A grant that patches a deployment can name the policy's service account in it, and no other, and not the host."""
    token = both.token("deploy-web/rollout")["access_token"]

    def patched(spec: str) -> tuple[int, str]:
        patch = f'{{"spec":{{"template":{{"spec":{spec}}}}}}}'
        arguments = ("patch", "deployment/web", "-n", "web", "--type=merge", "-p", patch)
        done = both.cluster.kubectl(*arguments, token=token, check=False)
        return done.returncode, done.stderr

    assert patched('{"serviceAccountName":"web","terminationGracePeriodSeconds":7}')[0] == 0
    for spec in (
        '{"serviceAccountName":"powerful"}',
        '{"hostNetwork":true}',
        '{"volumes":[{"name":"h","hostPath":{"path":"/"}}]}',
        '{"containers":[{"name":"main","image":"x","securityContext":{"privileged":true}}]}',
    ):
        code, error = patched(spec)
        assert code != 0
        assert "exchanged:" in error


def test_with_the_daemon_down_only_its_users_are_denied(both: World) -> None:
    """Nobody else notices that the daemon is away; its users are denied, and allowed again when it is back."""
    token, path = both.token("read-pods/pods")["access_token"], "/api/v1/namespaces/web/pods"
    assert both.cluster.request("GET", path, token=token)[0] == 200
    both.daemon.stop()
    try:
        assert both.cluster.request("GET", path, token=token)[0] in {403, 500}
        assert both.cluster.request("GET", path)[0] == 200
    finally:
        both.daemon.start()
        both.daemon.wait_ready()
    assert both.cluster.request("GET", path, token=token)[0] == 200


def test_the_audit_log_names_policy_and_grant(both: World) -> None:
    """Who reads the cluster's own audit log finds the grant, its owner, and the credential."""
    reply = both.token("read-pods/pods")
    both.cluster.request("GET", "/api/v1/namespaces/web/pods", token=reply["access_token"])
    events = [json.loads(line) for line in both.cluster.audit_log.read_text().splitlines()]
    mine = [event for event in events if event["user"].get("uid") == reply["grant_id"]]
    assert mine
    assert mine[-1]["user"]["extra"]["exchanged.dev/grant"] == [reply["grant_id"]]
