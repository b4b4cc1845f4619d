import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster, ClusterOptions

pytestmark = pytest.mark.lab

ORPHAN_MAKER = """
import sys, time
from pathlib import Path
from tests.lab.cluster import Cluster, ClusterOptions
cluster = Cluster.start(Path(sys.argv[1]), ClusterOptions(controller_manager=False))
print(*cluster.pids, flush=True)
time.sleep(600)
"""


def test_kubectl_works(lab_cluster: Cluster, lab_namespace: str) -> None:
    """A cluster answers kubectl, in the version that the lab is about."""
    assert lab_cluster.kubectl("get", "pods", "-n", lab_namespace).returncode == 0
    assert lab_cluster.request("GET", "/version")[1]["gitVersion"] == "v1.37.2"


def test_controllers_do_their_part(lab_cluster: Cluster) -> None:
    """Aggregated roles have rules, and service accounts get projected tokens."""
    view = lab_cluster.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view")[1]
    assert view["rules"]
    assert lab_cluster.service_account_token("default", "default", "anyone").count(".") == 2


def test_two_clusters_are_two(lab_cluster: Cluster, tmp_path: Path) -> None:
    """A token of one cluster is worthless at another, and their CAs differ; a restart keeps what was stored."""
    with Cluster.start(tmp_path, ClusterOptions(controller_manager=False)) as other:
        assert other.request("GET", "/api", token=lab_cluster.admin_token)[0] == 401
        assert other.ca_pem != lab_cluster.ca_pem
        other.kubectl("create", "namespace", "kept")
        other.stop_apiserver()
        other.start_apiserver()
        assert other.kubectl("get", "namespace", "kept").returncode == 0


def test_nothing_is_left_behind_when_the_starter_dies(tmp_path: Path) -> None:
    """SIGKILL for the process that started a cluster ends the cluster too."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN_MAKER, tmp_path], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    ) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(starter.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < until, "the cluster outlived its starter"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
