"""Known attacks on tokens: each lets one thing be wrong, and is refused for exactly that."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.jwk import public_keys
from exchanged.authenticate.jws import MAX_TOKEN, unverified
from exchanged.authenticate.kubernetes import KubernetesAuthenticator
from exchanged.authenticate.profiles import GITHUB
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Identity, IssuerName, PresentedToken
from tests.issuers import FakeIssuer, key
from tests.world import OWN, InMemorySource, authenticator

ISSUER = FakeIssuer("https://ci.example")
EC = FakeIssuer("https://ec.example", kind="EC")
COMPACT = r"[\w-]{2,40}\.[\w-]{2,40}\.[\w-]{2,40}"


def _now() -> int:
    return int(time.time())


async def _authenticate(token: str, **changes: Any) -> Identity:
    issuers = [authenticator(issuer.url, issuer, InMemorySource(issuer), **changes) for issuer in (ISSUER, EC)]
    known = Authenticators(authenticators=issuers, own_issuer=OWN)
    return await known.authenticate(PresentedToken(text=token), "", datetime.now(UTC))


def _raw(header: Any, claims: Any, signature: bytes = b"x" * 256) -> str:
    parts = [json.dumps(part).encode() if isinstance(part, dict) else part for part in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def _signed_by_hmac(secret: bytes) -> str:
    token = _raw({"alg": "HS256", "kid": ISSUER.kid}, ISSUER.claims()).rpartition(".")[0]
    mac = hmac.new(secret, token.encode(), hashlib.sha256).digest()
    return f"{token}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _public_pem() -> bytes:
    return (
        key("RSA")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _header(**more: Any) -> str:
    return ISSUER.sign(ISSUER.claims(), more)


def _weak() -> str:
    return jwt.encode(ISSUER.claims(), key("RSA", 77), "RS256", headers={"kid": "another"})


def _changed(**changes: Any) -> str:
    header, _, signature = ISSUER.token().split(".")
    return f"{header}.{_raw({}, ISSUER.claims(**changes)).split('.')[1]}.{signature}"


def _signed(changes: dict[str, Any]) -> str:
    """Signed as it is: the library would not let a claim be of a wrong kind."""
    payload = json.dumps({**ISSUER.claims(), **changes}).encode()
    return jwt.api_jws.encode(payload, key("RSA"), "RS256", headers={"kid": ISSUER.kid})


MALFORMED, ALGORITHM, SIGNATURE = Reason.TOKEN_MALFORMED, Reason.TOKEN_ALGORITHM, Reason.TOKEN_SIGNATURE
ATTACKS: dict[str, tuple[Callable[[], str], Reason]] = {
    "no algorithm": (lambda: _raw({"alg": "none"}, ISSUER.claims(), b""), MALFORMED),
    "no algorithm, with a signature": (lambda: _raw({"alg": "none"}, ISSUER.claims()), ALGORITHM),
    "no algorithm, in other letters": (lambda: _raw({"alg": "nOnE"}, ISSUER.claims()), ALGORITHM),
    "no algorithm at all": (lambda: _raw({}, ISSUER.claims()), ALGORITHM),
    "an algorithm that is a list": (lambda: _raw({"alg": ["RS256"]}, ISSUER.claims()), ALGORITHM),
    "HMAC with the public key": (lambda: _signed_by_hmac(_public_pem()), ALGORITHM),
    "an algorithm the issuer does not use": (
        lambda: jwt.encode(ISSUER.claims(), key("RSA"), "PS512", headers={"kid": ISSUER.kid}), ALGORITHM),
    "an ECDSA header for an RSA key": (lambda: _raw({"alg": "ES256", "kid": ISSUER.kid}, ISSUER.claims()), SIGNATURE),
    "an RSA header for an EC key": (lambda: _raw({"alg": "RS256", "kid": EC.kid}, EC.claims()), SIGNATURE),
    "an ECDSA signature of zeros": (
        lambda: _raw({"alg": "ES256", "kid": EC.kid}, EC.claims(), b"\0" * 64), SIGNATURE),
    "an ECDSA signature that is too short": (
        lambda: _raw({"alg": "ES256", "kid": EC.kid}, EC.claims(), b"\1" * 10), SIGNATURE),
    "another issuer's key": (lambda: EC.sign(ISSUER.claims(), {"kid": ISSUER.kid}), SIGNATURE),
    "a key that nobody published": (_weak, SIGNATURE),
    "a changed claim": (lambda: _changed(sub="admin"), SIGNATURE),
    "a key id that is a path": (lambda: _header(kid="../../../../dev/null"), SIGNATURE),
    "a key id that is a query": (lambda: _header(kid="x' UNION SELECT 'secret"), SIGNATURE),
    "a key id that is a list": (lambda: _raw({"alg": "RS256", "kid": [ISSUER.kid]}, ISSUER.claims()), SIGNATURE),
    "a key of its own": (lambda: _header(jwk={"kty": "RSA"}), MALFORMED),
    "a URL of keys of its own": (lambda: _header(jku="https://evil.example/keys"), MALFORMED),
    "a certificate of its own": (lambda: _header(x5c=["MII"]), MALFORMED),
    "a URL of certificates": (lambda: _header(x5u="https://evil.example/c"), MALFORMED),
    "a critical header that is not understood": (
        lambda: _raw({"alg": "RS256", "kid": ISSUER.kid, "crit": ["exp"]}, ISSUER.claims()), MALFORMED),
    "an unencoded payload": (
        lambda: _raw({"alg": "RS256", "kid": ISSUER.kid, "b64": False}, ISSUER.claims()), MALFORMED),
    "a signature that is no base64": (lambda: ISSUER.token().rpartition(".")[0] + ".abcde", MALFORMED),
    "an encrypted token": (lambda: ".".join(["eyJhbGciOiJSU0EtT0FFUCJ9"] * 5), MALFORMED),
    "a JSON serialisation": (lambda: json.dumps({"payload": "e30", "signatures": []}), MALFORMED),
    "two segments": (lambda: ".".join(ISSUER.token().split(".")[:2]), MALFORMED),
    "something behind it": (lambda: ISSUER.token() + ".x", MALFORMED),
    "a line end": (lambda: ISSUER.token() + "\n", MALFORMED),
    "padding": (lambda: ISSUER.token() + "==", MALFORMED),
    "standard base64": (lambda: "e+/0." + ISSUER.token().split(".", 1)[1], MALFORMED),
    "a length that base64 does not have": (lambda: "eyJhb." + ISSUER.token().split(".", 1)[1], MALFORMED),
    "monstrous size": (lambda: ISSUER.token(pad="x" * MAX_TOKEN), MALFORMED),
    "deep nesting": (lambda: _raw({"alg": "RS256"}, b"[" * 8_000), MALFORMED),
    "a name twice": (lambda: _raw({"alg": "RS256"}, b'{"iss": "https://ci.example", "iss": "x"}'), MALFORMED),
    "not a number": (lambda: _raw({"alg": "RS256"}, b'{"iss": "https://ci.example", "exp": NaN}'), MALFORMED),
    "bytes that are no text": (lambda: _raw({"alg": "RS256"}, b"\xff\xfe"), MALFORMED),
    "half of a character": (lambda: _raw({"alg": "RS256"}, b'{"iss": "x", "x": "\\ud800"}'), MALFORMED),
    "a number beyond all bounds": (lambda: _raw({"alg": "RS256"}, b'{"x": 1' + b"0" * 30 + b"}"), MALFORMED),
    "deeper than what can be written down": (
        lambda: _raw({"alg": "RS256"}, b'{"x": ' + b"[" * 300 + b"]" * 300 + b"}"), MALFORMED),
    "half of a character, as a name": (lambda: _raw({"alg": "RS256", "\udc00": 1}, ISSUER.claims()), MALFORMED),
    "claims that are a list": (lambda: _raw({"alg": "RS256"}, b"[1]"), MALFORMED),
    "nothing": (lambda: "", MALFORMED),
    "an issuer that is not configured": (
        lambda: FakeIssuer("https://elsewhere.example").token(), Reason.TOKEN_ISSUER_UNKNOWN),
    "an issuer with something behind it": (lambda: ISSUER.token(iss=ISSUER.url + "/"), Reason.TOKEN_ISSUER_UNKNOWN),
    "no issuer": (lambda: ISSUER.token(iss=None), Reason.TOKEN_ISSUER_UNKNOWN),
    "an issuer that is a list": (
        lambda: _raw({"alg": "RS256"}, {**ISSUER.claims(), "iss": [ISSUER.url]}), Reason.TOKEN_ISSUER_UNKNOWN),
    "our own token": (lambda: ISSUER.token(iss=OWN), Reason.TOKEN_OWN),
    "another audience": (lambda: ISSUER.token(aud="https://kubernetes.default.svc"), Reason.TOKEN_AUDIENCE),
    "our audience and another": (lambda: ISSUER.token(aud=[ISSUER.audience, "x"]), Reason.TOKEN_AUDIENCE),
    "no audience": (lambda: ISSUER.token(aud=None), Reason.TOKEN_CLAIMS),
    "an empty audience": (lambda: ISSUER.token(aud=[]), Reason.TOKEN_CLAIMS),
    "an audience of numbers": (lambda: ISSUER.token(aud=[1]), Reason.TOKEN_CLAIMS),
    "expired": (lambda: ISSUER.token(iat=_now() - 600, nbf=_now() - 600, exp=_now() - 60), Reason.TOKEN_EXPIRED),
    "no end": (lambda: ISSUER.token(exp=None), Reason.TOKEN_CLAIMS),
    "an end that is text": (lambda: _signed({"exp": "tomorrow"}), Reason.TOKEN_CLAIMS),
    "a beginning that is true": (lambda: _signed({"iat": True}), Reason.TOKEN_CLAIMS),
    "an end beyond all numbers": (lambda: ISSUER.token(exp=1 << 80), MALFORMED),
    "an end in milliseconds": (lambda: ISSUER.token(exp=_now() * 1_000), Reason.TOKEN_CLAIMS),
    "an end without end": (lambda: _signed({"exp": 10**400}), MALFORMED),
    "an end after the end of time": (lambda: ISSUER.token(exp=1 << 40), Reason.TOKEN_CLAIMS),
    "a token of another kind": (lambda: _header(typ="logout+jwt"), MALFORMED),
    "an end before the beginning of time": (lambda: ISSUER.token(exp=-5), Reason.TOKEN_CLAIMS),
    "no beginning": (lambda: ISSUER.token(iat=None), Reason.TOKEN_CLAIMS),
    "from the future": (lambda: ISSUER.token(iat=_now() + 600, exp=_now() + 900), Reason.TOKEN_NOT_YET_VALID),
    "not yet valid": (lambda: ISSUER.token(nbf=_now() + 600), Reason.TOKEN_NOT_YET_VALID),
    "valid for a year": (lambda: ISSUER.token(exp=_now() + 31_536_000), Reason.TOKEN_LIFETIME),
    "over before it began": (lambda: ISSUER.token(iat=_now() + 10, exp=_now() + 5), Reason.TOKEN_LIFETIME),
    "no subject": (lambda: ISSUER.sign({k: v for k, v in ISSUER.claims().items() if k != "sub"}), Reason.TOKEN_CLAIMS),
    "a subject with control characters": (lambda: ISSUER.token(sub="a\x1b[2Jb"), Reason.TOKEN_CLAIMS),
    "an endless subject": (lambda: ISSUER.token(sub="x" * 2_000), Reason.TOKEN_CLAIMS),
    "may_act that is text": (lambda: ISSUER.token(may_act="bot"), Reason.TOKEN_CLAIMS),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_attack(name: str) -> None:
    """The token is refused, for the reason that it is wrong."""
    make, reason = ATTACKS[name]
    with pytest.raises(TokenRefused) as refused:
        await _authenticate(make())
    assert refused.value.reason is reason, refused.value.detail


async def test_what_is_right_is_accepted() -> None:
    """The same issuers, with nothing wrong: so each attack is refused for what it changed."""
    for issuer in (ISSUER, EC):
        found = await _authenticate(issuer.token())
        assert (found.issuer, found.subject) == (issuer.url, "somebody")
    assert (await _authenticate(ISSUER.token(aud=[ISSUER.audience, "x"]), allow_several_audiences=True)).subject
    assert (await _authenticate(ISSUER.token(exp=_now() - 10, iat=_now() - 600, nbf=None))).subject
    assert (await _authenticate(ISSUER.token(ref="escaped \N{GRINNING FACE}"))).subject


async def test_verified_refusals_say_so() -> None:
    """Whether an issuer vouches for the caller decides what is on record."""
    for token, verified in ((ISSUER.token(aud="x"), True), (ISSUER.token()[:-8] + "AAAAAAAA", False)):
        with pytest.raises(TokenRefused) as refused:
            await _authenticate(token)
        assert refused.value.verified is verified


async def test_two_issuers_of_one_name_are_told_apart_by_their_keys() -> None:
    """Clusters that call themselves the same: each token is its own cluster's, and the other's key never vouches."""
    url = "https://kubernetes.default.svc.cluster.local"
    first, second = FakeIssuer(url, number=1), FakeIssuer(url, number=2)
    known = Authenticators(
        authenticators=[
            authenticator("one", first, InMemorySource(first)),
            authenticator("two", second, InMemorySource(second)),
        ],
        own_issuer=OWN,
    )
    for issuer, name in ((first, "one"), (second, "two")):
        found = await known.authenticate(PresentedToken(text=issuer.token()), "", datetime.now(UTC))
        assert found.issuer == name
    # The more telling refusal is that of the issuer whose key it is.
    with pytest.raises(TokenRefused) as refused:
        await known.authenticate(PresentedToken(text=first.token(aud="x")), "", datetime.now(UTC))
    assert refused.value.reason is Reason.TOKEN_AUDIENCE


async def test_several_keys_and_no_id_are_refused() -> None:
    """A token without a key id is taken where there is one key, and nowhere else."""
    both = {"keys": ISSUER.jwks()["keys"] + [{**FakeIssuer("x", number=9).jwks()["keys"][0], "kid": "other"}]}
    without = jwt.encode(ISSUER.claims(), key("RSA"), "RS256")
    source = InMemorySource(ISSUER)
    known = Authenticators(authenticators=[authenticator("ci", ISSUER, source)], own_issuer=OWN)
    assert (await known.authenticate(PresentedToken(text=without), "", datetime.now(UTC))).subject == "somebody"
    source.fetch = lambda: _answer(both)  # type: ignore[method-assign] # two keys
    known = Authenticators(authenticators=[authenticator("ci", ISSUER, source)], own_issuer=OWN)
    for token in (without, _by_hand({"alg": "RS256", "kid": None})):
        with pytest.raises(TokenRefused, match="several keys") as refused:
            await known.authenticate(PresentedToken(text=token), "", datetime.now(UTC))
        assert refused.value.reason is Reason.TOKEN_SIGNATURE


def _by_hand(header: dict[str, Any]) -> str:
    """Signed by the issuer's key, whatever the header says: the library writes no null."""
    private = key("RSA")
    assert isinstance(private, rsa.RSAPrivateKey)
    message = _raw(header, ISSUER.claims()).rpartition(".")[0]
    signature = private.sign(message.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def _answer(value: Any) -> Any:
    return value


def test_keys_that_verify_nothing() -> None:
    """Symmetric, private, weak, encrypting and broken keys of a set are left out."""
    allowed = frozenset({"RS256", "ES256"})
    good = ISSUER.jwks()["keys"][0]
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    weak_jwk = jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True)
    strong = key("RSA")
    assert isinstance(strong, rsa.RSAPrivateKey)
    private = jwt.algorithms.RSAAlgorithm.to_jwk(strong, as_dict=True)
    bad: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": ISSUER.kid},
        weak_jwk,
        {**private, "key_ops": ["verify"]},
        {**good, "use": "enc"},
        {**good, "key_ops": ["sign"]},
        {**good, "alg": "RS512"},
        {**good, "n": "!"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {**good, "kty": []},
        {**good, "key_ops": 1},
        {**good, "alg": []},
        "text",
        None,
    ]
    assert public_keys({"keys": bad}, allowed) == ()
    (found,) = public_keys({"keys": [*bad, {**good, "kid": 7}]}, allowed)
    assert found.kid is None
    assert found.algorithms == {"RS256"}
    for wrong in ({}, {"keys": "x"}):
        with pytest.raises(ValueError, match="no list of keys"):
            public_keys(wrong, allowed)


async def test_a_flood_of_unknown_ids_makes_no_storm_of_fetches() -> None:
    """Invented key ids cost the issuer one fetch, not one each."""
    source = InMemorySource(ISSUER)
    known = Authenticators(authenticators=[authenticator("ci", ISSUER, source)], own_issuer=OWN)
    for number in range(50):
        with pytest.raises(TokenRefused):
            await known.authenticate(PresentedToken(text=_header(kid=f"k{number}")), "", datetime.now(UTC))
    assert source.fetches <= 2


async def test_a_service_account_token_is_no_ci_token_and_the_other_way_round() -> None:
    """Kinds of tokens are not confused, even with the right key."""
    github = authenticator("github", ISSUER, InMemorySource(ISSUER), GITHUB)
    token = unverified(PresentedToken(text=ISSUER.kubernetes_token(jti=None)))
    with pytest.raises(TokenRefused) as refused:
        await github.authenticate(token, datetime.now(UTC))
    assert refused.value.reason is Reason.TOKEN_CLAIMS
    plain = authenticator("x", ISSUER, InMemorySource(ISSUER))
    cluster = KubernetesAuthenticator(
        name=IssuerName("cluster"),
        expected=plain._expected,
        keys=plain._keys,
        reviewer=None,
        closed_namespaces=frozenset({"exchanged-grants"}),
    )
    with pytest.raises(TokenRefused) as refused:
        await cluster.authenticate(unverified(PresentedToken(text=ISSUER.github_token())), datetime.now(UTC))
    assert refused.value.reason is Reason.TOKEN_CLAIMS


@settings(max_examples=300, deadline=timedelta(seconds=5))
@given(st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")) | st.from_regex(COMPACT, fullmatch=True))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """Whatever is shown, reading it ends in claims or in a refusal."""
    try:
        claimed = unverified(PresentedToken(text=text))
    except TokenRefused as refused:
        reason = refused.reason
    else:
        assert isinstance(claimed.claims, dict)
        return
    assert reason is Reason.TOKEN_MALFORMED
