"""SPIFFE IDs, chains and bundles: whatever is shown is one of them, or refused as it should be."""

import base64
import json
import string
import textwrap
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from exchanged.authenticate.bundles import bundle_of
from exchanged.authenticate.jwk import ALGORITHMS
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.x509_svid import read
from exchanged.model import PresentedCertificate
from exchanged.spiffe_id import SpiffeId
from exchanged.workload import api_pb2 as pb
from exchanged.workload import messages
from tests.spiffe.certificates import now
from tests.spiffe.pki import TrustDomain

WELL_WITHIN = timedelta(seconds=5)
PIECES = ["spiffe://", "SPIFFE://", "https://", "acme", "a.b", ".", "..", "/", "//", "é", "A", "_", "-", "9", "~"]
PIECES += [":", ":443", "@", "?", "#", "%41", "*", " ", "\n", "\0", "x" * 250, "x" * 1_700, "\u0131", "\u0661"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=40)
IDS = st.tuples(
    st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=300),
    st.lists(st.text(string.ascii_letters + string.digits + ".-_", min_size=0, max_size=600), max_size=6),
).map(lambda parts: "/".join([f"spiffe://{parts[0]}", *parts[1]]))


def _by_the_specification(text: str) -> tuple[str, list[str]] | None:
    """Trust domain and segments, step by step (SPIFFE-ID §2); None where it is no ID."""
    if len(text) > 2_048 or text[:9] != "spiffe://":
        return None
    trust_domain, *segments = text[9:].split("/")
    if not 0 < len(trust_domain) <= 255:
        return None
    if any(letter not in string.ascii_lowercase + string.digits + ".-_" for letter in trust_domain):
        return None
    for segment in segments:
        if segment in {"", ".", ".."}:
            return None
        if any(letter not in string.ascii_letters + string.digits + ".-_" for letter in segment):
            return None
    return trust_domain, segments


@settings(max_examples=500)
@given(IDS | TEXTS | TEXTS.map(lambda text: f"spiffe://{text}") | TEXTS.map(lambda text: f"spiffe://acme/{text}"))
def test_ids_are_those_of_the_specification(text: str) -> None:
    """What is an ID, and of what parts, is what the specification says, word for word."""
    expected = _by_the_specification(text)
    if expected is None:
        with pytest.raises(ValueError, match="not a SPIFFE ID"):
            SpiffeId.parse(text)
    else:
        found = SpiffeId.parse(text)
        assert (found.trust_domain, list(found.segments)) == expected
        assert str(found) == text


@given(IDS, IDS)
def test_equal_ids_are_equal_texts(one: str, other: str) -> None:
    """No two spellings are one ID."""
    if _by_the_specification(one) and _by_the_specification(other):
        assert (SpiffeId.parse(one) == SpiffeId.parse(other)) is (one == other)


DOMAIN = TrustDomain("acme.example")
SVID = DOMAIN.svid(dns=["web.example"], addresses=["10.0.0.1"], under=DOMAIN.intermediate(path_length=0))
CHAIN = [each.public_bytes(Encoding.DER) for each in SVID.certificates]
ROOT = DOMAIN.authorities[0].public_bytes(Encoding.DER)
BYTES = st.sampled_from([0, 1, 2, 4, 5, 0x0C, 0x13, 0x30, 0x80, 0x86, 0xA0, 0xA3, 0xFF]) | st.integers(0, 255)
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), BYTES), min_size=1, max_size=3)
READS_ON = pytest.mark.filterwarnings(
    f"ignore::{CryptographyDeprecationWarning.__module__}.CryptographyDeprecationWarning"
)


def _changed(der: bytes, changes: list[tuple[int, int]]) -> bytes:
    """These bytes with some that are different."""
    made = bytearray(der)
    for place, byte in changes:
        made[place % len(made)] = byte
    return bytes(made)


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()


def _judged(chain: bytes, authorities: Any) -> bool:
    """Whether the chain is accepted."""
    detail = ""
    try:
        read(PresentedCertificate(chain_pem=chain)).check(authorities, (), now())
    except TokenRefused as refused:
        detail = refused.detail
    assert len(detail) <= 300
    return not detail


@settings(max_examples=200, deadline=WELL_WITHIN)
@given(
    st.binary(max_size=400)
    | st.binary(max_size=400).map(_pem)
    | st.text(max_size=100).map(lambda text: f"-----BEGIN CERTIFICATE-----\n{text}\n-----END".encode())
)
def test_any_bytes_are_no_chain(chain: bytes) -> None:
    """Whatever a connection is said to have been opened with is refused, and nothing worse."""
    assert not _judged(chain, tuple(DOMAIN.authorities))


@READS_ON
@settings(max_examples=500, deadline=WELL_WITHIN)
@given(st.integers(0, 1), CHANGES)
def test_a_chain_with_other_bytes_is_refused(which: int, changes: list[tuple[int, int]]) -> None:
    """Not a byte of a leaf or of an intermediate can be another."""
    changed = [_changed(der, changes) if place == which else der for place, der in enumerate(CHAIN)]
    assert _judged(b"".join(map(_pem, changed)), tuple(DOMAIN.authorities)) is (changed == CHAIN)


@READS_ON
@settings(max_examples=500, deadline=WELL_WITHIN)
@given(CHANGES)
def test_an_authority_with_other_bytes(changes: list[tuple[int, int]]) -> None:
    """Whatever a bundle calls an authority: the bundle is refused, or chains are by it, or accepted; no more."""
    x5c = [base64.b64encode(_changed(ROOT, changes)).decode()]
    try:
        bundle = bundle_of({"keys": [{"use": "x509-svid", "kty": "EC", "x5c": x5c}]}, ALGORITHMS)
    except ValueError:
        return
    _judged(SVID.chain_pem, bundle.authorities)


WORDS = ["keys", "kty", "EC", "RSA", "use", "x509-svid", "jwt-svid", "x5c", "kid", "crv", "P-256", "x", "y", "n", "e"]
WORDS += ["AQAB", "spiffe_refresh_hint", "spiffe_sequence", "alg", "ES256", "key_ops", "verify", "d", "k", "oct"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=5,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"kty": st.sampled_from(["EC", "RSA"]), "use": st.sampled_from(["x509-svid", "jwt-svid"])},
        optional=dict.fromkeys(["x5c", "kid", "crv", "x", "n", "alg", "key_ops"], JSON),
    )
    | JSON,
    max_size=3,
)
DOCUMENTS = st.dictionaries(st.sampled_from(WORDS), JSON, max_size=6) | st.fixed_dictionaries(
    {"keys": ENTRIES}, optional={"spiffe_refresh_hint": JSON}
)


@settings(max_examples=200, deadline=WELL_WITHIN)
@given(DOCUMENTS)
def test_any_document_is_a_bundle_or_none(document: dict[str, Any]) -> None:
    """Whatever a publisher serves is a bundle with a time to its next fetch, or is refused."""
    try:
        found = bundle_of(document, ALGORITHMS)
    except ValueError:
        return
    assert timedelta(seconds=5) <= found.refresh <= timedelta(hours=1)


FIELDS = st.binary(max_size=60) | st.sampled_from([ROOT, CHAIN[0], SVID.chain_der, SVID.key_der, DOMAIN.x509_der])
NAMES = st.sampled_from(["spiffe://acme.example", "spiffe://partner.example", "spiffe://", ""]) | st.text(max_size=5)
SVIDS = st.builds(
    pb.X509Svid,
    spiffe_id=st.just(SVID.spiffe_id) | NAMES,
    x509_svid=FIELDS,
    x509_svid_key=FIELDS,
    bundle=FIELDS,
)


@settings(max_examples=300, deadline=WELL_WITHIN)
@given(st.lists(SVIDS, max_size=2), st.dictionaries(NAMES, FIELDS, max_size=3), st.lists(FIELDS, max_size=2))
def test_any_message_of_certificates(svids: list[Any], bundles: dict[str, bytes], lists: list[bytes]) -> None:
    """Whatever the Workload API says of certificates makes sense, or is left aside."""
    try:
        found = messages.x509(pb.X509Response(svids=svids, federated_bundles=bundles, crl=lists))
    except ValueError:
        return
    assert found.svids


@settings(deadline=WELL_WITHIN)
@given(st.dictionaries(NAMES, FIELDS | DOCUMENTS.map(json.dumps).map(str.encode), max_size=3))
def test_any_message_of_jwt_keys(bundles: dict[str, bytes]) -> None:
    """Whatever the Workload API says of JWT keys makes sense, or is left aside."""
    try:
        messages.jwt(pb.JwtBundlesResponse(bundles=bundles))
    except ValueError:
        assert not bundles
