"""Answers of a Workload API that are wrong in one thing."""

import json
from collections.abc import MutableMapping
from typing import Literal

import jwt
from spiffe._proto.workload_pb2 import (
    JWTSVIDResponse,
    X509BundlesResponse,
    X509SVIDResponse,
)

from tests.spiffe.answers import Answer
from tests.spiffe.pki import Svid, TrustDomain

Malformed = Literal[
    "no-svids",
    "without-spiffe-id",
    "without-certificate",
    "without-key",
    "without-bundle",
    "garbage-certificate",
    "garbage-key",
    "garbage-bundle",
    "key-does-not-fit",
    "other-id",
    "other-trust-domain",
    "unknown-authority",
    "garbage-token",
    "without-token",
    "no-bundles",
    "empty-federated-bundle",
    "garbage-federated-bundle",
    "jwks-not-json",
    "jwks-without-kid",
]
"""Wrong is the first SVID, or the bundle of the home domain, or all bundles that are federated."""
GARBAGE = b"\x30\x82garbage"
ELSEWHERE = "elsewhere.example"
_X509_BUNDLES: dict[Malformed, bytes] = {"without-bundle": b"", "garbage-bundle": GARBAGE}


def spoil(kind: Malformed, answer: Answer, home: TrustDomain) -> None:
    """Makes an answer wrong; one that has no such thing stays as it is."""
    if isinstance(answer, X509SVIDResponse):
        _spoil_x509_svids(kind, answer, home)
    elif isinstance(answer, JWTSVIDResponse):
        _spoil_jwt_svids(kind, answer, home)
    elif isinstance(answer, X509BundlesResponse):
        _spoil_x509_bundles(kind, answer.bundles, home.id)
    else:
        _spoil_jwt_bundles(kind, answer.bundles, home.id)


def _spoil_x509_svids(kind: Malformed, answer: X509SVIDResponse, home: TrustDomain) -> None:
    svid = answer.svids[0]
    path = svid.spiffe_id.removeprefix(home.id)
    foreign, forged = TrustDomain(ELSEWHERE).svid(path), TrustDomain(home.name).svid(path)
    fields: dict[Malformed, dict[str, str | bytes]] = {
        "without-spiffe-id": {"spiffe_id": ""},
        "without-certificate": {"x509_svid": b""},
        "without-key": {"x509_svid_key": b""},
        "garbage-certificate": {"x509_svid": GARBAGE},
        "garbage-key": {"x509_svid_key": GARBAGE},
        "key-does-not-fit": {"x509_svid_key": forged.key_der},
        "other-id": {"spiffe_id": f"{svid.spiffe_id}/other"},
        "other-trust-domain": _as_fields(foreign),
        "unknown-authority": _as_fields(forged),
    }
    for name, value in fields.get(kind, {}).items():
        setattr(svid, name, value)
    for each in answer.svids:
        each.bundle = _X509_BUNDLES.get(kind, each.bundle)
    _spoil_x509_bundles(kind, answer.federated_bundles, home.id)
    if kind == "no-svids":
        del answer.svids[:]


def _spoil_jwt_svids(kind: Malformed, answer: JWTSVIDResponse, home: TrustDomain) -> None:
    svid = answer.svids[0]
    path = svid.spiffe_id.removeprefix(home.id)
    audience = jwt.decode(svid.svid, options={"verify_signature": False})["aud"]
    elsewhere = TrustDomain(ELSEWHERE)
    fields: dict[Malformed, dict[str, str]] = {
        "without-spiffe-id": {"spiffe_id": ""},
        "without-token": {"svid": ""},
        "garbage-token": {"svid": "garbage"},
        "other-id": {"spiffe_id": f"{svid.spiffe_id}/other"},
        "other-trust-domain": {"spiffe_id": elsewhere.id + path, "svid": elsewhere.jwt(path, audience=audience)},
        "unknown-authority": {"svid": TrustDomain(home.name).jwt(path, audience=audience)},
    }
    for name, value in fields.get(kind, {}).items():
        setattr(svid, name, value)
    if kind == "no-svids":
        del answer.svids[:]


def _as_fields(svid: Svid) -> dict[str, str | bytes]:
    return {"spiffe_id": svid.spiffe_id, "x509_svid": svid.chain_der, "x509_svid_key": svid.key_der}


def _spoil_x509_bundles(kind: Malformed, bundles: MutableMapping[str, bytes], home: str) -> None:
    federated: dict[Malformed, bytes] = {"empty-federated-bundle": b"", "garbage-federated-bundle": GARBAGE}
    _replace(bundles, home, _X509_BUNDLES.get(kind), federated.get(kind))
    if kind == "no-bundles" and home in bundles:
        bundles.clear()


def _spoil_jwt_bundles(kind: Malformed, bundles: MutableMapping[str, bytes], home: str) -> None:
    federated: dict[Malformed, bytes] = {"empty-federated-bundle": b'{"keys": []}', "garbage-federated-bundle": b"{"}
    own: dict[Malformed, bytes] = {"jwks-not-json": b"{", "jwks-without-kid": _without_kid(bundles[home])}
    _replace(bundles, home, own.get(kind), federated.get(kind))
    if kind == "no-bundles":
        bundles.clear()


def _replace(bundles: MutableMapping[str, bytes], home: str, own: bytes | None, federated: bytes | None) -> None:
    for domain in list(bundles):
        replacement = own if domain == home else federated
        if replacement is not None:
            bundles[domain] = replacement


def _without_kid(jwks: bytes) -> bytes:
    keys = [{name: value for name, value in key.items() if name != "kid"} for key in json.loads(jwks)["keys"]]
    return json.dumps({"keys": keys}).encode()
