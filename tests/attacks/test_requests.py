"""Known attacks on requests, over the doors as they are: each is refused with the error that is defined for it."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from exchanged.doors import form, messages
from exchanged.errors import MalformedRequest, Reason
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.fixtures import JWT, TOKEN_EXCHANGE, Running

DETAIL = {"type": "kubernetes", "verbs": ["get"]}
HEADER = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def stub(running: Running) -> Iterator[Any]:
    """The gRPC door."""
    credentials = grpc.ssl_channel_credentials(running.daemon.ca.read_bytes())
    with grpc.secure_channel(running.daemon.grpc, credentials) as channel:
        yield exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated


def _message(running: Running, **changes: Any) -> pb.ExchangeRequest:
    usual: dict[str, Any] = {
        "subject_token": running.issuer.github_token(),
        "subject_token_type": JWT,
        "audience": ["prod"],
        "scope": "deploy-web/rollout",
    }
    return pb.ExchangeRequest(**(usual | changes))


def _refused(call: Callable[..., Any], message: Any) -> tuple[str, str]:
    """The code and the reason."""
    with pytest.raises(grpc.RpcError) as refused:
        call(message, timeout=10)
    status, info = rpc_status.from_call(refused.value), ErrorInfo()
    if status is not None:
        status.details[0].Unpack(info)
    return refused.value.code().name, info.reason


def test_a_token_for_one_use_is_used_once(running: Running, stub: Any) -> None:
    """Shown again, at whichever door, with whatever else is asked for, it is refused; what it gave stays."""
    token = running.issuer.github_token()
    given = running.post("/token", running.form(subject_token=token))
    assert given.status == 200
    for changes in ({}, {"scope": "read-pods/pods"}, {"requested_lifetime": "60"}):
        again = running.post("/token", running.form(subject_token=token, **changes))
        assert (again.status, again.body["error"], again.body["reason"]) == (400, "invalid_request", "TOKEN_REPLAYED")
    assert _refused(stub.Exchange, _message(running, subject_token=token)) == ("UNAUTHENTICATED", "TOKEN_REPLAYED")
    assert running.post("/introspect", {"token": given.body["access_token"]}).body["active"] is True


def test_a_token_for_one_use_shown_many_times_at_once(running: Running) -> None:
    """Of many who come at the same moment with one token, one gets something."""
    token, answers = running.issuer.github_token(), Counter[str]()
    ready = threading.Barrier(8)

    def show() -> None:
        ready.wait(10)
        body = running.post("/token", running.form(subject_token=token)).body
        answers[body.get("reason", "ISSUED")] += 1

    threads = [threading.Thread(target=show) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {"ISSUED": 1, "TOKEN_REPLAYED": 7}


def test_what_came_out_does_not_go_in(running: Running, stub: Any) -> None:
    """A token that exchanged issued is no subject token and no actor token: no chain outlives a revocation."""
    own = running.post("/token", running.form()).body["access_token"]
    refused = running.post("/token", running.form(subject_token=own))
    assert (refused.status, refused.body["error"], refused.body["reason"]) == (400, "invalid_request", "TOKEN_OWN")
    actor = running.post("/token", running.form(actor_token=own, actor_token_type=JWT))
    assert (actor.status, actor.body["reason"]) == (400, "TOKEN_OWN")
    assert _refused(stub.Exchange, _message(running, subject_token=own)) == ("UNAUTHENTICATED", "TOKEN_OWN")


BODIES: dict[str, tuple[bytes, str]] = {
    "no body": (b"", "PARAMETER_MISSING"),
    "no form": (b"a", "PARAMETER_MISSING"),
    "JSON": (b'{"grant_type":"x"}', "PARAMETER_MISSING"),
    "XML": (b"<?xml version='1.0'?><a/>", "PARAMETER_MISSING"),
    "raw bytes": (b"grant_type=\xff", "MALFORMED"),
    "escaped bytes that are no text": (b"grant_type=%ff", "MALFORMED"),
    "half of a pair": (b"grant_type=%ed%a0%80", "MALFORMED"),
    "a thousand parameters": (b"a=b&" * 1_000, "MALFORMED"),
    "a body of escapes": (b"a=" + b"%41" * 20_000, "PARAMETER_TOO_LONG"),
    "another grant": (b"grant_type=client_credentials", "UNSUPPORTED_GRANT_TYPE"),
    "a grant in other letters": (b"grant_type=" + TOKEN_EXCHANGE.upper().encode(), "UNSUPPORTED_GRANT_TYPE"),
    "the same twice": (b"grant_type=a&grant_type=a", "PARAMETER_REPEATED"),
    "the same twice, once escaped": (b"grant_type=a&%67rant_type=a", "PARAMETER_REPEATED"),
    "the same twice, of an unknown name": (b"unknown=a&unknown=b", "PARAMETER_REPEATED"),
    "another separator": (b"grant_type=a;subject_token=b", "UNSUPPORTED_GRANT_TYPE"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(running: Running, name: str) -> None:
    """Whatever is sent in place of a form, the error is a defined one."""
    body, reason = BODIES[name]
    reply = running.post("/token", body)
    error = "unsupported_grant_type" if reason == "UNSUPPORTED_GRANT_TYPE" else "invalid_request"
    assert (reply.status, reply.body["error"], reply.body["reason"]) == (400, error, reason)
    assert reply.headers["cache-control"] == "no-store"


def test_parameters_without_a_value_are_left_out(running: Running) -> None:
    """RFC 6749 §3.2: with or without its sign, one is as if it was not there; so is what an & too many leaves."""
    good = urlencode(running.form()).encode()
    for more in (b"&intent", b"&intent=", b"&", b"&&&", b"&actor_token&actor_token_type="):
        reply = running.post("/token", urlencode(running.form()).encode() + more)
        assert reply.status == 200, more
    assert running.post("/token", b"&" + good).status == 200
    reply = running.post("/token", urlencode(running.form(scope=None)).encode() + b"&scope=&scope=deploy-web/rollout")
    assert reply.status == 200
    for name in ("grant_type", "subject_token", "subject_token_type"):
        body = urlencode(running.form(**{name: None})).encode() + b"&" + name.encode()
        reply = running.post("/token", body)
        assert (reply.body["reason"], reply.body["parameter"]) == ("PARAMETER_MISSING", name)


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded2"]
)
def test_what_is_no_form_by_its_type(running: Running, kind: str) -> None:
    """A good form of another type is refused: browsers send some of them across sites without asking."""
    reply = running.post("/token", running.form(), {"Content-Type": kind})
    assert (reply.status, reply.body["error"], reply.body["reason"]) == (400, "invalid_request", "MALFORMED")


def test_tokens_in_an_address(running: Running) -> None:
    """Addresses stand in logs: a token there is not looked at, and the endpoint cannot be had by GET at all."""
    query = urlencode(running.form())
    assert running.get(f"/token?{query}").status == 405
    reply = running.ask("POST", f"/token?{query}", b"", HEADER)
    assert (reply.status, reply.body["reason"], reply.body["parameter"]) == (400, "PARAMETER_MISSING", "grant_type")
    for path in ("/revoke", "/introspect"):
        assert running.ask("POST", f"{path}?token=x", b"", HEADER).body["reason"] == "PARAMETER_MISSING"
        assert running.get(f"{path}?token=x").status == 405
    for method in ("PUT", "DELETE", "PATCH"):
        assert running.ask(method, "/token", query.encode(), HEADER).status == 405


def test_what_is_too_large(running: Running, stub: Any) -> None:
    """Beyond the size of a request nothing is read, at either door."""
    reply = running.post("/token", running.form(subject_token="x" * 70_000))
    assert (reply.status, reply.body["error"], reply.body["reason"]) == (400, "invalid_request", "PARAMETER_TOO_LONG")
    assert _refused(stub.Exchange, _message(running, subject_token="x" * 70_000)) == ("RESOURCE_EXHAUSTED", "")
    reply = running.post("/token", running.form(subject_token="x" * 17_000))
    assert (reply.status, reply.body["reason"]) == (400, "TOKEN_MALFORMED")


LONG = [
    {"audience": "x" * 600},
    {"audience": [f"c{number}" for number in range(40)]},
    {"scope": " ".join(["a/b"] * 40)},
    {"intent": "x" * 501},
    {"authorization_details": json.dumps([DETAIL] * 33)},
    {"authorization_details": json.dumps([{**DETAIL, "verbs": ["get"] * 300}])},
    {"authorization_details": json.dumps([{**DETAIL, "verbs": ["x" * 600]}])},
    {"replaces_grant_id": "x" * 600},
]


@pytest.mark.parametrize("changes", LONG, ids=lambda changes: next(iter(changes)))
def test_values_that_are_too_long_or_too_many(running: Running, changes: dict[str, Any]) -> None:
    """Within a request of a good size, what no policy could grant is refused by its name."""
    reply = running.post("/token", running.form(**changes))
    assert (reply.status, reply.body["reason"]) == (400, "PARAMETER_TOO_LONG")
    assert reply.body["parameter"] == next(iter(changes))


@pytest.mark.parametrize(
    "details",
    [
        "[" * 20_000,
        '{"a":' * 5_000,
        "[" + "[" * 1_000 + "]" * 1_000 + "]",
        '[{"type":"kubernetes","verbs":' + "[" * 3_000 + "]" * 3_000 + "}]",
        "NaN",
        '"text"',
        "[null]",
        '[{"type":{"a":1}}]',
        '[{"type":"kubernetes","verbs":[1]}]',
        '[{"type":"kubernetes","verbs":["\\ud800"]}]',
        '[{"type":"kubernetes","verbs":["a\\u0000b"]}]',
        "[{}] trailing",
    ],
    ids=lambda details: details[:30],
)
def test_details_that_are_none(running: Running, details: str) -> None:
    """Deep, broken and wrong JSON is one defined error, and the daemon goes on."""
    body = urlencode(running.form()).encode() + b"&authorization_details=" + details.encode()
    reply = running.post("/token", body)
    assert (reply.status, reply.body["error"], reply.body["reason"]) == (400, "invalid_request", "MALFORMED")
    assert reply.body["parameter"] == "authorization_details"
    assert running.get("/healthz").status == 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another grant": ({"grant_type": "password"}, "UNSUPPORTED_GRANT_TYPE"),
    "no token": ({"subject_token": ""}, "PARAMETER_MISSING"),
    "no type": ({"subject_token_type": ""}, "PARAMETER_MISSING"),
    "another type": ({"subject_token_type": "x"}, "UNSUPPORTED_TOKEN_TYPE"),
    "an actor's type alone": ({"actor_token_type": JWT}, "PARAMETER_CONFLICT"),
    "many audiences": ({"audience": ["prod"] * 5_000}, "PARAMETER_TOO_LONG"),
    "many scopes": ({"scope": "a " * 20_000}, "PARAMETER_TOO_LONG"),
    "many details": (
        {"authorization_details": [pb.AuthorizationDetail(type="kubernetes")] * 4_000},
        "PARAMETER_TOO_LONG",
    ),
    "many verbs": (
        {"authorization_details": [pb.AuthorizationDetail(type="kubernetes", verbs=["get"] * 5_000)]},
        "PARAMETER_TOO_LONG",
    ),
    "control characters": ({"intent": "a\x1b[2Jb"}, "MALFORMED"),
    "text that runs backwards": ({"intent": "a\u202eb"}, "MALFORMED"),
}


@pytest.mark.parametrize("name", WRONG)
def test_messages(running: Running, stub: Any, name: str) -> None:
    """At the gRPC door the same are the same."""
    changes, reason = WRONG[name]
    assert _refused(stub.Exchange, _message(running, **changes)) == ("INVALID_ARGUMENT", reason)


def test_no_token_is_a_missing_parameter_at_both_doors(running: Running, stub: Any) -> None:
    """Giving back or asking about nothing is a wrong request, not an unknown token."""
    for call, message in ((stub.Revoke, pb.RevokeRequest()), (stub.Introspect, pb.IntrospectRequest())):
        assert _refused(call, message) == ("INVALID_ARGUMENT", "PARAMETER_MISSING")
    for path in ("/revoke", "/introspect"):
        reply = running.post(path, {"token": ""})
        assert (reply.status, reply.body["reason"], reply.body["parameter"]) == (400, "PARAMETER_MISSING", "token")


def test_what_is_too_many_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made of details that are too many: a small request must not cost the loop much."""
    for module in (form, messages):
        monkeypatch.setattr(module, "AuthorizationDetail", None)
    base = f"grant_type={TOKEN_EXCHANGE}&subject_token=x&subject_token_type={JWT}&authorization_details="
    for details in (["{}"] * 10_000, ['{"type":"kubernetes","verbs":[' + ",".join(['"a"'] * 9_000) + "]}"]):
        with pytest.raises(MalformedRequest) as refused:
            form.request(form.parse(f"{base}[{','.join(details)}]".encode()))
        assert refused.value.reason is Reason.PARAMETER_TOO_LONG
    message = pb.ExchangeRequest(subject_token="x", subject_token_type=JWT)
    for _ in range(10_000):
        message.authorization_details.add(type="kubernetes")
    with pytest.raises(MalformedRequest) as refused:
        messages.request(message)
    assert refused.value.reason is Reason.PARAMETER_TOO_LONG
    assert len(messages.scopes("a " * 100_000)) < 40


def test_what_a_door_refuses_is_counted_and_sampled(running: Running, stub: Any) -> None:
    """Requests that never were an exchange stand in the metrics at both doors; of their records there is a sample."""

    def counted() -> dict[str, float]:
        lines = running.get("/metrics").body.splitlines()
        wanted = [line for line in lines if line.startswith("exchanged_exchanges_total") and "MALFORMED" in line]
        return {line.split(" ")[0]: float(line.split(" ")[1]) for line in wanted}

    before = counted()
    for _ in range(20):
        running.post("/token", b"\xff")
        _refused(stub.Exchange, _message(running, authorization_details=[pb.AuthorizationDetail(type="other")]))
    after = counted()
    for door in ("http", "grpc"):
        name = f'exchanged_exchanges_total{{door="{door}",outcome="MALFORMED"}}'
        assert after[name] - before.get(name, 0) == 20
    records = running.daemon.json("records", "list", "--limit", "1000")["records"]
    strangers = [each for each in records if each["kind"] == "unverified"]
    minutes = (time.time() - running.daemon.ca.stat().st_mtime) / 60
    assert 0 < len(strangers) <= 5 * (minutes + 2)
