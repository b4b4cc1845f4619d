"""Pods exchange the tokens that a kubelet projects for them; the cluster itself says whether they are still there."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.worlds import POD_AUDIENCE, POD_READER, World, world
from tests.policies import reading
from tests.sidecar import Sidecar, eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MODE = {"mode": "bindings", "namespaces": ["web"], "clusterRoles": ["pod-reader"]}
PARTS = (("clusters", "prod"), ("issuers", "pods-of-prod"), ("issuers", "pods-of-test"))
PODS = "/api/v1/namespaces/web/pods"


def _reading(issuer: str) -> str:
    claims = {"namespace": "web", "service_account": "web"}
    subjects = [{"issuer": issuer, "claims": claims}]
    return reading("pods-read", subjects=subjects, rules=None, clusterRole="pod-reader", clusters=["prod"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two clusters that issue tokens, and a policy for the pods of the first."""
    folder = tmp_path_factory.mktemp("pods")
    with world(folder, {"prod": MODE, "test": MODE}, {"pods.yaml": _reading("pods-of-prod")}) as running:
        for cluster in running.clusters.values():
            cluster.apply(POD_READER)
        until = time.monotonic() + 20
        while any((status := running.daemon.json("status"))[kind][name] for kind, name in PARTS):
            assert time.monotonic() < until, status
        yield running


def _pod(made: World, name: str) -> dict[str, str]:
    spec = {"serviceAccountName": "web", "containers": [{"name": "main", "image": "none"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    status, answer = made.cluster.request("POST", PODS, body=body)
    assert status == 201, answer
    return {"name": name, "uid": answer["metadata"]["uid"]}


def _try(made: World, token: str) -> Any:
    arguments = ("token", "get", "--source", "stdin", "--cluster", "prod", "--scope", "pods-read/pods", "-o", "json")
    return made.daemon.run(*arguments, stdin=token, check=False)


def test_a_pods_token_becomes_a_cluster_token(made: World) -> None:
    """A projected token, shown as often as the pod likes, gives one that works; the record knows the pod."""
    token = made.cluster.service_account_token("web", "web", POD_AUDIENCE, pod=_pod(made, "lives"))
    for _ in range(2):
        reply = json.loads(_try(made, token).stdout)
        assert made.cluster.request("GET", PODS, token=reply["access_token"])[0] == 200
    records = made.daemon.json("records", "list", "--grant", reply["grant_id"])["records"]
    claims = records[0]["body"]["subject"]["claims"]
    assert (claims["pod"], claims["service_account"], claims["namespace"]) == ("lives", "web", "web")


def test_a_deleted_pod_is_refused(made: World) -> None:
    """A token that is still valid is refused when its pod is gone."""
    token = made.cluster.service_account_token("web", "web", POD_AUDIENCE, pod=_pod(made, "dies"))
    assert _try(made, token).returncode == 0
    made.cluster.kubectl("delete", "pod", "dies", "-n", "web", "--force", "--grace-period=0")
    # The API server itself remembers a good token for ten seconds; another token of the pod it does not know yet.
    fresh = made.cluster.service_account_token("web", "web", POD_AUDIENCE, pod=_pod(made, "dies-too"))
    made.cluster.kubectl("delete", "pod", "dies-too", "-n", "web", "--force", "--grace-period=0")
    refused = _try(made, fresh)
    assert "TOKEN_NOT_LIVE" in refused.stderr


def test_a_recreated_account_is_another(made: World) -> None:
    """A service account of the same name and another uid does not inherit tokens."""
    made.cluster.kubectl("create", "serviceaccount", "again", "-n", "web")
    token = made.cluster.service_account_token("web", "again", POD_AUDIENCE)
    made.cluster.kubectl("delete", "serviceaccount", "again", "-n", "web")
    made.cluster.kubectl("create", "serviceaccount", "again", "-n", "web")
    assert "TOKEN_NOT_LIVE" in _try(made, token).stderr


def test_tokens_for_others_are_refused(made: World) -> None:
    """Another audience, another cluster's token, and a grant's own token do not go in."""
    for_api = made.cluster.service_account_token("web", "web", made.cluster.issuer)
    assert "TOKEN_AUDIENCE" in _try(made, for_api).stderr
    of_test = made.clusters["test"].service_account_token("web", "web", POD_AUDIENCE)
    assert "NO_POLICY" in _try(made, of_test).stderr
    reply = json.loads(_try(made, made.cluster.service_account_token("web", "web", POD_AUDIENCE)).stdout)
    name = f"pods-read-{reply['grant_id']}"
    own = made.cluster.service_account_token("exchanged-grants", name, POD_AUDIENCE)
    assert "TOKEN_OWN" in _try(made, own).stderr


def test_a_pods_sidecar(made: World, tmp_path: Path) -> None:
    """By the projected token: a revoked grant is replaced, the last one is given back, and nothing is left."""
    sidecar = Sidecar(tmp_path, made.daemon, ("--cluster", "prod", "--scope", "pods-read/pods", "--check", "1s"))
    token = made.cluster.service_account_token("web", "web", POD_AUDIENCE, pod=_pod(made, "keeps"))
    sidecar.subject_token.write_text(token)
    with sidecar.running("--give-back"):
        grants = [sidecar.until("granted")["grant"]]
        first = sidecar.token()
        assert made.cluster.request("GET", PODS, token=first)[0] == 200
        assert (sidecar.files / "namespace").read_text() == "web"
        made.daemon.run("grants", "revoke", grants[0])
        grants.append(sidecar.until("granted", times=2)["grant"])
        second = eventually(lambda: (token := sidecar.token()) != first and token)
        assert made.cluster.request("GET", PODS, token=second)[0] == 200
        assert sidecar.stop() == 0
    eventually(lambda: made.cluster.request("GET", PODS, token=second)[0] == 401)
    left = made.cluster.kubectl("get", "serviceaccounts", "-n", "exchanged-grants", "-o", "name").stdout
    assert [grant for grant in grants if grant in left] == []


def test_a_sidecar_whose_pod_is_gone(made: World, tmp_path: Path) -> None:
    """It is refused, though its projected token is still valid, and the files are gone."""
    sidecar = Sidecar(tmp_path, made.daemon, ("--cluster", "prod", "--scope", "pods-read/pods", "--check", "1s"))
    token = made.cluster.service_account_token("web", "web", POD_AUDIENCE, pod=_pod(made, "leaves"))
    sidecar.subject_token.write_text(token)

    def refused() -> list[dict[str, Any]]:
        """The API server itself remembers a good token for ten seconds; until then there is another grant each time."""
        made.daemon.run("grants", "revoke", sidecar.events("granted")[-1]["grant"], check=False)
        return sidecar.events("refused; removed")

    with sidecar.running():
        sidecar.until("granted")
        made.cluster.kubectl("delete", "pod", "leaves", "-n", "web", "--force", "--grace-period=0")
        assert eventually(refused)[0]["reason"] == "TOKEN_NOT_LIVE"
        assert sidecar.token() is None
