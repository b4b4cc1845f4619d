"""The whole path of SPIFFE on the lab cluster: an agent's SVID in, a token out that lists pods, and its ends."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.lab.worlds import World, python_client, world
from tests.policies import reading
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

pytestmark = pytest.mark.lab
DAEMON, AGENT = "/exchanged", "/ns/agents/sa/reader"
PATIENCE_SECONDS = 15


@dataclass(slots=True)
class Mesh:
    """A daemon that lives by SPIFFE, its Workload API, and that of an agent."""

    made: World
    home: TrustDomain
    of_daemon: WorkloadApi
    of_agent: WorkloadApi

    def get(self, *arguments: str) -> Any:
        """`exchanged token get` as the agent; all of the reply."""
        environment = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{self.of_agent.path}", "EXCHANGED_CA": ""}
        command = ("token", "get", "--cluster", "prod", "--scope", "agents/pods", "-o", "json", *arguments)
        return json.loads(self.made.daemon.run(*command, environment=environment).stdout)

    def state_of(self, grant_id: str) -> str:
        """Where a grant stands."""
        return str(self.made.daemon.json("grants", "show", grant_id)["state"])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Everything, in mode authorizer; a second trust domain is federated."""
    folder = tmp_path_factory.mktemp("mesh")
    home, partner = TrustDomain("prod.example"), TrustDomain("partner.example")
    of_daemon = WorkloadApi.served(
        folder / "daemon.sock", home, federated=[partner], identities=[Identity(path=DAEMON, dns=("localhost",))]
    )
    of_agent = WorkloadApi.served(folder / "agent.sock", home, identities=[Identity(path=AGENT)])
    subjects = [
        {"issuer": "mesh", "path": "/ns/agents/sa/*"},
        {"issuer": "partner", "claims": {"trust_domain": partner.name}},
    ]
    with of_daemon as daemons, of_agent as agents:
        settings: dict[str, Any] = {
            "workloadApi": {"socket": f"unix://{daemons.path}"},
            "doors": {"mtls": {"svid": True}},
            "issuers": {
                "mesh": {"type": "spiffe", "trustDomain": home.name},
                "partner": {"type": "spiffe", "trustDomain": partner.name},
            },
        }
        policies = {"agents.yaml": reading("agents", subjects=subjects)}
        with world(folder, {"prod": {"mode": "authorizer"}}, policies, **settings) as made:
            yield Mesh(made, home, daemons, agents)


def test_an_agent_with_an_x509_svid_gets_a_token_and_lists_pods(mesh: Mesh) -> None:
    """No secret of its own but its SVID: the command connects with it, and the token is good for the pods."""
    reply = mesh.get("--source", "x509-svid", "--server", mesh.made.daemon.mtls)
    with python_client(mesh.made.cluster, reply["access_token"]) as client:
        assert client.list_namespaced_pod("web").items == []
    (intent,) = [
        record
        for record in mesh.made.daemon.json("records", "list", "--grant", reply["grant_id"])["records"]
        if record["kind"] == "intended"
    ]
    assert intent["body"]["subject"]["subject"] == f"spiffe://prod.example{AGENT}"
    assert intent["body"]["subject"]["claims"]["svid"] == "x509"


def test_an_agent_with_a_jwt_svid_gets_one_too(mesh: Mesh) -> None:
    """The same agent at the usual door, which serves the daemon's development certificate."""
    daemon = mesh.made.daemon
    reply = mesh.get("--server", daemon.grpc, "--ca", str(daemon.ca), "--issuer-audience", daemon.url)
    with python_client(mesh.made.cluster, reply["access_token"]) as client:
        assert client.list_namespaced_pod("web").items == []


def test_the_bundle_is_rotated_in_the_middle_of_a_load(mesh: Mesh) -> None:
    """A new authority is published, then issues, then the old one goes: no exchange fails, on whatever connection."""
    domain, stop = mesh.home, threading.Event()
    failures, done, newest = list[str](), list[int](), dict[int, bool]()

    def worker(number: int) -> None:
        """Connects with what it has, does some exchanges, and connects anew with what it has then."""
        while not stop.is_set():
            svid = domain.svid(f"{AGENT}-{number}")
            newest[number] = svid.certificates[0].issuer == domain.authorities[-1].subject
            with _connected(mesh, svid.key_pem, svid.chain_pem) as channel:
                for _ in range(10):
                    _one(channel, failures, done)

    def after_a_while(change: Callable[[], None]) -> None:
        before = len(done)
        change()
        mesh.of_daemon.rotate_svid()
        _until(lambda: len(done) > before + 80 or failures)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(worker, number) for number in range(4)]
        try:
            for change in (lambda: None, domain.prepare, domain.activate):
                after_a_while(change)
            _until(lambda: all(newest.values()))
            after_a_while(domain.drop_old)
        finally:
            stop.set()
        for each in running:
            each.result(PATIENCE_SECONDS)
    mesh.of_agent.rotate_svid()
    assert not failures
    assert len(domain.authorities) == 1
    assert mesh.made.daemon.json("status")["ready"]


def test_a_trust_domain_that_is_removed_takes_its_grants_along(mesh: Mesh) -> None:
    """Redacted by the Workload API: its SVIDs are refused at once, its grants end, the other domain's live on."""
    (partner,) = mesh.of_daemon.federated
    ours = mesh.get("--source", "x509-svid", "--server", mesh.made.daemon.mtls)
    svid = partner.svid("/agent")
    roots = mesh.home.x509_pem
    with _connected(mesh, svid.key_pem, svid.chain_pem, roots) as channel:
        stub = _stub(channel)
        theirs = stub.Exchange(_request(), timeout=PATIENCE_SECONDS)
        with python_client(mesh.made.cluster, theirs.access_token) as client:
            client.list_namespaced_pod("web")
        mesh.of_daemon.remove_federated(partner.name)
        _until(lambda: mesh.state_of(theirs.grant_id) in {"revoked", "withdrawn"})
        with pytest.raises(grpc.RpcError) as refused:
            stub.Exchange(_request(), timeout=PATIENCE_SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert mesh.made.cluster.request("GET", "/api/v1/namespaces/web/pods", token=theirs.access_token)[0] == 403
    assert mesh.state_of(ours["grant_id"]) == "issued"


def _connected(mesh: Mesh, key: bytes, chain: bytes, roots: bytes | None = None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(roots or mesh.home.x509_pem, key, chain)
    return grpc.secure_channel(mesh.made.daemon.mtls, credentials)


def _stub(channel: grpc.Channel) -> exchange_pb2_grpc.TokenExchangeStub:
    return exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated


def _request() -> pb.ExchangeRequest:
    return pb.ExchangeRequest(audience=["prod"], scope="agents/pods")


def _one(channel: grpc.Channel, failures: list[str], done: list[int]) -> None:
    stub = _stub(channel)
    try:
        reply = stub.Exchange(_request(), timeout=PATIENCE_SECONDS)
        stub.Revoke(pb.RevokeRequest(token=reply.access_token), timeout=PATIENCE_SECONDS)
    except grpc.RpcError as error:
        failures.append(str(error))
    else:
        done.append(1)


def _until(holds: Any) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
