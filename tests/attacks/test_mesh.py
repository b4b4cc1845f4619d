"""Attacks on a running daemon that follows a Workload API: what changes while connections stay open."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.daemon import Daemon
from tests.fixtures import JWT
from tests.policies import reading
from tests.spiffe.certificates import now
from tests.spiffe.pki import Svid, TrustDomain
from tests.spiffe.workload_api import WorkloadApi

AGENT = "/agent/reporter"
PATIENCE_SECONDS = 20


@dataclass(slots=True)
class Mesh:
    """A daemon with the trust domains of its Workload API."""

    daemon: Daemon
    api: WorkloadApi
    home: TrustDomain
    partner: TrustDomain

    @contextmanager
    def connected(self, *svids: Svid) -> Iterator[list[grpc.Channel]]:
        """A connection of each of these workloads."""
        with ExitStack() as stack:
            ca = self.daemon.ca.read_bytes()
            yield [
                stack.enter_context(
                    grpc.secure_channel(
                        self.daemon.mtls, grpc.ssl_channel_credentials(ca, svid.key_pem, svid.chain_pem)
                    )
                )
                for svid in svids
            ]

    def state(self, grant_id: str) -> str:
        """Where a grant stands."""
        return str(self.daemon.json("grants", "show", grant_id)["state"])


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """Two trust domains whose agents may read pods."""
    home, partner = TrustDomain("acme.example"), TrustDomain("partner.example")
    subjects = [{"issuer": name, "path": "/agent/*"} for name in ("acme", "partner")]
    with WorkloadApi.served(tmp_path / "api.sock", home, federated=[partner]) as api:
        daemon = Daemon.make(
            tmp_path / "daemon",
            issuers={
                "acme": {"type": "spiffe", "trustDomain": home.name},
                "partner": {"type": "spiffe", "trustDomain": partner.name},
            },
            policies={"agents.yaml": reading("agents", subjects=subjects)},
            doors={"mtls": {}},
            workloadApi={"socket": api.address},
        )
        with daemon.running():
            yield Mesh(daemon, api, home, partner)


def _exchange(channel: grpc.Channel, **fields: Any) -> pb.ExchangeResponse:
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    request = pb.ExchangeRequest(**{"audience": ["prod"], "scope": "agents/pods", **fields})
    reply: pb.ExchangeResponse = stub.Exchange(request, timeout=PATIENCE_SECONDS)
    return reply


def _outcome(channel: grpc.Channel, **fields: Any) -> str:
    """The reason of a refusal, its code where there is none, or "" for a token."""
    try:
        _exchange(channel, **fields)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        if status is None:
            return str(error.code().name)
        info = ErrorInfo()
        status.details[0].Unpack(info)
        return str(info.reason)
    return ""


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_authorities_that_are_dropped(mesh: Mesh) -> None:
    """Without a restart, and over connections that stay: below a dropped authority nothing, below the new one all."""
    old, theirs = mesh.home.svid(AGENT), mesh.partner.svid(AGENT)
    with mesh.connected(old, theirs) as (ours, other):
        assert (_outcome(ours), _outcome(other)) == ("", "")
        mesh.api.rotate_authorities()
        new = mesh.home.svid(AGENT)
        _until(lambda: _over_a_new_connection(mesh, new) == "")
        assert _outcome(ours) == ""
        mesh.home.drop_old()
        mesh.api.push()
        _until(lambda: _outcome(ours) == "CERTIFICATE_INVALID")
        assert _over_a_new_connection(mesh, old) == "UNAVAILABLE"
        assert (_over_a_new_connection(mesh, new), _outcome(other)) == ("", "")


def _over_a_new_connection(mesh: Mesh, svid: Svid, **fields: Any) -> str:
    with mesh.connected(svid) as (channel,):
        return _outcome(channel, **fields)


def test_a_trust_domain_that_is_taken_back(mesh: Mesh) -> None:
    """Its calls are refused over connections that stay, by certificate and by token, and its grants end; no others."""
    with mesh.connected(mesh.home.svid(AGENT), mesh.partner.svid(AGENT)) as (ours, other):
        kept, ended = _exchange(ours).grant_id, _exchange(other).grant_id
        token = mesh.partner.jwt(AGENT, audience=mesh.daemon.url)
        proof = {"subject_token": token, "subject_token_type": JWT}
        by_token = _exchange(ours, **proof).grant_id
        mesh.api.remove_federated(mesh.partner.name)
        _until(lambda: _outcome(other) == "CERTIFICATE_INVALID")
        _until(lambda: _outcome(ours, **proof) == "TOKEN_SIGNATURE")
        _until(lambda: {mesh.state(each) for each in (ended, by_token)} == {"withdrawn"})
        assert (mesh.state(kept), _outcome(ours)) == ("issued", "")
        why = mesh.daemon.json("grants", "show", ended)["ended"]
        assert why == "issuer partner has no bundle of trust domain partner.example any more"
        mesh.api.add_federated(mesh.partner)
        _until(lambda: _outcome(other) == "")


def test_a_subject_that_is_revoked(mesh: Mesh) -> None:
    """From the command on its SVIDs are refused, also over a connection that stays, until one is newer; no others."""
    old = mesh.home.svid(AGENT)
    with mesh.connected(old, mesh.partner.svid(AGENT), mesh.home.svid("/agent/other")) as (ours, same_path, other):
        assert {_outcome(each) for each in (ours, same_path, other)} == {""}
        mesh.daemon.run("grants", "revoke-subject", "acme", f"spiffe://acme.example{AGENT}")
        revoked_at = now()
        assert _outcome(ours) == "SUBJECT_REVOKED"
        assert (_outcome(same_path), _outcome(other)) == ("", "")
        token = mesh.home.jwt("/agent/other", audience=mesh.daemon.url)
        assert _outcome(ours, subject_token=token, subject_token_type=JWT) == "SUBJECT_REVOKED"
        _until(lambda: now() > revoked_at + timedelta(seconds=1))
        assert _over_a_new_connection(mesh, mesh.home.svid(AGENT, not_before=now())) == ""
        assert _outcome(ours) == "SUBJECT_REVOKED"


def test_trust_domains_do_not_vouch_for_one_another(mesh: Mesh) -> None:
    """By certificate or by token, at any door: what the one's keys say of the other's workloads counts for nothing."""
    named = f"spiffe://acme.example{AGENT}"
    crossed = mesh.partner.svid(AGENT, under=mesh.partner.intermediate(), uris=[named])
    assert _over_a_new_connection(mesh, crossed) == "CERTIFICATE_INVALID"
    assert _over_a_new_connection(mesh, TrustDomain("acme.example").svid(AGENT)) == "UNAVAILABLE"
    token = mesh.partner.jwt(audience=mesh.daemon.url, sub=named, header={"kid": mesh.home.kid})
    proof = {"subject_token": token, "subject_token_type": JWT}
    assert _over_a_new_connection(mesh, mesh.home.svid(AGENT), **proof) == "TOKEN_SIGNATURE"
    with grpc.secure_channel(mesh.daemon.grpc, grpc.ssl_channel_credentials(mesh.daemon.ca.read_bytes())) as plain:
        assert _outcome(plain, **proof) == "TOKEN_SIGNATURE"
        assert _outcome(plain) == "PARAMETER_MISSING"
        good = mesh.home.jwt(AGENT, audience=mesh.daemon.url)
        assert _outcome(plain, subject_token=good, subject_token_type=JWT) == ""
