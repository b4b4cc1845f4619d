"""Clients that nobody here wrote."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth.transport.requests
import google.oauth2.sts
import grpc
import httpx
import pytest
import requests
from authlib.integrations.httpx_client import OAuth2Client
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.fixtures import JWT, TOKEN_EXCHANGE, Running
from tests.lab.build import GRPCURL, built


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    """A channel to the gRPC door."""
    credentials = grpc.ssl_channel_credentials(running.daemon.ca.read_bytes())
    with grpc.secure_channel(running.daemon.grpc, credentials) as made:
        yield made


def test_google_auth(running: Running) -> None:
    """google-auth's STS client exchanges a token as it would at Google."""
    with requests.Session() as session:
        session.verify = str(running.daemon.ca)
        session.trust_env = False
        transport = google.auth.transport.requests.Request(session)
        client = google.oauth2.sts.Client(f"{running.daemon.url}/token")  # type: ignore[no-untyped-call] # theirs
        reply = client.exchange_token(  # type: ignore[no-untyped-call] # theirs
            transport,
            TOKEN_EXCHANGE,
            running.issuer.github_token(),
            JWT,
            audience="prod",
            scopes=["deploy-web/rollout"],
            requested_token_type="urn:ietf:params:oauth:token-type:access_token",
        )
    assert reply["scope"] == "deploy-web/rollout"


def test_authlib(running: Running) -> None:
    """Authlib's OAuth client fetches a token by token exchange, and revokes it."""
    context = ssl.create_default_context(cafile=running.daemon.ca)
    with OAuth2Client(client_id="anybody", token_endpoint_auth_method="none", verify=context) as client:
        token = client.fetch_token(
            f"{running.daemon.url}/token",
            grant_type=TOKEN_EXCHANGE,
            subject_token=running.issuer.github_token(),
            subject_token_type=JWT,
            audience="prod",
            scope="deploy-web/rollout",
        )
        assert token["token_type"] == "Bearer"
        client.revoke_token(f"{running.daemon.url}/revoke", token=token["access_token"])
    assert running.post("/introspect", {"token": token["access_token"]}).body == {"active": False}


def test_httpx(running: Running) -> None:
    """Any HTTP client will do."""
    context = ssl.create_default_context(cafile=running.daemon.ca)
    reply = httpx.post(f"{running.daemon.url}/token", data=running.form(), verify=context)
    assert reply.json()["token_type"] == "Bearer"


@pytest.mark.lab
def test_grpcurl(running: Running) -> None:
    """Grpcurl finds the service by reflection, and calls it."""

    def call(*arguments: str) -> str:
        command: list[str | Path] = [built(GRPCURL), "-cacert", running.daemon.ca, *arguments]
        return str(subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout)

    assert "exchanged.v1.TokenExchange" in call(running.daemon.grpc, "list")
    request = {
        "subject_token": running.issuer.github_token(),
        "subject_token_type": JWT,
        "audience": ["prod"],
        "scope": "deploy-web/rollout",
    }
    reply = call("-d", json.dumps(request), running.daemon.grpc, "exchanged.v1.TokenExchange/Exchange")
    assert "token_type" in reply or "tokenType" in reply, reply


def test_health(channel: grpc.Channel) -> None:
    """The standard health check says that grants can be issued."""
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "exchanged.v1.TokenExchange"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_errors_are_rich(channel: grpc.Channel) -> None:
    """A refusal has a code, a constant message, a reason, a request id, and where it helps a delay."""
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    with pytest.raises(grpc.RpcError) as refused:
        stub.Exchange(pb.ExchangeRequest(subject_token="nonsense", subject_token_type=JWT), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    status = rpc_status.from_call(refused.value)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("TOKEN_MALFORMED", "exchanged.dev")
    assert info.metadata["oauth_error"] == "invalid_request"
    metadata: Any = refused.value.trailing_metadata()
    trailing = dict(metadata)
    assert trailing["x-request-id"] == info.metadata["request_id"]
    assert "nonsense" not in status.message
    assert not any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)


def test_all_of_the_contract(running: Running, channel: grpc.Channel) -> None:
    """Exchange, introspect and give back over gRPC; every field of the reply says what was granted."""
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    request = pb.ExchangeRequest(
        subject_token=running.issuer.github_token(),
        subject_token_type=JWT,
        audience=["prod"],
        scope="deploy-web/rollout",
        intent="release 7",
        authorization_details=[pb.AuthorizationDetail(type="kubernetes", verbs=["get"])],
    )
    request.requested_lifetime.FromSeconds(60)
    reply = stub.Exchange(request, timeout=5)
    assert (reply.token_type, reply.scope, reply.cluster.name) == ("Bearer", "deploy-web/rollout", "prod")
    assert 55 <= reply.expires_in <= 60
    assert list(reply.authorization_details[0].verbs) == ["get"]
    told = stub.Introspect(pb.IntrospectRequest(token=reply.access_token), timeout=5)
    assert (told.active, told.grant_id, told.owner) == (True, reply.grant_id, "team-web@example.com")
    assert told.promise
    stub.Revoke(pb.RevokeRequest(token=reply.access_token), timeout=5)
    assert not stub.Introspect(pb.IntrospectRequest(token=reply.access_token), timeout=5).active
    for wrong in (
        {"grant_type": "password"},
        {"authorization_details": [pb.AuthorizationDetail(type="other")]},
        {"authorization_details": [pb.AuthorizationDetail(type="kubernetes", cluster_role="admin")]},
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.Exchange(pb.ExchangeRequest(subject_token="x", subject_token_type=JWT, **wrong), timeout=5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_that_is_too_large(channel: grpc.Channel) -> None:
    """A monster is refused by the door."""
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    with pytest.raises(grpc.RpcError) as refused:
        stub.Exchange(pb.ExchangeRequest(subject_token="x" * 400_000), timeout=5)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
