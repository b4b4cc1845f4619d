import json
import time
from collections.abc import Iterator

import pytest
from kubernetes.client.exceptions import ApiException

from tests.lab.worlds import POD_READER, World, python_client, world
from tests.policies import policy, reading

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PODS = "/api/v1/namespaces/web/pods"
NAMED = {"mode": "bindings", "namespaces": ["web"], "clusterRoles": ["pod-reader"]}
FENCED = {"mode": "bindings", "namespaces": ["web"], "fencedRoles": True, "allow": ["workloads"]}
GRANTS = "exchanged-grants"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with a listed cluster role, one with fenced roles, and their daemon."""
    policies = {
        "named.yaml": policy(
            "read-named", name="pods", rules=None, clusterRole="pod-reader", acknowledge=None, workloads=None
        ),
        "fenced.yaml": policy("deploy-fenced", clusters=["fenced"]),
        "read.yaml": reading("read-fenced", clusters=["fenced"]),
    }
    folder = tmp_path_factory.mktemp("bindings")
    with world(folder, {"prod": NAMED, "fenced": FENCED}, policies) as running:
        running.clusters["prod"].apply(POD_READER)
        until = time.monotonic() + 20
        while running.daemon.json("status")["clusters"]["prod"] is not None:
            assert time.monotonic() < until
        yield running


def _names(world: World, kind: str, namespace: str, cluster: str = "prod") -> list[str]:
    listed = world.clusters[cluster].kubectl("get", kind, "-n", namespace, "-o", "json").stdout
    return [item["metadata"]["name"] for item in json.loads(listed)["items"]]


def test_usable_when_the_reply_arrives(made: World) -> None:
    """The very first request of a fresh token is allowed, and what is beside it is not."""
    for _ in range(10):
        token = made.token("read-named/pods")["access_token"]
        assert made.cluster.request("GET", PODS, token=token)[0] == 200
    assert made.cluster.request("GET", "/api/v1/namespaces/web/configmaps", token=token)[0] == 403
    assert made.cluster.request("GET", "/api/v1/namespaces/other/pods", token=token)[0] == 403
    assert made.cluster.kubectl("get", "pods", "-n", "web", token=token).returncode == 0


def test_the_python_client_works_with_it(made: World) -> None:
    """The official Python client uses the token as any other, and is told what it may not do."""
    token = made.token("read-named/pods")["access_token"]
    with python_client(made.cluster, token) as api:
        assert api.list_namespaced_pod("web").items == []
        with pytest.raises(ApiException) as refused:
            api.list_namespaced_secret("web")
    assert refused.value.status == 403


def test_revoked_is_cut_and_nothing_is_left(made: World) -> None:
    """After the revocation the warm token may do nothing, and binding and account are gone."""
    reply = made.token("read-named/pods")
    name = f"read-named-{reply['grant_id']}"
    assert made.cluster.request("GET", PODS, token=reply["access_token"])[0] == 200
    assert name in _names(made, "serviceaccounts", GRANTS)
    made.daemon.run("grants", "revoke", reply["grant_id"])
    assert made.cluster.request("GET", PODS, token=reply["access_token"])[0] in {401, 403}
    assert name not in _names(made, "serviceaccounts", GRANTS)
    assert name not in _names(made, "rolebindings", "web")


def test_ends_below_the_floor_of_token_requests(made: World) -> None:
    """A grant of ten seconds ends after ten seconds, though its token could live for ten minutes."""
    reply = made.token("read-named/pods", lifetime="10s")
    began, until = time.monotonic(), time.monotonic() + 15
    while made.cluster.request("GET", PODS, token=reply["access_token"])[0] == 200:
        assert time.monotonic() < until
    assert time.monotonic() - began > 8


def test_fenced_roles_grant_exactly_the_rules(made: World) -> None:
    """With fenced roles one verb on one named object is granted, and workloads keep to the listed account."""
    cluster = made.clusters["fenced"]
    token = made.token("deploy-fenced/rollout", cluster="fenced")["access_token"]
    assert cluster.kubectl("get", "deployment/web", "-n", "web", token=token).returncode == 0
    assert cluster.kubectl("get", "deployment/beside", "-n", "web", token=token, check=False).returncode != 0
    path = "/apis/apps/v1/namespaces/web/deployments/web"
    for spec, allowed in (({"serviceAccountName": "web"}, True), ({"serviceAccountName": "powerful"}, False)):
        patch = json.dumps({"spec": {"template": {"spec": spec}}})
        arguments = ("patch", "deployment/web", "-n", "web", "--type=merge", "-p", patch)
        done = cluster.kubectl(*arguments, token=token, check=False)
        assert (done.returncode == 0) == allowed, (path, done.stderr)


def test_a_request_may_narrow_fenced_roles(made: World) -> None:
    """Authorization details are what the Role says, exactly."""
    details = json.dumps([{"type": "kubernetes", "verbs": ["get"]}])
    token = made.token("read-fenced/pods", cluster="fenced", authorization_details=details)["access_token"]
    cluster = made.clusters["fenced"]
    assert cluster.request("GET", f"{PODS}/nobody", token=token)[0] == 404
    assert cluster.request("GET", PODS, token=token)[0] == 403


def test_a_role_that_grew_ends_its_grants(made: World) -> None:
    """A cluster role that gets a class nobody acknowledged ends live grants, and grants no more until it is mended."""
    token = made.token("read-named/pods")["access_token"]
    assert made.cluster.request("GET", PODS, token=token)[0] == 200
    made.cluster.apply(POD_READER.replace("resources: [pods]", "resources: [pods, secrets]"))
    try:
        until = time.monotonic() + 10
        while made.cluster.request("GET", PODS, token=token)[0] == 200:
            assert time.monotonic() < until
        refused = made.daemon.run(
            "token", "get", "--source", "stdin", "--scope", "read-named/pods",
            stdin=made.issuer.github_token(), check=False,
        )  # fmt: skip
        assert "BREEDING_NOT_ACKNOWLEDGED" in refused.stderr
    finally:
        made.cluster.apply(POD_READER)
    until = time.monotonic() + 10
    while "read-named" not in str(made.daemon.json("grants", "list")):
        made.daemon.run(
            "token", "get", "--source", "stdin", "--scope", "read-named/pods",
            stdin=made.issuer.github_token(), check=False,
        )  # fmt: skip
        assert time.monotonic() < until


def test_a_cluster_out_of_reach_is_backlog_until_it_is_back(made: World) -> None:
    """A revocation while the cluster is away is recorded, shows as backlog, and is done when the cluster is back."""
    reply = made.token("read-named/pods")
    made.cluster.stop_apiserver()
    try:
        answer = made.daemon.json("grants", "revoke", reply["grant_id"])
        assert answer["grant"]["state"] == "revoked"
        assert made.daemon.json("status")["backlog"] >= 1
    finally:
        made.cluster.start_apiserver()
    until = time.monotonic() + 60
    while made.daemon.json("grants", "show", reply["grant_id"])["state"] != "withdrawn":
        assert time.monotonic() < until
    assert made.cluster.request("GET", PODS, token=reply["access_token"])[0] in {401, 403}


def test_what_nobody_accounts_for_is_left_until_it_expires(made: World) -> None:
    """Objects of another daemon are not touched, whatever their names and dates."""
    other = f"""
apiVersion: v1
kind: ServiceAccount
metadata:
  name: read-named-ffffffffffffffffffff
  namespace: {GRANTS}
  labels: {{exchanged.dev/instance: "000000000000", exchanged.dev/grant: ffffffffffffffffffff}}
  annotations: {{exchanged.dev/expires-at: "2020-01-01T00:00:00Z"}}
"""
    made.cluster.apply(other)
    made.daemon.stop()
    made.daemon.start()
    made.daemon.wait_ready()
    assert "read-named-ffffffffffffffffffff" in _names(made, "serviceaccounts", GRANTS)
