"""Each kind of malformed answer is what it says, and wrong in nothing else."""

import json
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from spiffe._proto.workload_pb2 import (
    JWTBundlesRequest,
    JWTBundlesResponse,
    JWTSVIDRequest,
    JWTSVIDResponse,
    X509BundlesRequest,
    X509BundlesResponse,
    X509SVIDRequest,
    X509SVIDResponse,
)

from tests.issuers import AUDIENCE
from tests.spiffe.bare import answer
from tests.spiffe.conftest import DEPLOYER
from tests.spiffe.go_spiffe import GoSpiffe
from tests.spiffe.malformed import Malformed
from tests.spiffe.workload_api import WorkloadApi

KINDS = get_args(Malformed)
FIELDS = ("spiffe_id", "x509_svid", "x509_svid_key", "bundle")
SAID: dict[tuple[Malformed, str], str] = {
    ("no-svids", "x509"): "no SVIDs in response",
    ("no-svids", "jwt"): "no SVIDs in the response",
    ("without-spiffe-id", "x509"): "trust domain is missing",
    ("without-certificate", "x509"): "no certificates found",
    ("without-key", "x509"): "cannot parse DER encoded private key",
    ("garbage-certificate", "x509"): "cannot parse DER encoded certificate",
    ("garbage-key", "x509"): "cannot parse DER encoded private key",
    ("garbage-bundle", "x509"): "malformed certificate",
    ("garbage-bundle", "bundles"): "cannot parse certificate",
    ("key-does-not-fit", "x509"): "leaf certificate does not match private key",
    ("other-trust-domain", "jwt"): "no bundle found",
    ("unknown-authority", "jwt"): "no JWT authority",
    ("garbage-token", "jwt"): "unable to parse JWT token",
    ("without-token", "jwt"): "unable to parse JWT token",
    ("no-bundles", "jwt"): "no bundle found",
    ("garbage-federated-bundle", "x509"): "malformed certificate",
    ("garbage-federated-bundle", "bundles"): "cannot parse certificate",
    ("garbage-federated-bundle", "jwt"): "unable to parse JWKS",
    ("jwks-not-json", "bundles"): "unable to parse JWKS",
    ("jwks-not-json", "jwt"): "unable to parse JWKS",
    ("jwks-without-kid", "bundles"): "keyID cannot be empty",
    ("jwks-without-kid", "jwt"): "keyID cannot be empty",
}
"""What go-spiffe says of a kind; to all else it says nothing."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["x509", "bundles", "jwt"])
def test_go_spiffe_says_so(api: WorkloadApi, go: GoSpiffe, kind: Malformed, command: str) -> None:
    """go-spiffe refuses exactly the answers in which the kind is seen, for that reason."""
    arguments = (command, AUDIENCE) if command == "jwt" else (command,)
    api.malformed(kind)
    found = go(*arguments)
    if (kind, command) in SAID:
        assert SAID[kind, command] in found["error"]
    else:
        assert "error" not in found


def test_it_is_over(api: WorkloadApi, go: GoSpiffe) -> None:
    """After that nothing is wrong any more."""
    api.malformed("garbage-certificate")
    api.malformed("jwks-not-json")
    api.recover()
    assert [list(go(*arguments)) for arguments in (("x509",), ("bundles",), ("jwt", AUDIENCE))] == [
        ["bundles", "svids"],
        ["jwt", "x509"],
        ["svids"],
    ]


@dataclass(frozen=True, slots=True)
class Sent:
    """All that is sent while a kind holds."""

    x509: X509SVIDResponse
    x509_bundles: X509BundlesResponse
    jwt: JWTSVIDResponse
    jwt_bundles: JWTBundlesResponse


def _sent(api: WorkloadApi, kind: Malformed) -> Sent:
    api.malformed(kind)
    return Sent(
        answer(api, "FetchX509SVID", X509SVIDRequest(), X509SVIDResponse),
        answer(api, "FetchX509Bundles", X509BundlesRequest(), X509BundlesResponse),
        answer(api, "FetchJWTSVID", JWTSVIDRequest(audience=[AUDIENCE]), JWTSVIDResponse),
        answer(api, "FetchJWTBundles", JWTBundlesRequest(), JWTBundlesResponse),
    )


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("without-spiffe-id", "spiffe_id"),
        ("without-certificate", "x509_svid"),
        ("without-key", "x509_svid_key"),
        ("without-bundle", "bundle"),
    ],
)
def test_a_mandatory_field_is_left_out(api: WorkloadApi, kind: Malformed, field: str) -> None:
    """The field is empty, the others are not, and other answers have what they had."""
    sent = _sent(api, kind)
    values = {each: bool(getattr(sent.x509.svids[0], each)) for each in FIELDS}
    assert values == {each: each != field for each in FIELDS}
    assert bool(sent.x509_bundles.bundles[api.home.id]) is (field != "bundle")
    assert bool(sent.jwt.svids[0].spiffe_id) is (field != "spiffe_id")


def test_an_id_is_not_the_certificates(api: WorkloadApi) -> None:
    """The message names another ID than certificate and token do."""
    sent = _sent(api, "other-id")
    assert sent.x509.svids[0].spiffe_id == sent.jwt.svids[0].spiffe_id == f"{DEPLOYER}/other"
    assert _id(sent.x509.svids[0].x509_svid) == DEPLOYER


def test_an_svid_is_of_another_trust_domain(api: WorkloadApi) -> None:
    """Message, certificate and token agree on an ID of a domain that is not ours, beside our own bundle."""
    sent = _sent(api, "other-trust-domain")
    svid = sent.x509.svids[0]
    assert svid.spiffe_id == sent.jwt.svids[0].spiffe_id == _id(svid.x509_svid)
    assert svid.spiffe_id.startswith("spiffe://elsewhere.example/")
    assert svid.bundle == api.home.x509_der
    _fits(svid)


def test_an_authority_is_unknown(api: WorkloadApi, go: GoSpiffe) -> None:
    """The SVID has our ID and a key that fits, and nobody in the bundle issued it."""
    svid = _sent(api, "unknown-authority").x509.svids[0]
    assert svid.spiffe_id == _id(svid.x509_svid) == DEPLOYER
    _fits(svid)
    assert [each["holds"] for each in go("x509")["svids"]] == [False, True]


def test_there_are_no_bundles(api: WorkloadApi) -> None:
    """Both maps of bundles are empty, though they must hold the home domain's."""
    sent = _sent(api, "no-bundles")
    assert not sent.x509_bundles.bundles
    assert not sent.jwt_bundles.bundles


def test_a_federated_bundle_is_empty(api: WorkloadApi) -> None:
    """The federated bundle is there and has no certificate, or no key; our own has."""
    sent = _sent(api, "empty-federated-bundle")
    assert dict(sent.x509.federated_bundles) == {"spiffe://partner.example": b""}
    assert {name: bool(value) for name, value in sent.x509_bundles.bundles.items()} == {
        "spiffe://acme.example": True,
        "spiffe://partner.example": False,
    }
    keys = {name: len(json.loads(value)["keys"]) for name, value in sent.jwt_bundles.bundles.items()}
    assert keys == {"spiffe://acme.example": 1, "spiffe://partner.example": 0}


def _id(chain: bytes) -> str:
    names = x509.load_der_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)[0]


def _fits(svid: Any) -> None:
    key: Any = serialization.load_der_private_key(svid.x509_svid_key, None)
    assert key.public_key() == x509.load_der_x509_certificate(svid.x509_svid).public_key()
