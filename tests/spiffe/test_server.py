"""The server against the specifications: seen bare, and by go-spiffe."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from spiffe._proto.workload_pb2 import JWTSVIDRequest, ValidateJWTSVIDRequest, X509SVIDRequest, X509SVIDResponse

from tests.issuers import AUDIENCE
from tests.spiffe.bare import answer, code
from tests.spiffe.conftest import DEPLOYER, INTERNAL
from tests.spiffe.endpoint import METHODS, SECURITY_HEADER, STREAMS
from tests.spiffe.go_spiffe import GoSpiffe
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [[], [("workload.spiffe.io", "True")], [("workload.spiffe.io", "")]])
def test_calls_need_the_security_header(api: WorkloadApi, method: str, metadata: list[tuple[str, str]]) -> None:
    """Without `workload.spiffe.io: true` every call is INVALID_ARGUMENT (Workload Endpoint §6)."""
    assert code(api, method, *metadata) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", STREAMS)
def test_streams_begin_at_once(api: WorkloadApi, method: str) -> None:
    """With the header each stream says something at once."""
    assert code(api, method, SECURITY_HEADER) is grpc.StatusCode.OK


@pytest.mark.parametrize("method", ["FetchWITSVID", "FetchWITBundles"])
def test_the_wit_profile_is_unimplemented(api: WorkloadApi, method: str) -> None:
    """Calls of the optional profile are UNIMPLEMENTED (Workload API §7)."""
    assert code(api, method, SECURITY_HEADER) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("FetchJWTSVID", JWTSVIDRequest()),
        ("FetchJWTSVID", JWTSVIDRequest(audience=[""])),
        ("FetchJWTSVID", JWTSVIDRequest(audience=["a"], spiffe_id="acme")),
        ("ValidateJWTSVID", ValidateJWTSVIDRequest(svid="a.b.c")),
        ("ValidateJWTSVID", ValidateJWTSVIDRequest(audience="a")),
    ],
)
def test_mandatory_fields_are_asked_for(api: WorkloadApi, method: str, request_: Any) -> None:
    """A request without a mandatory field is INVALID_ARGUMENT (Workload API §4.5)."""
    request = request_.SerializeToString()
    assert code(api, method, SECURITY_HEADER, request=request) is grpc.StatusCode.INVALID_ARGUMENT


def test_bundles_are_keyed_by_spiffe_id(api: WorkloadApi, partner: TrustDomain) -> None:
    """Maps of bundles are keyed by the SPIFFE ID of the trust domain, and certificates are bare DER."""
    said = answer(api, "FetchX509SVID", X509SVIDRequest(), X509SVIDResponse)
    assert dict(said.federated_bundles) == {"spiffe://partner.example": partner.x509_der}
    assert [each.spiffe_id for each in said.svids] == [DEPLOYER, INTERNAL]
    assert said.svids[0].bundle == api.home.x509_der
    serialization.load_der_private_key(said.svids[0].x509_svid_key, None)


def test_x509_svids_hold(go: GoSpiffe) -> None:
    """go-spiffe takes all SVIDs, with hints, chains and DNS names, and verifies them by the bundles."""
    found = go("x509")
    assert found["bundles"] == {"acme.example": 1, "partner.example": 1}
    assert [(each["id"], each["hint"], each["chain"], each["dns"]) for each in found["svids"]] == [
        (DEPLOYER, "", 1, None),
        (INTERNAL, "internal", 2, ["web.example"]),
    ]
    assert all(each["holds"] for each in found["svids"])


def test_bundles_are_read(go: GoSpiffe, api: WorkloadApi) -> None:
    """go-spiffe reads bundles of both kinds, and all keys of a rotation under way."""
    api.home.prepare()
    assert go("bundles") == {"x509": (both := {"acme.example": 2, "partner.example": 1}), "jwt": both}


def test_jwt_svids_hold(go: GoSpiffe) -> None:
    """A JWT-SVID for each identity validates by the API and by the bundles."""
    found = go("jwt", AUDIENCE)["svids"]
    assert [(each["id"], each["hint"]) for each in found] == [(DEPLOYER, ""), (INTERNAL, "internal")]
    assert set(found[0]["claims"]) == {"aud", "exp", "iat", "sub"}
    assert [each["id"] for each in go("jwt", AUDIENCE, INTERNAL)["svids"]] == [INTERNAL]


def test_an_identity_of_somebody_else_is_refused(go: GoSpiffe) -> None:
    """A JWT-SVID for an ID that the caller does not have is PERMISSION_DENIED."""
    assert "PermissionDenied" in go("jwt", AUDIENCE, "spiffe://acme.example/other")["error"]


def test_federated_jwt_svids_hold(go: GoSpiffe, partner: TrustDomain) -> None:
    """A JWT-SVID of a federated domain, signed by RSA, validates both ways."""
    assert go("validate", AUDIENCE, partner.jwt("/x"))["id"] == "spiffe://partner.example/x"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (lambda home: home.jwt(audience="else"), "audience"),
        (lambda home: home.jwt(lifetime=timedelta(minutes=-2)), "expired"),
        (lambda home: home.jwt(aud=None), "audience"),
        (lambda home: home.jwt(exp=None), "exp"),
        (lambda home: home.jwt(sub=None), "sub"),
        (lambda home: home.jwt(sub="acme"), "invalid subject"),
        (lambda home: home.jwt(header={"alg": "none"}), "unable to parse"),
        (lambda home: home.jwt(header={"alg": "HS256"}), "unable to parse"),
        (lambda home: home.jwt(with_key=b"s" * 32), "unable to parse"),
        (lambda home: home.jwt(header={"typ": "at+jwt"}), "typ"),
        (lambda home: home.jwt(header={"kid": "other"}), "no JWT authority"),
        (lambda home: home.jwt(with_key=TrustDomain("acme.example").jwt_key), "cryptographic primitive"),
        (lambda home: TrustDomain("acme.example").jwt(header={"kid": home.kid}), "cryptographic primitive"),
        (lambda _: TrustDomain("elsewhere.example").jwt(), "no bundle"),
    ],
)
def test_bad_jwt_svids_fail(go: GoSpiffe, api: WorkloadApi, token: Callable[[TrustDomain], str], said: str) -> None:
    """What is wrong with a JWT-SVID is seen by the API and by go-spiffe, and is what was meant to be wrong."""
    error = go("validate", AUDIENCE, token(api.home))["error"]
    assert error.startswith("by the API: rpc error: code = InvalidArgument")
    assert said in error.partition("by the bundles: ")[2]


def test_rotation_is_pushed(go: GoSpiffe, api: WorkloadApi, partner: TrustDomain) -> None:
    """Each change comes as one complete message, and what is gone is gone."""
    with go.watch(6) as updates:
        first = next(updates)
        api.rotate_svid()
        second = next(updates)
        api.rotate_authorities()
        third = next(updates)
        api.home.drop_old()
        api.push()
        fourth = next(updates)
        api.remove_federated(partner.name)
        fifth = next(updates)
        api.add_federated(TrustDomain("other.example"))
        sixth = next(updates)
    serials = [{each["serial"] for each in update["svids"]} for update in (first, second, third, fourth)]
    assert not serials[0] & serials[1]
    assert not serials[1] & serials[2]
    assert serials[2] == serials[3]
    assert first["bundles"] == second["bundles"] == {"acme.example": 1, "partner.example": 1}
    assert third["bundles"] == {"acme.example": 2, "partner.example": 1}
    assert fourth["bundles"] == {"acme.example": 1, "partner.example": 1}
    assert fifth["bundles"] == {"acme.example": 1}
    assert sixth["bundles"] == {"acme.example": 1, "other.example": 1}
