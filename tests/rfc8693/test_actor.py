"""RFC 8693 §1.1 and §4.1: somebody acts for somebody else, and all that comes of it says so."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.daemon import Daemon
from tests.fixtures import JWT, Running
from tests.issuers import FakeIssuer
from tests.policies import policy

BOT = "bots/deploy-bot"


@dataclass(slots=True)
class Acting(Running):
    """A daemon whose policy lets a bot of another issuer act for the job."""

    bots: FakeIssuer

    def actor(self, **claims: Any) -> dict[str, Any]:
        """The parameters that name the actor."""
        return {"actor_token": self.bots.token(**({"sub": "deploy-bot"} | claims)), "actor_token_type": JWT}


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Acting]:
    """Such a daemon."""
    folder = tmp_path_factory.mktemp("acting")
    with FakeIssuer.served(folder / "ci") as ci, FakeIssuer.served(folder / "bots", kind="EC") as bots:
        document = json.loads(policy("deploy-web"))
        document["spec"] |= {"actors": [{"issuer": "bots", "claims": {"sub": "deploy-bot"}}], "actorRequired": True}
        daemon = Daemon.make(
            folder / "d",
            issuers={"github": ci.settings(profile="github"), "bots": bots.settings()},
            clusters={"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}},
            policies={"web.yaml": json.dumps(document)},
        )
        with daemon.running():
            yield Acting(daemon, ci, bots)


def _says_who_acts(acting: Acting, token: str, grant_id: str) -> None:
    """The token itself and all records of its grant name the subject, and the actor beside it."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["act"], claims["actor"]) == ({"sub": BOT}, BOT)
    assert claims["subject"].startswith("github/")
    records = acting.daemon.json("records", "list", "--grant", grant_id)["records"]
    (intended,) = [record["body"] for record in records if record["kind"] == "intended"]
    assert (intended["subject"]["issuer"], intended["actor"]["issuer"]) == ("github", "bots")
    assert intended["actor"]["subject"] == "deploy-bot"
    assert token not in json.dumps(records)


def test_4_1_over_http(acting: Acting) -> None:
    """§4.1: what was issued to an actor has `act`, in the token, in introspection and on record; the subject stays."""
    reply = acting.post("/token", acting.form(**acting.actor()))
    assert (reply.status, reply.body["scope"]) == (200, "deploy-web/rollout"), reply
    token = reply.body["access_token"]
    told = acting.post("/introspect", {"token": token}).body
    assert (told["act"], told["sub"].split("/")[0]) == ({"sub": BOT}, "github")
    _says_who_acts(acting, token, reply.body["grant_id"])


def test_4_1_over_grpc(acting: Acting) -> None:
    """§4.1: the same at the other door."""
    credentials = grpc.ssl_channel_credentials(acting.daemon.ca.read_bytes())
    with grpc.secure_channel(acting.daemon.grpc, credentials) as channel:
        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
        request = pb.ExchangeRequest(
            subject_token=acting.issuer.github_token(), subject_token_type=JWT, audience=["prod"], **acting.actor()
        )
        reply = stub.Exchange(request, timeout=10)
        told = stub.Introspect(pb.IntrospectRequest(token=reply.access_token), timeout=10)
    assert (told.act, told.sub.split("/")[0]) == (BOT, "github")
    _says_who_acts(acting, reply.access_token, reply.grant_id)


def test_2_1_an_actor_is_judged_like_a_subject(acting: Acting) -> None:
    """§2.1, §2.2.2: without an actor, with one that is not listed, or with a bad token nothing is issued."""
    for changes, reason in (
        ({}, "ACTOR_NOT_ALLOWED"),
        (acting.actor(sub="another-bot"), "ACTOR_NOT_ALLOWED"),
        (acting.actor(aud="another"), "TOKEN_AUDIENCE"),
        (acting.actor(exp=1, iat=0, nbf=0), "TOKEN_EXPIRED"),
        (
            acting.actor() | {"actor_token_type": "urn:ietf:params:oauth:token-type:access_token"},
            "UNSUPPORTED_TOKEN_TYPE",
        ),
    ):
        reply = acting.post("/token", acting.form(**changes))
        assert (reply.status, reply.body["error"], reply.body["reason"]) == (400, "invalid_request", reason)


def test_4_4_may_act(acting: Acting) -> None:
    """§4.4: a subject token that says who may act is believed: another actor is refused, listed or not."""
    subject = acting.issuer.github_token(may_act={"sub": "somebody-else"})
    reply = acting.post("/token", acting.form(subject_token=subject, **acting.actor()))
    assert (reply.status, reply.body["reason"]) == (400, "ACTOR_NOT_ALLOWED")
    subject = acting.issuer.github_token(may_act={"sub": "deploy-bot"})
    assert acting.post("/token", acting.form(subject_token=subject, **acting.actor())).status == 200
