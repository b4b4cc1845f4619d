import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from exchanged.authenticate.bundles import REFRESH_UNHINTED, Bundle, Published, bundle_of, certificate_of
from exchanged.authenticate.jwk import ALGORITHMS, MAX_KEYS
from tests.spiffe.certificates import now
from tests.spiffe.pki import TrustDomain
from tests.svids import signed_anew

DOMAIN, OTHER = TrustDomain("acme.example"), TrustDomain("partner.example", jwt="RSA")


def _bundle(*entries: Any, **members: Any) -> Bundle:
    return bundle_of({"keys": list(entries), **members}, ALGORITHMS)


def _x509(domain: TrustDomain = DOMAIN, **changes: Any) -> dict[str, Any]:
    return domain._current.x509_jwk() | changes


def _jwt(domain: TrustDomain = DOMAIN, **changes: Any) -> dict[str, Any]:
    return domain._current.jwt_jwk() | changes


def _without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def _base64(der: bytes) -> str:
    return base64.b64encode(der).decode()


def test_a_bundle() -> None:
    """Authorities and JWT keys are told apart by their use, and all of a rotation under way are there."""
    domain = TrustDomain("acme.example")
    domain.prepare()
    found = bundle_of(domain.bundle(refresh_hint=60), ALGORITHMS)
    assert found.authorities == tuple(domain.authorities)
    assert [key.kid for key in found.jwt_keys or ()] == [key["kid"] for key in domain.jwks()["keys"]]
    assert (found.refresh, found.revocations) == (timedelta(seconds=60), ())


def test_keys_verify_what_fits_them() -> None:
    """A JWT key verifies by the algorithms of its kind that the issuer accepts, and by one alone where it says so."""
    everything = _bundle(_jwt(), _jwt(OTHER), _jwt(OTHER, alg="PS256")).jwt_keys or ()
    rsa_algorithms = {name for name in ALGORITHMS if name.startswith(("RS", "PS"))}
    assert [set(key.algorithms) for key in everything] == [{"ES256"}, rsa_algorithms, {"PS256"}]
    narrowed = bundle_of({"keys": [_jwt(), _jwt(OTHER)]}, frozenset({"RS256"})).jwt_keys or ()
    assert [set(key.algorithms) for key in narrowed] == [{"RS256"}]


def test_an_empty_bundle() -> None:
    """A bundle without keys is one: its trust domain has taken them all back (§4.1.3)."""
    found = _bundle()
    assert (found.authorities, found.jwt_keys, found.refresh) == ((), (), REFRESH_UNHINTED)


def _private() -> dict[str, Any]:
    key = DOMAIN.jwt_key
    assert not isinstance(key, rsa.RSAPrivateKey)
    return {**ECAlgorithm.to_jwk(key, as_dict=True), "use": "jwt-svid", "kid": "leaked"}


def _short() -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "jwt-svid", "kid": "short"}


IGNORED: dict[str, Any] = {
    "no use": _without(_x509(), "use"),
    "a use nobody knows": _x509(use="wit-svid"),
    "a use in upper case": _x509(use="X509-SVID"),
    "a use that is a list": _x509(use=["x509-svid"]),
    "the use of a web signature": _jwt(use="sig"),
    "no use of a JWT key": _without(_jwt(), "use"),
    "no kind": _without(_x509(), "kty"),
    "a kind nobody knows": _x509(kty="AKP"),
    "a kind that is a list": _x509(kty=["EC"]),
    "a kind of JWT key nobody knows": _jwt(kty="AKP"),
    "a symmetric key": {"kty": "oct", "k": "c2VjcmV0", "use": "jwt-svid", "kid": "s"},
    "a private key": _private(),
    "a key that is too short": _short(),
    "a curve nobody knows": _jwt(crv="P-999"),
    "a key that cannot be read": _jwt(x="!"),
    "an algorithm that does not fit": _jwt(alg="RS256"),
    "an algorithm by HMAC": _jwt(alg="HS256"),
    "no certificate": _without(_x509(), "x5c"),
    "an empty list of certificates": _x509(x5c=[]),
    "certificates that are no list": _x509(x5c=_x509()["x5c"][0]),
    "text": "text",
    "nothing": None,
    "a list": [_x509()],
}


@pytest.mark.parametrize("name", IGNORED)
def test_entries_that_are_ignored(name: str) -> None:
    """What cannot be used takes nothing from what can (§4.1.3, X509-SVID §6.2, JWT-SVID §6.2)."""
    alone = _bundle(IGNORED[name])
    assert (alone.authorities, alone.jwt_keys) == ((), ())
    beside = _bundle(IGNORED[name], _x509(OTHER), _jwt(OTHER))
    assert beside.authorities == tuple(OTHER.authorities)
    assert [key.kid for key in beside.jwt_keys or ()] == [OTHER.kid]


def test_the_first_certificate_counts() -> None:
    """Of several certificates in one entry all but the first are ignored, whatever they are."""
    entry = _x509(x5c=[*_x509()["x5c"], *_x509(OTHER)["x5c"], "garbage"])
    assert _bundle(entry).authorities == tuple(DOMAIN.authorities)


def _unreadable() -> bytes:
    """An authority whose name is no text: the handshake's library does not read on after it."""
    der = DOMAIN.authorities[0].public_bytes(Encoding.DER)
    return der.replace(b"acme.example", b"\xffcme.example")


GARBAGE: dict[str, Any] = {
    "no text": 7,
    "nothing": None,
    "a list": [],
    "no base64": "!!!",
    "base64 of the URL's alphabet": "MII_-A==",
    "base64 in lines": "\n".join(_x509()["x5c"]) + "\n",
    "letters beyond ASCII": "MIIé",
    "no certificate": _base64(b"\x30\x03\x02\x01\x01"),
    "half of a certificate": _base64(DOMAIN.authorities[0].public_bytes(Encoding.DER)[:-1]),
    "more than a certificate": _base64(DOMAIN.authorities[0].public_bytes(Encoding.DER) + b"\0"),
    "a version that there is not": _base64(
        DOMAIN.authorities[0].public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01")
    ),
    "a name that is no text": _base64(_unreadable()),
    "PEM": DOMAIN.x509_pem.decode(),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_certificate_that_is_none(name: str) -> None:
    """A bundle with an entry that should hold an authority and does not is refused as a whole."""
    with pytest.raises(ValueError, match="x5c holds no certificate"):
        _bundle(_x509(OTHER), _x509(x5c=[GARBAGE[name]]))


def test_a_certificate_that_not_everybody_can_read() -> None:
    """What one library reads and the next does not is no authority: the handshake has one pool for all."""
    with pytest.raises(ValueError, match="not a certificate"):
        certificate_of(_unreadable())


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {}}, {"keys": "x"}])
def test_what_is_no_bundle(document: dict[str, Any]) -> None:
    """Without a list of keys it is none."""
    with pytest.raises(ValueError, match="no list of keys"):
        bundle_of(document, ALGORITHMS)


def test_so_many_keys_and_no_more() -> None:
    """Of a bundle that never ends the first keys are looked at; what is ignored does not count."""
    ignored = [_x509(use="another")] * (2 * MAX_KEYS)
    found = _bundle(*ignored, *[_x509()] * (MAX_KEYS + 1), *[_jwt()] * (MAX_KEYS + 1))
    assert (len(found.authorities or ()), len(found.jwt_keys or ())) == (MAX_KEYS, MAX_KEYS)


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        (60, 60),
        (1, 5),
        (5, 5),
        (3_600, 3_600),
        (3_601, 3_600),
        (10**30, 3_600),
        (0, 300),
        (-1, 300),
        (1.5, 300),
        (True, 300),
        ("60", 300),
        (None, 300),
        ([60], 300),
    ],
)
def test_hints(hint: Any, seconds: int) -> None:
    """A hint is honoured within bounds; what is none leaves five minutes (§6.1)."""
    assert _bundle(spiffe_refresh_hint=hint).refresh == timedelta(seconds=seconds)


def test_authorities_are_as_they_are_published() -> None:
    """An authority may be over, or not self-signed: it is the path that is judged, when there is one."""
    key = OTHER._current.key
    below = signed_anew(DOMAIN.intermediate().chain[0], DOMAIN._current.key, key=key)
    old = DOMAIN.intermediate(not_after=now() - timedelta(hours=1)).chain[0]
    for authority in (below, old):
        entry = _x509(x5c=[_base64(authority.public_bytes(Encoding.DER))])
        assert _bundle(entry).authorities == (authority,)


async def test_the_same_document_is_the_same_bundle() -> None:
    """What was verified by it stays verified; another document is another bundle."""
    domain = TrustDomain("acme.example")

    class Source:
        async def fetch(self) -> Any:
            return json.loads(json.dumps(domain.bundle()))

    published = Published(Source(), frozenset({"ES256"}))
    first = await published.fetch()
    assert await published.fetch() is first
    domain.rotate()
    assert await published.fetch() is not first
