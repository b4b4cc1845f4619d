import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from exchanged.workload import api_pb2 as pb
from exchanged.workload import messages
from exchanged.workload.messages import X509Update
from tests.spiffe.certificates import now
from tests.spiffe.pki import Svid, TrustDomain

HOME, PARTNER = TrustDomain("acme.example"), TrustDomain("partner.example", jwt="RSA")
SVID = HOME.svid(under=HOME.intermediate())
RSA_SVID = HOME.svid(key_kind="RSA")


def _svid(svid: Svid = SVID, domain: TrustDomain = HOME, **changes: Any) -> pb.X509Svid:
    usual: dict[str, Any] = {
        "spiffe_id": svid.spiffe_id,
        "x509_svid": svid.chain_der,
        "x509_svid_key": svid.key_der,
        "bundle": domain.x509_der,
    }
    return pb.X509Svid(**(usual | changes))


def _x509(*svids: pb.X509Svid, **more: Any) -> X509Update:
    return messages.x509(pb.X509Response(svids=svids or [_svid()], **more))


def test_certificates() -> None:
    """SVIDs of several trust domains come with the authorities of each; foreign ones beside them."""
    domain = TrustDomain("acme.example")
    domain.rotate()
    second = TrustDomain("second.example")
    foreign = {PARTNER.id: PARTNER.x509_der}
    found = _x509(
        _svid(domain.svid(), domain), _svid(second.svid("/web"), second), _svid(RSA_SVID), federated_bundles=foreign
    )
    assert [each.spiffe_id for each in found.svids] == [
        "spiffe://acme.example/ns/web/sa/deployer",
        "spiffe://second.example/web",
        "spiffe://acme.example/ns/web/sa/deployer",
    ]
    assert found.svids[0].authorities_pem == domain.x509_pem
    assert found.bundles == {
        "acme.example": tuple(HOME.authorities),
        "second.example": tuple(second.authorities),
        "partner.example": tuple(PARTNER.authorities),
    }
    assert (found.svids[2].chain_pem, found.svids[2].key_pem) == (RSA_SVID.chain_pem, RSA_SVID.key_pem)
    assert found.revocations == ()


def test_our_own_authorities_are_nobody_elses() -> None:
    """A foreign bundle that is said to be of our own trust domain takes nothing of it, and adds nothing."""
    found = _x509(federated_bundles={HOME.id: PARTNER.x509_der})
    assert found.bundles == {"acme.example": tuple(HOME.authorities)}


def _of_version_two(domain: TrustDomain) -> bytes:
    return domain.x509_der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01")


NO_CERTIFICATES = {
    "garbage": b"garbage",
    "a tag alone": b"\x30",
    "another tag": b"\x31\x00",
    "an empty sequence": b"\x30\x00",
    "a length without an end": b"\x30\x80" + HOME.x509_der,
    "a length that is too long": b"\x30\x85\x00\x00\x00\x00\x01\x00",
    "a length beyond the end": b"\x30\x84\xff\xff\xff\xff\x00",
    "half of a length": b"\x30\x82\x01",
    "half of a certificate": HOME.x509_der[:-1],
    "something behind it": HOME.x509_der + b"\x00",
    "garbage behind it": HOME.x509_der + b"\x30\x03\x02\x01\x01",
    "a version that there is not": _of_version_two(HOME),
    "a name that is no text": HOME.x509_der.replace(b"acme.example", b"\xffcme.example"),
}


@pytest.mark.parametrize("name", NO_CERTIFICATES)
def test_what_is_no_certificate(name: str) -> None:
    """In our own SVID or bundle it spoils the message; in a foreign bundle that trust domain, and nobody else."""
    der = NO_CERTIFICATES[name]
    for svid in (_svid(x509_svid=der), _svid(bundle=der)):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
            _x509(svid)
    found = _x509(federated_bundles={PARTNER.id: der, "spiffe://third.example": PARTNER.x509_der})
    assert found.bundles == {
        "acme.example": tuple(HOME.authorities),
        "partner.example": None,
        "third.example": tuple(PARTNER.authorities),
    }


@pytest.mark.parametrize(
    ("svid", "said"),
    [
        (_svid(spiffe_id=""), "not a SPIFFE ID"),
        (_svid(spiffe_id="acme.example/web"), "not a SPIFFE ID"),
        (_svid(spiffe_id=SVID.spiffe_id + "/other"), "is that of"),
        (_svid(x509_svid=b""), "cannot be read"),
        (_svid(bundle=b""), "no bundle beside"),
        (_svid(HOME.svid(ca=True)), "the leaf is an authority"),
        (_svid(HOME.svid(usage=None)), "not for digital signatures"),
        (_svid(HOME.svid(uris=["https://acme.example"])), "not a SPIFFE ID"),
        (_svid(PARTNER.svid()), None),
    ],
)
def test_an_svid_that_is_none(svid: pb.X509Svid, said: str | None) -> None:
    """What is mandatory for the daemon itself is right, or nothing of the message is taken."""
    if said is None:
        assert _x509(svid).svids[0].spiffe_id.startswith(PARTNER.id)
    else:
        with pytest.raises(ValueError, match=said):
            _x509(_svid(), svid)


def test_no_svid() -> None:
    """A message without SVIDs lacks what is mandatory (§4.5)."""
    with pytest.raises(ValueError, match=r"no X\.509-SVID"):
        messages.x509(pb.X509Response(federated_bundles={PARTNER.id: PARTNER.x509_der}))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "partner.example",
        "spiffe://",
        "spiffe://Partner.example",
        "https://partner.example",
        "spiffe://partner.example/",
        "spiffe://acme.example/ns/web/sa/deployer",
    ],
)
def test_bundles_of_nobody(name: str) -> None:
    """What is not called by the ID of a trust domain is left aside, and all else is taken."""
    known = {"spiffe://third.example": PARTNER.x509_der}
    found = _x509(federated_bundles={name: PARTNER.x509_der, **known})
    assert found.bundles.keys() == {"acme.example", "third.example"}
    keys = json.dumps(PARTNER.jwks()).encode()
    assert messages.jwt(pb.JwtBundlesResponse(bundles={name: keys, HOME.id: keys})).keys() == {"acme.example"}


def test_an_empty_bundle() -> None:
    """A foreign trust domain may have no authority, and no key: it is known, and nobody of it comes in."""
    assert _x509(federated_bundles={PARTNER.id: b""}).bundles["partner.example"] == ()
    for keys in (b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AA", "kid": "x"}]}'):
        assert messages.jwt(pb.JwtBundlesResponse(bundles={PARTNER.id: keys})) == {"partner.example": ()}


def _revoking(issuer: x509.Name = HOME.authorities[0].subject) -> bytes:
    at = now()
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(at).next_update(at + timedelta(days=1))
    entry = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(at).build()
    return builder.add_revoked_certificate(entry).sign(HOME._current.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_revocation_lists() -> None:
    """The lists of a message are those that count; without any none does."""
    (found,) = _x509(crl=[_revoking()]).revocations
    assert found.get_revoked_certificate_by_serial_number(7) is not None
    assert _x509().revocations == ()


NO_LISTS = {
    "nothing": b"",
    "garbage": b"garbage",
    "half of one": _revoking()[:-1],
    "a certificate": HOME.x509_der,
    "one of nobody": _revoking(x509.Name([])),
    "a version that there is not": _revoking().replace(b"\x02\x01\x01\x30\x0a", b"\x02\x01\x07\x30\x0a", 1),
    "an issuer that cannot be read": _revoking().replace(b"acme.example", b"\xffcme.example"),
    "an issuer's name that is a number": _revoking().replace(b"\x0c\x0cacme", b"\x02\x0cacme"),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_what_is_no_revocation_list(name: str) -> None:
    """Whom a list revokes that cannot be read is not known, so the message is left aside, and not called for good."""
    assert NO_LISTS[name] != _revoking()
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        _x509(crl=[_revoking(), NO_LISTS[name]])


def test_jwt_keys() -> None:
    """Keys by trust domain, with or without their use; those of certificates are none of them."""
    standard, spiffe = HOME.jwks(), PARTNER.bundle()
    for key in standard["keys"]:
        key.pop("use")
    bundles = {HOME.id: json.dumps(standard).encode(), PARTNER.id: json.dumps(spiffe).encode()}
    found = messages.jwt(pb.JwtBundlesResponse(bundles=bundles))
    assert {name: [key.kid for key in keys or ()] for name, keys in found.items()} == {
        "acme.example": [HOME.kid],
        "partner.example": [PARTNER.kid],
    }


def test_no_jwt_bundle() -> None:
    """A message without bundles lacks what is mandatory (§6.2.2)."""
    with pytest.raises(ValueError, match="no JWT bundle"):
        messages.jwt(pb.JwtBundlesResponse())


@pytest.mark.parametrize("keys", [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000, b'"keys"'])
def test_jwt_keys_that_are_none(keys: bytes) -> None:
    """They are not known, and those of the others are."""
    other = json.dumps(HOME.jwks()).encode()
    found = messages.jwt(pb.JwtBundlesResponse(bundles={PARTNER.id: keys, HOME.id: other}))
    assert found["partner.example"] is None
    assert found["acme.example"]
