"""RFC 8693, one test a MUST, by clause; and what is left out, so that nothing is silently ignored."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.fixtures import JWT, Running
from tests.issuers import FakeIssuer
from tests.policies import policy

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def _error(running: Running, expected: str, reason: str, **changes: Any) -> dict[str, Any]:
    reply = running.post("/token", running.form(**changes))
    assert (reply.status, reply.body.get("error"), reply.body.get("reason")) == (400, expected, reason), reply
    assert reply.headers["cache-control"] == "no-store"
    body: dict[str, Any] = reply.body
    return body


def test_2_1_parameters_are_a_form(running: Running) -> None:
    """§2.1: parameters come as application/x-www-form-urlencoded in the body of a POST."""
    assert running.post("/token", running.form()).status == 200
    wrong = running.post("/token", json.dumps(running.form()).encode(), {"Content-Type": "application/json"})
    assert (wrong.status, wrong.body["error"]) == (400, "invalid_request")
    assert running.get("/token").status == 405


def test_2_1_grant_type(running: Running) -> None:
    """§2.1: grant_type is REQUIRED and has this one value."""
    _error(running, "invalid_request", "PARAMETER_MISSING", grant_type=None)
    _error(running, "unsupported_grant_type", "UNSUPPORTED_GRANT_TYPE", grant_type="client_credentials")


def test_2_1_subject_token_and_its_type_are_required(running: Running) -> None:
    """§2.1: subject_token and subject_token_type are REQUIRED."""
    for name in ("subject_token", "subject_token_type"):
        body = _error(running, "invalid_request", "PARAMETER_MISSING", **{name: None})
        assert body["parameter"] == name
        _error(running, "invalid_request", "PARAMETER_MISSING", **{name: ""})


def test_2_1_actor_token_type(running: Running) -> None:
    """§2.1: actor_token_type is REQUIRED with actor_token, and MUST NOT be there without."""
    _error(running, "invalid_request", "PARAMETER_MISSING", actor_token=running.issuer.github_token())
    _error(running, "invalid_request", "PARAMETER_CONFLICT", actor_token_type=JWT)


def test_2_1_the_server_validates_the_token(running: Running) -> None:
    """§2.1: the authorization server MUST perform the validation of the token type."""
    _error(running, "invalid_request", "TOKEN_SIGNATURE", subject_token=running.issuer.github_token()[:-8] + "AAAAAAAA")
    _error(running, "invalid_request", "TOKEN_AUDIENCE", subject_token=running.issuer.github_token(aud="another"))


def test_2_1_audience_and_resource_may_be_repeated_and_must_be_one_target(running: Running) -> None:
    """§2.1: both name the target; several targets are unsupported here, and refused as such (§2.2.2)."""
    reply = running.post("/token", running.form(resource="https://127.0.0.1:6443"))
    assert reply.status == 200
    assert running.post("/token", running.form(audience=["prod", "prod"])).status == 200
    _error(running, "invalid_target", "CLUSTER_UNKNOWN", audience=["prod", "test"])
    _error(running, "invalid_target", "CLUSTER_UNKNOWN", audience=None, resource="https://elsewhere.example")


def test_2_1_scope(running: Running) -> None:
    """§2.1: scope is space-delimited; one scope a request."""
    _error(running, "invalid_request", "PARAMETER_CONFLICT", scope="deploy-web/rollout read-pods/pods")
    _error(running, "invalid_scope", "SCOPE_UNKNOWN", scope="deploy-web/other")
    assert running.post("/token", running.form(scope="pods")).body["scope"] == "read-pods/pods"


def test_2_1_requested_token_type(running: Running) -> None:
    """§2.1: the type asked for is the type issued; what cannot be issued is refused."""
    for asked in (JWT, ACCESS_TOKEN):
        reply = running.post("/token", running.form(requested_token_type=asked))
        assert reply.body["issued_token_type"] == asked
    refused = "urn:ietf:params:oauth:token-type:refresh_token"
    _error(running, "invalid_request", "UNSUPPORTED_TOKEN_TYPE", requested_token_type=refused)


def test_2_2_1_a_successful_response(running: Running) -> None:
    """§2.2.1: access_token, issued_token_type and token_type are REQUIRED; nothing of it is stored on the way."""
    reply = running.post("/token", running.form())
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/json")
    assert (reply.headers["cache-control"], reply.headers["pragma"]) == ("no-store", "no-cache")
    assert reply.body["token_type"] == "Bearer"
    assert reply.body["issued_token_type"] == ACCESS_TOKEN
    assert 295 <= reply.body["expires_in"] <= 300
    assert reply.body["scope"] == "deploy-web/rollout"
    assert reply.body["access_token"].count(".") == 2


def test_2_2_1_no_refresh_token(running: Running) -> None:
    """§2.2.1: a refresh token is left out: whoever wants to go on shows the proof again."""
    assert "refresh_token" not in running.post("/token", running.form()).body


def test_2_2_2_an_invalid_token_is_an_invalid_request(running: Running) -> None:
    """§2.2.2: a subject or actor token that is invalid or unacceptable by policy MUST give invalid_request."""
    _error(running, "invalid_request", "TOKEN_MALFORMED", subject_token="nonsense")
    _error(running, "invalid_request", "NO_POLICY", subject_token=running.issuer.github_token(repository_id="1"))
    actor = {"actor_token": "nonsense", "actor_token_type": JWT}
    _error(running, "invalid_request", "TOKEN_MALFORMED", **actor)


def test_2_2_2_an_unwilling_target_is_an_invalid_target(running: Running) -> None:
    """§2.2.2: invalid_target where the server will not issue for the target."""
    _error(running, "invalid_target", "CLUSTER_UNKNOWN", audience="nowhere")


def test_3_token_types(running: Running) -> None:
    """§3: jwt and id_token are accepted; access tokens, refresh tokens and SAML of others are not supported."""
    assert running.post("/token", running.form(subject_token_type=ID_TOKEN)).status == 200
    for kind in ("access_token", "refresh_token", "saml1", "saml2"):
        _error(
            running,
            "invalid_request",
            "UNSUPPORTED_TOKEN_TYPE",
            subject_token_type=f"urn:ietf:params:oauth:token-type:{kind}",
        )


def test_rfc6749_3_2_parameters(running: Running) -> None:
    """RFC 6749 §3.2: without a value is left out, unknown is ignored, twice is refused."""
    assert running.post("/token", running.form(intent="", unknown="x")).status == 200
    for name in ("scope", "subject_token", "intent"):
        form = running.form()
        reply = running.post("/token", form | {name: [form.get(name, "a"), "b"]})
        assert (reply.body["reason"], reply.body["parameter"]) == ("PARAMETER_REPEATED", name)


def test_rfc9396_authorization_details(running: Running) -> None:
    """RFC 9396: details narrow; an unknown type, an unknown field and more than the policy has are refused."""
    kubernetes = {"type": "kubernetes", "verbs": ["get"]}
    reply = running.post("/token", running.form(authorization_details=json.dumps([kubernetes])))
    assert reply.body["authorization_details"] == [
        {
            "type": "kubernetes",
            "namespaces": ["web"],
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["web"],
            "verbs": ["get"],
        }
    ]
    odd: list[Any] = [
        [{"type": "payment"}],
        [{**kubernetes, "colour": "red"}],
        [{**kubernetes, "verbs": "get"}],
        {},
        ["x"],
    ]
    for wrong in odd:
        _error(running, "invalid_request", "MALFORMED", authorization_details=json.dumps(wrong))
    _error(running, "invalid_request", "MALFORMED", authorization_details="[" * 3_000)
    beyond = json.dumps([{**kubernetes, "verbs": ["delete"]}])
    _error(running, "invalid_authorization_details", "DETAILS_EXCEED_POLICY", authorization_details=beyond)


def test_lifetimes_are_seconds(running: Running) -> None:
    """A lifetime that is asked for is granted, or refused with the most there is."""
    assert running.post("/token", running.form(requested_lifetime="60")).body["expires_in"] <= 60
    body = _error(running, "invalid_scope", "LIFETIME_EXCEEDS_POLICY", requested_lifetime="7200")
    assert body["max_lifetime"] == "900s"
    for wrong in ("soon", "-1", "1e9", "99999999999"):
        _error(running, "invalid_request", "MALFORMED", requested_lifetime=wrong)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a", b"a=b&" * 200, b"a=%ff"])
def test_bodies_that_are_no_forms(running: Running, body: bytes) -> None:
    """Whatever is sent, the answer is a defined error."""
    reply = running.post("/token", body)
    assert (reply.status, reply.body["error"]) == (400, "invalid_request")


def test_a_body_that_is_too_large(running: Running) -> None:
    """A monster is refused before it is read."""
    reply = running.post("/token", running.form(subject_token="x" * 400_000))
    assert (reply.status, reply.body["reason"]) == (400, "PARAMETER_TOO_LONG")


def test_rfc7009_and_rfc7662(running: Running) -> None:
    """RFC 7009, RFC 7662: a token is introspected, given back, and is nothing then; unknown ones are no error."""
    token = running.post("/token", running.form()).body["access_token"]
    told = running.post("/introspect", {"token": token}).body
    assert (told["active"], told["scope"], told["aud"], told["mode"]) == (
        True,
        "deploy-web/rollout",
        "prod",
        "authorizer",
    )
    assert running.post("/revoke", {"token": token, "token_type_hint": "access_token"}).status == 200
    assert running.post("/introspect", {"token": token}).body == {"active": False}
    assert running.post("/revoke", {"token": token}).status == 200
    assert running.post("/revoke", {"token": "unknown"}).status == 200
    assert running.post("/introspect", {"token": "unknown"}).body == {"active": False}
    for path in ("/revoke", "/introspect"):
        assert running.post(path, {}).body["reason"] == "PARAMETER_MISSING"


def test_rfc8414_metadata_and_keys(running: Running) -> None:
    """RFC 8414 and OpenID Connect Discovery: both documents name endpoints that are there, and keys stay fresh."""
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        told = running.get(path).body
        assert told["issuer"] == running.daemon.url
        for name in ("token", "revocation", "introspection"):
            endpoint = told[f"{name}_endpoint"].removeprefix(running.daemon.url)
            assert running.post(endpoint, {}).status == 400
    keys = running.get("/keys")
    assert keys.headers["cache-control"] == "max-age=15"
    (key,) = keys.body["keys"]
    assert (key["kty"], key["alg"], "d" in key) == ("EC", "ES256", False)


@pytest.mark.parametrize("path", ["/", "/a/b", "/a/"])
def test_rfc8414_3_3_the_issuer_is_named_as_it_is(path: str, tmp_path: Path) -> None:
    """RFC 8414 §3.3: the issuer in both documents is identical to the one in tokens, whatever it ends with."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = Daemon.make(
            tmp_path / "d",
            issuers={"github": issuer.settings(profile="github")},
            clusters={"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}},
            policies={"web.yaml": policy("deploy-web")},
        )
        origin = daemon.settings["issuer"]
        daemon.settings["issuer"] = origin + path
        daemon.write()
        with daemon.running():
            daemon.settings["issuer"] = origin
            running, base = Running(daemon, issuer), path.rstrip("/")
            token = running.post(f"{base}/token", running.form()).body["access_token"]
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            for found in (f"{base}/.well-known/openid-configuration", f"/.well-known/oauth-authorization-server{base}"):
                told = running.get(found).body
                assert told["issuer"] == claims["iss"] == origin + path
                assert told["token_endpoint"] == f"{origin}{base}/token"
                assert running.get(told["jwks_uri"].removeprefix(origin)).body["keys"]


def test_probes(running: Running) -> None:
    """Health, readiness and metrics are there for whoever runs the daemon."""
    assert running.post("/token", running.form()).status == 200
    assert running.get("/healthz").body == "ok"
    assert running.get("/readyz").body == {"ready": True, "reasons": []}
    metrics = running.get("/metrics").body
    assert 'exchanged_exchanges_total{door="http",outcome="ISSUED"}' in metrics
    assert "exchanged_ready 1.0" in metrics
    assert running.get("/nothing").status == 404
