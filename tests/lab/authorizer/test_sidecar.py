"""The sidecar's files in the hands of clients that know nothing of it, against a real API server."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from kubernetes.config import new_client_from_config
from kubernetes.config.incluster_config import InClusterConfigLoader

from tests.lab.worlds import World, world
from tests.policies import reading
from tests.sidecar import Sidecar, eventually

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A daemon and a cluster; tokens that live for a quarter of a minute."""
    policies = {"pods.yaml": reading(lifetime={"default": "15s", "max": "15m"})}
    with world(tmp_path_factory.mktemp("sidecar"), {"prod": {"mode": "authorizer"}}, policies) as running:
        yield running


@pytest.fixture(scope="module")
def sidecar(made: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Its source is a command, for each of these tokens is good once."""
    folder = tmp_path_factory.mktemp("files")
    environment = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{made.issuer.url}/token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": made.issuer.request_token,
        "ACTIONS_ID_TOKEN_CA": str(made.issuer.certificate_authority),
        "EXCHANGED_AUDIENCE": made.issuer.audience,
    }
    flags = ("--source", "github", "--cluster", "prod", "--scope", "read-pods/pods", "--check", "1s")
    running = Sidecar(folder, made.daemon, flags, environment)
    with running.running():
        running.until("granted")
        yield running


def _in_cluster(made: World, sidecar: Sidecar) -> Configuration:
    """What `load_incluster_config` makes of the folder: the paths are all that differs from a pod."""
    host, _, port = made.cluster.server.removeprefix("https://").rpartition(":")
    configuration = Configuration()
    loader = InClusterConfigLoader(  # type: ignore[no-untyped-call] # theirs
        token_filename=str(sidecar.files / "token"),
        cert_filename=str(sidecar.files / "ca.crt"),
        try_refresh_token=True,
        environ={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
    )
    loader.load_and_set(configuration)  # type: ignore[no-untyped-call] # as above
    return configuration


def test_an_unmodified_in_cluster_client(made: World, sidecar: Sidecar) -> None:
    """It lists the pods that were granted, and is told what was not."""
    with ApiClient(_in_cluster(made, sidecar)) as client:
        api = CoreV1Api(client)
        namespace = (sidecar.files / "namespace").read_text()
        assert api.list_namespaced_pod(namespace).items == []
        with pytest.raises(ApiException) as refused:
            api.list_namespaced_secret(namespace)
    assert refused.value.status == 403


def test_the_kubeconfig(sidecar: Sidecar) -> None:
    """For the Python client and kubectl, wherever the folder is mounted."""
    elsewhere = sidecar.folder / "mounted"
    elsewhere.symlink_to(sidecar.files)
    client = new_client_from_config(str(elsewhere / "kubeconfig"))  # type: ignore[no-untyped-call] # theirs
    with client:
        assert CoreV1Api(client).list_namespaced_pod("web").items == []
    kubectl = Path(sys.executable).with_name("kubectl")
    command: list[str | Path] = [kubectl, "get", "pods", "-o", "json", "--cache-dir", str(sidecar.folder / "cache")]
    environment = {"KUBECONFIG": str(elsewhere / "kubeconfig"), "PATH": os.defpath}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == []


def test_across_refreshes_every_request_is_answered(made: World, sidecar: Sidecar) -> None:
    """A client that reads the files for each request never meets a token that has ended."""
    granted = len(sidecar.events("granted"))
    answered, until = 0, time.monotonic() + 60
    while len(sidecar.events("granted")) < granted + 3:
        assert time.monotonic() < until
        with ApiClient(_in_cluster(made, sidecar)) as client:
            assert CoreV1Api(client).list_namespaced_pod("web").items == []
        answered += 1
    assert answered > 20


def test_a_revoked_grant_is_replaced_within_a_check(made: World, sidecar: Sidecar) -> None:
    """The old token is denied, and a moment later the files have one that works."""
    old, grant = sidecar.token(), sidecar.events("granted")[-1]["grant"]
    made.daemon.run("grants", "revoke", grant)
    eventually(lambda: sidecar.token() not in {old, None})
    assert made.cluster.request("GET", "/api/v1/namespaces/web/pods", token=old)[0] in {401, 403}
    with ApiClient(_in_cluster(made, sidecar)) as client:
        assert CoreV1Api(client).list_namespaced_pod("web").items == []
