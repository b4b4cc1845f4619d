"""The daemon known at a cluster by its X.509-SVID, with no token of its own."""

import time
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.lab.cluster import Cluster, ClusterOptions
from tests.lab.worlds import POD_READER, prepare, python_client, set_up
from tests.policies import reading
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

pytestmark = pytest.mark.lab
PATIENCE_SECONDS = 60


def test_a_grant_made_by_a_daemon_that_shows_its_svid(tmp_path: Path) -> None:
    """The API server trusts the domain's authority for client certificates; the name is the SVID's DNS name."""
    domain = TrustDomain("prod.example")
    mode = {
        "mode": "bindings",
        "credential": {"svid": True},
        "daemonUser": "exchanged.example",
        "namespaces": ["web"],
        "clusterRoles": ["pod-reader"],
    }
    own = Identity(path="/exchanged", dns=("exchanged.example",))
    with (
        WorkloadApi.served(tmp_path / "api.sock", domain, identities=[own]) as api,
        Cluster.start(tmp_path / "prod", ClusterOptions(controller_manager=False)) as cluster,
        FakeIssuer.served(tmp_path / "issuer") as issuer,
    ):
        # The API server reads its client CAs again by itself.
        with cluster.ca_file.open("ab") as authorities:
            authorities.write(domain.x509_pem)
        settings = {"server": cluster.server, "certificateAuthority": str(cluster.ca_file), **mode}
        daemon = Daemon.make(
            tmp_path / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            clusters={"prod": settings},
            policies={"pods.yaml": reading("pods", rules=None, clusterRole="pod-reader")},
            workloadApi={"socket": api.address},
        )
        prepare(cluster)
        cluster.apply(POD_READER)
        try:
            daemon.start()
            set_up(daemon, "prod", cluster)
            until = time.monotonic() + PATIENCE_SECONDS
            while not daemon.json("status")["ready"]:
                assert time.monotonic() < until, daemon.log.read_text()
                time.sleep(0.2)
            reply = daemon.exchange(issuer.github_token(), scope="pods/pods")
            with python_client(cluster, reply["access_token"]) as client:
                assert client.list_namespaced_pod("web").items == []
            checked = daemon.run("cluster", "check", "prod", check=False)
            assert "credential" not in checked.stdout + checked.stderr
        finally:
            daemon.stop()
