"""A daemon and a cluster that know each other, by what `exchanged cluster setup` prints and nothing else."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient, Configuration, CoreV1Api

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.lab.cluster import Cluster, ClusterOptions

FENCED_SECONDS = 20
POD_AUDIENCE = "https://exchanged.example"
POD_READER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pod-reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
"""
"""The cluster role that tests of mode `bindings` list."""
FENCED_MODE = {
    "mode": "bindings",
    "namespaces": ["web"],
    "clusterRoles": ["pod-reader"],
    "fencedRoles": True,
    "allow": ["workloads"],
}
"""A cluster with that role, and with roles of grants' own."""


@dataclass(slots=True)
class World:
    """A running daemon, an issuer that it trusts, and the clusters it grants for."""

    daemon: Daemon
    issuer: FakeIssuer
    clusters: dict[str, Cluster]

    @property
    def cluster(self) -> Cluster:
        """The first cluster."""
        return next(iter(self.clusters.values()))

    def token(self, scope: str, cluster: str = "prod", **options: str) -> Any:
        """An exchange of a fresh CI token."""
        return self.daemon.exchange(self.issuer.github_token(), scope=scope, cluster=cluster, **options)


@contextmanager
def world(folder: Path, modes: dict[str, dict[str, Any]], policies: dict[str, str], **more: Any) -> Iterator[World]:
    """Clusters with these settings, a daemon with these policies, everything set up and ready."""
    with ExitStack() as stack:
        clusters = {
            name: stack.enter_context(Cluster.start(folder / name, ClusterOptions(controller_manager=False)))
            for name in modes
        }
        issuer = stack.enter_context(FakeIssuer.served(folder / "issuer"))
        settings = {
            name: {"server": cluster.server, "certificateAuthority": str(cluster.ca_file), **modes[name]}
            for name, cluster in clusters.items()
        }
        issuers = {"github": issuer.settings(profile="github"), **more.pop("issuers", {})}
        daemon = Daemon.make(folder / "daemon", issuers=issuers, clusters=settings, policies=policies, **more)
        stack.callback(daemon.kill)
        bound = [name for name in clusters if modes[name]["mode"] == "bindings"]
        for name in bound:
            file = daemon.folder / f"{name}.token"
            file.touch(mode=0o600)
            daemon.settings["clusters"][name]["credential"] = {"tokenFile": str(file)}
        for name in bound:
            daemon.settings["issuers"][f"pods-of-{name}"] = pods_of(clusters[name], name, daemon)
        daemon.write()
        if bound:
            # The fence goes by the id of the daemon's store, which is there when the daemon has been there.
            daemon.start()
            daemon.stop()
        for name, cluster in clusters.items():
            prepare(cluster)
            if name in bound:
                credential(daemon, name, cluster)
        # The state folder has its CA only when the daemon has been there.
        daemon.start()
        for name, cluster in clusters.items():
            set_up(daemon, name, cluster)
        daemon.wait_ready()
        yield World(daemon, issuer, clusters)


@contextmanager
def python_client(cluster: Cluster, token: str) -> Iterator[CoreV1Api]:
    """The official Python client, with this token."""
    configuration = Configuration(host=cluster.server, ssl_ca_cert=str(cluster.ca_file))
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    with ApiClient(configuration) as client:
        yield CoreV1Api(client)


def pods_of(cluster: Cluster, name: str, daemon: Daemon) -> dict[str, Any]:
    """The cluster as an issuer of projected tokens: its keys, and its word on whether the pod is still there."""
    keys = {"certificateAuthority": str(cluster.ca_file), "bearerTokenFile": str(daemon.folder / f"{name}.token")}
    return {
        "type": "kubernetes",
        "issuer": cluster.issuer,
        "audience": POD_AUDIENCE,
        "cluster": name,
        "verification": "both",
        "keys": keys,
    }


def prepare(cluster: Cluster) -> None:
    """Namespaces, accounts and a deployment for grants to act on."""
    cluster.apply("\n---\n".join(_PREPARED))


def credential(daemon: Daemon, name: str, cluster: Cluster) -> None:
    """The daemon's own credential: a token of the service account that the manifests make, in a file."""
    files = daemon.folder / f"setup-{name}"
    daemon.run("cluster", "setup", name, "--output-directory", str(files), "--directory", str(files))
    cluster.apply((files / "manifests.yaml").read_text())
    token = cluster.service_account_token("exchanged", "exchanged", cluster.issuer)
    (daemon.folder / f"{name}.token").write_text(token)


def until_fenced(made: World) -> None:
    """An admission policy is in force a moment after it was applied; the daemon's, when this returns."""
    token = (made.daemon.folder / "prod.token").read_text()
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}}
    path = "/api/v1/namespaces/exchanged-grants/serviceaccounts?dryRun=All"
    until = time.monotonic() + FENCED_SECONDS
    while made.cluster.request("POST", path, token=token, body=body)[0] == 201:
        assert time.monotonic() < until


def set_up(daemon: Daemon, name: str, cluster: Cluster) -> None:
    """Applies what `cluster setup` prints, as an administrator would."""
    files = daemon.folder / f"setup-{name}"
    daemon.run("cluster", "setup", name, "--output-directory", str(files), "--directory", str(files))
    cluster.apply((files / "manifests.yaml").read_text())
    if daemon.settings["clusters"][name]["mode"] != "authorizer":
        return
    daemon.run("cluster", "client-certificate", name, "--directory", str(files))
    cluster.stop_apiserver()
    cluster.start_apiserver(
        replace(
            cluster.options,
            authentication_config=(files / "authentication.yaml").read_text(),
            authorization_config=(files / "authorization.yaml").read_text(),
        )
    )


_PREPARED = [
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}",
    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web, namespace: web}",
    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default, namespace: web}",
    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: powerful, namespace: web}",
    *(
        f"""apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: web}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      serviceAccountName: web
      containers: [{{name: main, image: none}}]"""
        for name in ("web", "beside")
    ),
]
