"""Attacks on JWT-SVIDs: each lets one thing be wrong, and is refused for exactly that."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exchanged.authenticate.refused import TokenRefused
from exchanged.config import Algorithm
from exchanged.errors import Reason
from exchanged.model import Identity, PresentedToken
from tests.issuers import AUDIENCE, FakeIssuer
from tests.spiffe.pki import TrustDomain
from tests.svids import Published, authenticators, presented
from tests.world import OWN, InMemorySource, authenticator

HOME, OTHER = TrustDomain("acme.example"), TrustDomain("partner.example")
CI = FakeIssuer("https://ci.example")
DEPLOYER = "spiffe://acme.example/ns/web/sa/deployer"
DAY = timedelta(days=1)


async def _token(token: str, home: TrustDomain = HOME, **changes: Any) -> Identity:
    spiffe = [Published(each).authenticator(**changes) for each in (home, OTHER)]
    known = authenticators(*spiffe, others=(authenticator("ci", CI, InMemorySource(CI)),))
    return await known.authenticate(PresentedToken(text=token), "", datetime.now(UTC))


def _public_pem(domain: TrustDomain) -> bytes:
    return domain.jwt_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _in(seconds: int) -> int:
    return int(time.time()) + seconds


MALFORMED, ALGORITHM, SIGNATURE = Reason.TOKEN_MALFORMED, Reason.TOKEN_ALGORITHM, Reason.TOKEN_SIGNATURE
CLAIMS, UNKNOWN, LIFETIME = Reason.TOKEN_CLAIMS, Reason.TOKEN_ISSUER_UNKNOWN, Reason.TOKEN_LIFETIME
TOKENS: dict[str, tuple[Callable[[], str], Reason]] = {
    "no algorithm": (lambda: HOME.jwt(header={"alg": "none"}), MALFORMED),
    "no algorithm, with a signature": (lambda: HOME.jwt(header={"alg": "none"}) + "AAAA", ALGORITHM),
    "HMAC with the public key": (lambda: HOME.jwt(with_key=_public_pem(HOME)), ALGORITHM),
    "HMAC with the public key, called ECDSA": (
        lambda: HOME.jwt(header={"alg": "ES256"}, with_key=_public_pem(HOME)), SIGNATURE),
    "an algorithm that no specification has": (lambda: HOME.jwt(header={"alg": "EdDSA"}), ALGORITHM),
    "RSA for an EC key": (lambda: HOME.jwt(header={"alg": "RS256"}), SIGNATURE),
    "ECDSA on another curve than the key's": (lambda: HOME.jwt(header={"alg": "ES384"}), SIGNATURE),
    "another algorithm than it was signed by": (lambda: HOME.jwt(header={"alg": "PS256"}), SIGNATURE),
    "the key of another trust domain": (lambda: OTHER.jwt(sub=DEPLOYER), SIGNATURE),
    "the key of another trust domain, called ours": (
        lambda: OTHER.jwt(sub=DEPLOYER, header={"kid": HOME.kid}), SIGNATURE),
    "our key for a workload of another trust domain": (
        lambda: HOME.jwt(sub="spiffe://partner.example/web"), SIGNATURE),
    "our key for a workload of another trust domain, called theirs": (
        lambda: HOME.jwt(sub="spiffe://partner.example/web", header={"kid": OTHER.kid}), SIGNATURE),
    "a key that nobody published": (lambda: HOME.jwt(with_key=TrustDomain("acme.example").jwt_key), SIGNATURE),
    "the key of an X.509 authority": (lambda: HOME.jwt(with_key=HOME._current.key), SIGNATURE),
    "the key of an X.509 authority, without a key id": (
        lambda: HOME.jwt(with_key=HOME._current.key, header={"kid": None}), SIGNATURE),
    "an unknown key id": (lambda: HOME.jwt(header={"kid": "another"}), SIGNATURE),
    "a key id that is a path": (lambda: HOME.jwt(header={"kid": "../../dev/null"}), SIGNATURE),
    "a key id that is a list": (lambda: HOME.jwt(header={"kid": [HOME.kid]}), SIGNATURE),
    "a URL of keys of its own": (lambda: HOME.jwt(header={"jku": "https://evil.example/keys"}), MALFORMED),
    "a key of its own": (lambda: HOME.jwt(header={"jwk": {"kty": "EC"}}), MALFORMED),
    "a certificate of its own": (lambda: HOME.jwt(header={"x5c": ["MII"]}), MALFORMED),
    "a critical header": (lambda: HOME.jwt(header={"crit": ["exp"]}), MALFORMED),
    "a header that the specification does not have": (lambda: HOME.jwt(header={"cty": "JWT"}), MALFORMED),
    "a type of another kind": (lambda: HOME.jwt(header={"typ": "at+jwt"}), MALFORMED),
    "a type of another SVID": (lambda: HOME.jwt(header={"typ": "wit+jwt"}), MALFORMED),
    "an empty type": (lambda: HOME.jwt(header={"typ": ""}), MALFORMED),
    "a type that is a list": (lambda: HOME.jwt(header={"typ": ["JWT"]}), MALFORMED),
    "no subject": (lambda: HOME.jwt(sub=None), UNKNOWN),
    "a subject that is a list": (lambda: HOME.jwt(sub=[DEPLOYER]), UNKNOWN),
    "a trust domain that is not configured": (lambda: TrustDomain("elsewhere.example").jwt(), UNKNOWN),
    "a trust domain with ours as its beginning": (lambda: HOME.jwt(sub="spiffe://acme.example.evil/web"), UNKNOWN),
    "a trust domain with ours as its end": (lambda: HOME.jwt(sub="spiffe://evil.acme.example/web"), UNKNOWN),
    "a trust domain in upper case": (lambda: HOME.jwt(sub="spiffe://ACME.example/web"), UNKNOWN),
    "a scheme in upper case": (lambda: HOME.jwt(sub="SPIFFE://acme.example/web"), UNKNOWN),
    "a subject with a user": (lambda: HOME.jwt(sub="spiffe://root@acme.example/web"), UNKNOWN),
    "a subject with a port": (lambda: HOME.jwt(sub="spiffe://acme.example:443/web"), UNKNOWN),
    "the trust domain as the subject": (lambda: HOME.jwt(sub="spiffe://acme.example"), UNKNOWN),
    "the trust domain with a root path": (lambda: HOME.jwt(sub="spiffe://acme.example/"), CLAIMS),
    "a subject that ends in a slash": (lambda: HOME.jwt(sub=DEPLOYER + "/"), CLAIMS),
    "a subject that goes up": (lambda: HOME.jwt(sub="spiffe://acme.example/web/../admin"), CLAIMS),
    "a percent-encoded subject": (lambda: HOME.jwt(sub="spiffe://acme.example/%61dmin"), CLAIMS),
    "a subject with a query": (lambda: HOME.jwt(sub=DEPLOYER + "?a"), CLAIMS),
    "a subject with a fragment": (lambda: HOME.jwt(sub=DEPLOYER + "#a"), CLAIMS),
    "a subject with a line end": (lambda: HOME.jwt(sub=DEPLOYER + "\n"), CLAIMS),
    "a subject of 2,049 characters": (lambda: HOME.jwt(sub=DEPLOYER.ljust(2_049, "x")), CLAIMS),
    "another audience": (lambda: HOME.jwt(audience="reports"), Reason.TOKEN_AUDIENCE),
    "our audience and another": (lambda: HOME.jwt(audience=[AUDIENCE, "reports"]), Reason.TOKEN_AUDIENCE),
    "our audience with something behind it": (lambda: HOME.jwt(audience=AUDIENCE + "/"), Reason.TOKEN_AUDIENCE),
    "no audience": (lambda: HOME.jwt(aud=None), CLAIMS),
    "an empty audience": (lambda: HOME.jwt(audience=[]), CLAIMS),
    "no end": (lambda: HOME.jwt(exp=None), CLAIMS),
    "an end that is text": (lambda: HOME.jwt(exp="tomorrow"), CLAIMS),
    "expired": (lambda: HOME.jwt(iat=_in(-600), exp=_in(-60)), Reason.TOKEN_EXPIRED),
    "from the future": (lambda: HOME.jwt(iat=_in(600), exp=_in(900)), Reason.TOKEN_NOT_YET_VALID),
    "not yet valid": (lambda: HOME.jwt(nbf=_in(600)), Reason.TOKEN_NOT_YET_VALID),
    "valid for a day": (lambda: HOME.jwt(lifetime=DAY), LIFETIME),
    "valid for a day, issued nobody knows when": (lambda: HOME.jwt(lifetime=DAY, iat=None), LIFETIME),
    "issued at no time": (lambda: HOME.jwt(iat="now"), CLAIMS),
    "our own token": (lambda: HOME.jwt(iss=OWN), Reason.TOKEN_OWN),
    "a CI system's token for our workload": (lambda: CI.token(iss=None, sub=DEPLOYER), SIGNATURE),
    "a changed claim": (lambda: _changed(HOME.jwt("/web"), HOME.jwt("/admin")), SIGNATURE),
}  # fmt: skip


def _changed(token: str, other: str) -> str:
    """The claims of one between the header and the signature of another."""
    header, _, signature = token.split(".")
    return f"{header}.{other.split('.')[1]}.{signature}"


@pytest.mark.parametrize("name", TOKENS)
async def test_jwt_svid(name: str) -> None:
    """The JWT-SVID is refused, for the reason that it is wrong."""
    make, reason = TOKENS[name]
    with pytest.raises(TokenRefused) as refused:
        await _token(make())
    assert refused.value.reason is reason, refused.value.detail


@cache
def _keyed(algorithm: str) -> TrustDomain:
    """A trust domain with a key for this algorithm."""
    domain = TrustDomain("acme.example", jwt="EC" if algorithm.startswith("ES") else "RSA")
    curves: dict[str, ec.EllipticCurve] = {"ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        domain._current.jwt_key = ec.generate_private_key(curves[algorithm])
    return domain


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
async def test_the_algorithms_of_the_specification(algorithm: str) -> None:
    """Each of the nine is accepted with a key that fits it, and refused where the issuer is narrowed to others."""
    domain = _keyed(algorithm)
    token = domain.jwt(header={"alg": algorithm})
    assert (await _token(token, domain)).subject == DEPLOYER
    with pytest.raises(TokenRefused) as refused:
        await _token(token, domain, algorithms=frozenset(get_args(Algorithm)) - {algorithm})
    assert refused.value.reason is ALGORITHM


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"header": {"typ": "JOSE"}},
        {"header": {"typ": None}},
        {"header": {"kid": None}},
        {"iat": None},
        {"jti": "1"},
        {"nbf": _in(-5)},
        {"aud": AUDIENCE},
        {"iss": "https://spire.example"},
        {"sub": DEPLOYER.ljust(2_048, "x")},
    ],
)
async def test_what_a_jwt_svid_may_be(changes: dict[str, Any]) -> None:
    """What the specification leaves open is accepted, so that each attack is refused for what it changed."""
    found = await _token(HOME.jwt(**changes))
    assert found.issuer == "acme"
    assert found.subject.startswith(DEPLOYER)


async def test_a_jwt_svid_is_for_many_uses() -> None:
    """`jti` is optional, and makes nothing single: the same JWT-SVID is accepted again (JWT-SVID §7.1)."""
    token = HOME.jwt(jti="1")
    first, second = await _token(token), await _token(token)
    assert (first.single_use, first.token_digest) == (None, second.token_digest)


async def test_a_key_id_where_there_are_several_keys() -> None:
    """A JWT-SVID without a key id is refused where there are several keys; an id finds its own, old or new."""
    domain = TrustDomain("acme.example")
    old = domain.jwt()
    domain.rotate()
    for token in (old, domain.jwt()):
        assert (await _token(token, domain)).subject == DEPLOYER
    with pytest.raises(TokenRefused) as refused:
        await _token(domain.jwt(header={"kid": None}), domain)
    assert refused.value.reason is SIGNATURE


async def test_what_a_token_says_of_its_own_id_is_not_believed() -> None:
    """The parts of the ID are made of the verified `sub`, whatever the token calls by their names."""
    claims = (await _token(HOME.jwt(trust_domain="partner.example", segments=["admin"], svid="x509"))).claims
    assert (claims["trust_domain"], claims["svid"]) == ("acme.example", "jwt")
    assert (claims["path"], claims["segments"]) == ("/ns/web/sa/deployer", ["ns", "web", "sa", "deployer"])


async def test_a_ci_system_that_writes_a_spiffe_id() -> None:
    """A token of an OpenID Connect issuer is that issuer's, though its `sub` is the ID of a workload."""
    assert (await _token(CI.token(sub=DEPLOYER))).issuer == "ci"


async def test_either_kind_may_be_shut_out() -> None:
    """An issuer that accepts the one kind of SVID has no use for the other."""
    only_x509 = authenticators(Published(HOME).authenticator(svids=frozenset({"x509"})))
    with pytest.raises(TokenRefused) as refused:
        await only_x509.authenticate(PresentedToken(text=HOME.jwt()), "", datetime.now(UTC))
    assert refused.value.reason is UNKNOWN
    only_jwt = authenticators(Published(HOME).authenticator(svids=frozenset({"jwt"})))
    with pytest.raises(TokenRefused, match=r"does not accept X\.509-SVIDs") as refused:
        await only_jwt.authenticate_certificate(presented(HOME.svid()), datetime.now(UTC))
    assert refused.value.reason is Reason.CERTIFICATE_INVALID
