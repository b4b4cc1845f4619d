"""A daemon that lives by SPIFFE: what it serves, how that changes, and what it makes of others' SVIDs."""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.daemon import Daemon
from tests.fixtures import JWT
from tests.policies import reading
from tests.spiffe.answers import Identity
from tests.spiffe.go_spiffe import GoSpiffe
from tests.spiffe.pki import Svid, TrustDomain
from tests.spiffe.workload_api import WorkloadApi

OWN = Identity(path="/exchanged", dns=("localhost",))
AGENT = "/agent/reporter"
PATIENCE_SECONDS = 15


@dataclass(slots=True)
class Mesh:
    """A daemon, its Workload API and its trust domain."""

    daemon: Daemon
    api: WorkloadApi
    domain: TrustDomain

    def connected(self, svid: Svid) -> grpc.Channel:
        """A connection of this workload's own."""
        credentials = grpc.ssl_channel_credentials(self.domain.x509_pem, svid.key_pem, svid.chain_pem)
        return grpc.secure_channel(self.daemon.mtls, credentials)

    def served(self, door: str) -> int:
        """The serial number of the certificate that a new connection to a door is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.daemon.ports[door]), 5) as raw,
            context.wrap_socket(raw) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All doors serve the SVID."""
    folder = tmp_path_factory.mktemp("spiffe")
    domain = TrustDomain("prod.example")
    with WorkloadApi.served(folder / "api.sock", domain, identities=[OWN]) as api:
        daemon = _daemon(folder, api)
        with daemon.running():
            yield Mesh(daemon, api, domain)


def test_go_spiffe_knows_the_daemon_by_its_id(mesh: Mesh, tmp_path: Path) -> None:
    """A client that nobody here wrote authorizes the server's SPIFFE ID; of another ID it wants nothing."""
    with WorkloadApi.served(tmp_path / "agent.sock", mesh.domain, identities=[Identity(path=AGENT)]) as agent:
        client = GoSpiffe.of(agent)
        assert (
            client("mtls", mesh.daemon.mtls, "spiffe://prod.example/exchanged")["peer"]
            == "spiffe://prod.example/exchanged"
        )
        refused = client("mtls", mesh.daemon.mtls, "spiffe://prod.example/somebody-else")
        assert "unexpected ID" in refused["error"]


def test_a_renewed_svid_is_served_and_no_connection_is_dropped(mesh: Mesh) -> None:
    """At every door; a call that is open and a connection that is kept go on."""
    before = {door: mesh.served(door) for door in mesh.daemon.ports}
    assert len(set(before.values())) == 1
    with mesh.connected(mesh.domain.svid(AGENT)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        _exchange(channel)
        mesh.api.rotate_svid()
        _until(lambda: all(mesh.served(door) != before[door] for door in mesh.daemon.ports))
        _exchange(channel)
        assert watched.is_active()
        watched.cancel()


def test_a_token_over_the_workloads_own_certificate(mesh: Mesh, tmp_path: Path) -> None:
    """`--certificate`: a policy that demands it takes the JWT-SVID over that connection, and over no other."""
    with WorkloadApi.served(tmp_path / "agent.sock", mesh.domain, identities=[Identity(path=AGENT)]) as agent:
        common = ("--cluster", "prod", "--scope", "bound/pods", "--issuer-audience", mesh.daemon.url, "-o", "json")
        environment = {"SPIFFE_ENDPOINT_SOCKET": agent.address, "EXCHANGED_CA": ""}
        command = ("token", "get", "--source", "jwt-svid", *common)
        made = mesh.daemon.run(*command, "--certificate", "--server", mesh.daemon.mtls, environment=environment)
        assert json.loads(made.stdout)["scope"] == "bound/pods"
        roots = tmp_path / "bundle.pem"
        roots.write_bytes(mesh.domain.x509_pem)
        usual = ("--server", f"localhost:{mesh.daemon.ports['grpc']}", "--ca", str(roots))
        refused = mesh.daemon.run(*command, *usual, check=False, environment=environment)
        assert refused.returncode == 1
        assert "CERTIFICATE_REQUIRED" in refused.stderr
        # Somebody else's certificate is not the workload's own.
        with mesh.connected(mesh.domain.svid("/agent/other")) as channel:
            token = mesh.domain.jwt(AGENT, audience=mesh.daemon.url)
            with pytest.raises(grpc.RpcError) as error:
                _exchange(channel, scope="bound/pods", subject_token=token, subject_token_type=JWT)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_workload_api_may_come_later_and_go_and_come_back(tmp_path: Path) -> None:
    """Doors open as soon as there is an SVID; while the API is away everything goes on; nobody has to do anything."""
    domain = TrustDomain("prod.example")
    api = WorkloadApi(tmp_path / "api.sock", domain, identities=[OWN])
    daemon = _daemon(tmp_path, api)
    try:
        daemon.start()
        status = daemon.json("status")
        assert not status["ready"]
        assert any("has not given the daemon an SVID" in reason for reason in status["reasons"])
        api.start()
        daemon.wait_ready()
        mesh = Mesh(daemon, api, domain)
        with mesh.connected(domain.svid(AGENT)) as channel:
            _exchange(channel)
            api.stop()
            _until(lambda: any("UNAVAILABLE" in remark for remark in daemon.json("status")["remarks"]))
            _exchange(channel)
            domain.rotate()
            api.start()
            _until(lambda: _accepted(mesh, domain.svid(AGENT)))
            _exchange(channel)
    finally:
        daemon.stop()
        api.stop()


def test_a_daemon_that_waits_for_its_svid_stops_when_told_to(tmp_path: Path) -> None:
    """SIGTERM while no door that serves an SVID is open: a clean end."""
    daemon = _daemon(tmp_path, WorkloadApi(tmp_path / "api.sock", TrustDomain("prod.example"), identities=[OWN]))
    daemon.start()
    assert daemon.stop() == 0


def test_grants_of_an_issuer_that_is_not_configured_any_more_end(tmp_path: Path) -> None:
    """Taken out of the configuration: at the next start, whatever kind it is."""
    home, partner = TrustDomain("prod.example"), TrustDomain("partner.example")
    files = {domain.name: tmp_path / f"{domain.name}.json" for domain in (home, partner)}
    for domain in (home, partner):
        files[domain.name].write_text(json.dumps(domain.bundle()))
    mesh = {"type": "spiffe", "trustDomain": home.name, "bundle": {"file": str(files[home.name])}}
    other = {"type": "spiffe", "trustDomain": partner.name, "bundle": {"file": str(files[partner.name])}}
    subjects = [{"issuer": name, "path": "/agent/*"} for name in ("mesh", "partner")]
    policies = {"agents.yaml": reading("agents", subjects=subjects)}
    daemon = Daemon.make(tmp_path / "d", issuers={"mesh": mesh, "partner": other}, policies=policies)
    with daemon.running():
        ours = daemon.exchange(home.jwt(AGENT, audience=daemon.url), scope="agents/pods")
        theirs = daemon.exchange(partner.jwt(AGENT, audience=daemon.url), scope="agents/pods")
    del daemon.settings["issuers"]["partner"]
    daemon.write()
    with daemon.running():
        _until(lambda: daemon.json("grants", "show", theirs["grant_id"])["state"] != "issued")
        ended = daemon.json("grants", "show", theirs["grant_id"])["ended"]
        assert ended == "issuer partner is not configured any more"
        assert daemon.json("grants", "show", ours["grant_id"])["state"] == "issued"


def _daemon(folder: Path, api: WorkloadApi) -> Daemon:
    subjects = [{"issuer": "mesh", "path": "/agent/*"}]
    bound = json.loads(reading("bound", subjects=subjects))
    bound["spec"]["requireCertificate"] = True
    return Daemon.make(
        folder / "daemon",
        issuers={"mesh": {"type": "spiffe", "trustDomain": api.home.name}},
        policies={"agents.yaml": reading("agents", subjects=subjects), "bound.yaml": json.dumps(bound)},
        doors={name: {"svid": True} for name in ("grpc", "http", "authorizer", "mtls")},
        workloadApi={"socket": api.address},
    )


def _exchange(channel: grpc.Channel, **fields: Any) -> pb.ExchangeResponse:
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    request = pb.ExchangeRequest(**{"audience": ["prod"], "scope": "agents/pods", **fields})
    reply: pb.ExchangeResponse = stub.Exchange(request, timeout=PATIENCE_SECONDS)
    return reply


def _accepted(mesh: Mesh, svid: Svid) -> bool:
    try:
        with mesh.connected(svid) as channel:
            _exchange(channel)
    except grpc.RpcError:
        return False
    return True


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
