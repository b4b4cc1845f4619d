"""The one place that verifies a signature (RFC 7515, RFC 7519, RFC 8725).

1. the token is small, and has the form of a compact JWS
2. header and claims are JSON objects without repeated names
3. the header asks for nothing that could lead elsewhere: no `crit`, no key or certificate of its own
4. the algorithm is allowed for the issuer *and* fits the key
5. the signature is good
6. issuer, audience, times and lifetime are as they must be; each claim has to be there
"""

import binascii
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import jwt
import orjson

from exchanged.authenticate.jwk import VerificationKey
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Claims, PresentedToken, UnverifiedToken

MAX_TOKEN = 16 * 1024
"""Characters. GitHub's tokens have about 2,000, those with many groups some 8,000."""
MAX_SUBJECT = 1_024
"""Characters of `sub`; OpenID Connect allows 255."""
MAX_TIME = 1 << 35
"""Seconds since 1970 that a time may name; later ones are mistakes or attacks on arithmetic."""

KNOWN_HEADERS = 64
"""Headers that need not be read again: an issuer's tokens have one for each of its keys."""

_LEADS_ELSEWHERE: Final = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "enc"})
_SIGNATURES = jwt.PyJWS()
_PADDING: Final = (b"", b"===", b"==", b"=")
_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_TO_STANDARD: Final = {**{byte: byte for byte in _ALPHANUMERIC}, ord("-"): ord("+"), ord("_"): ord("/")}
_STANDARD: Final = bytes(_TO_STANDARD.get(byte, ord("!")) for byte in range(256))
"""From the URL's alphabet to the standard one; what is not in it becomes what no decoder takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What is accepted of an issuer's tokens, whatever they call the issuer."""

    audience: str
    allow_several_audiences: bool
    algorithms: frozenset[str]
    max_lifetime: timedelta
    leeway: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected(Accepted):
    """What a token of one issuer has to say."""

    issuer: str


def unverified(token: PresentedToken) -> UnverifiedToken:
    """What the token says of itself. Nothing is verified.

    Raises:
        TokenRefused: it is not a JWT.
    """
    # 1. Form and size, before anything is decoded.
    if len(token.text) > MAX_TOKEN:
        raise TokenRefused(Reason.TOKEN_MALFORMED, f"longer than {MAX_TOKEN} characters")
    try:
        message, _, signature = token.text.encode("ascii").rpartition(b".")
        header, claims = message.split(b".")
        signed = _decoded(signature)
    except ValueError as error:
        raise TokenRefused(Reason.TOKEN_MALFORMED, "not a compact JWS") from error
    if not signed:
        raise TokenRefused(Reason.TOKEN_MALFORMED, "not signed")
    # 2. Two JSON objects.
    return UnverifiedToken(
        presented=token, header=_header(header), claims=_object(claims, "claims"), message=message, signature=signed
    )


def verify(
    token: UnverifiedToken, keys: Sequence[VerificationKey], expected: Expected, now: datetime
) -> tuple[datetime, datetime]:
    """When a token was issued and when it ends: one that one of these keys signed, for this issuer and audience.

    When it returns, what the token claims is verified.

    Raises:
        TokenRefused: with the first thing that is wrong.
    """
    check_signature(token, keys, expected.algorithms)
    # 6. What it says.
    return check_claims(token.claims, expected, now)


def check_signature(
    token: UnverifiedToken,
    keys: Sequence[VerificationKey],
    algorithms: frozenset[str],
    types: frozenset[str] = frozenset({"JWT"}),
) -> None:
    """One of these keys signed the token, by one of these algorithms; what it says is another matter.

    Raises:
        TokenRefused: with the first thing that is wrong.
    """
    # 3. Nothing that leads elsewhere: whoever follows a token's own key or URL asks the thief for the key.
    if not _LEADS_ELSEWHERE.isdisjoint(token.header):
        names = ", ".join(sorted(_LEADS_ELSEWHERE.intersection(token.header)))
        raise TokenRefused(Reason.TOKEN_MALFORMED, f"the header has {names}")
    # A token of another kind (a logout token, say) is not one of these, whoever signed it (RFC 8725 §3.11).
    if str(token.header.get("typ", "JWT")).upper() not in types:
        raise TokenRefused(Reason.TOKEN_MALFORMED, f"of type {_shown(token.header['typ'])}")
    # 4. The issuer's algorithms, and the key's: no HMAC with a public key, no RSA key for an ECDSA token, no `none`.
    algorithm = token.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenRefused(Reason.TOKEN_ALGORITHM, f"algorithm {_shown(algorithm)} is not allowed")
    fitting = [key for key in keys if algorithm in key.algorithms]
    if not fitting:
        raise TokenRefused(Reason.TOKEN_SIGNATURE, "no key of the issuer fits")
    if len(fitting) > 1 and token.header.get("kid") is None:
        raise TokenRefused(Reason.TOKEN_SIGNATURE, "no kid, and several keys to choose from")
    # 5. The signature.
    if not any(_is_signed(token, key, algorithm) for key in fitting):
        raise TokenRefused(Reason.TOKEN_SIGNATURE, "the signature is not good")


def check_claims(claims: Claims, expected: Expected, now: datetime) -> tuple[datetime, datetime]:
    """Issuer, audience, times, lifetime and subject of verified claims; returns when issued, and when it ends.

    Times are judged here by the injected clock; the library would judge them by its own, and only where present.

    Raises:
        TokenRefused: with the first thing that is wrong; an issuer vouches for the token.
    """
    if claims.get("iss") != expected.issuer:
        raise TokenRefused(Reason.TOKEN_ISSUER_UNKNOWN, "iss is another issuer's", verified=True)
    check_audience(claims.get("aud"), expected)
    issued, expires = check_times(claims, expected, now)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise TokenRefused(Reason.TOKEN_CLAIMS, "sub is missing or not a short line of text", verified=True)
    return issued, expires


def check_times(
    claims: Claims, accepted: Accepted, now: datetime, *, issue_required: bool = True
) -> tuple[datetime, datetime]:
    """When issued, and when it ends. A token that may leave out `iat` and does was issued as early as it can have been.

    Raises:
        TokenRefused: it is over, not yet valid, or valid for longer than is accepted.
    """
    expires = time_claim(claims, "exp")
    says = issue_required or "iat" in claims
    issued = time_claim(claims, "iat") if says else expires - accepted.max_lifetime
    earliest, latest = now - accepted.leeway, now + accepted.leeway
    if expires <= earliest:
        raise TokenRefused(Reason.TOKEN_EXPIRED, f"expired at {expires:%FT%TZ}", verified=True)
    if issued > latest:
        reason = Reason.TOKEN_NOT_YET_VALID if says else Reason.TOKEN_LIFETIME
        raise TokenRefused(reason, f"issued at {issued:%FT%TZ}", verified=True)
    if "nbf" in claims and time_claim(claims, "nbf") > latest:
        raise TokenRefused(Reason.TOKEN_NOT_YET_VALID, "nbf is in the future", verified=True)
    if expires <= issued or expires - issued > accepted.max_lifetime:
        raise TokenRefused(Reason.TOKEN_LIFETIME, f"valid for {expires - issued}", verified=True)
    return issued, expires


def check_audience(audience: object, accepted: Accepted) -> None:
    """The token is made out to our audience, and to no other unless that is accepted.

    Raises:
        TokenRefused: it is not.
    """
    if audience == accepted.audience:
        return
    several = audience if isinstance(audience, list) else [audience]
    if not several or not all(isinstance(each, str) for each in several):
        raise TokenRefused(Reason.TOKEN_CLAIMS, "aud is missing or not text", verified=True)
    if accepted.audience not in several:
        raise TokenRefused(Reason.TOKEN_AUDIENCE, "made out to another audience", verified=True)
    if len(several) > 1 and not accepted.allow_several_audiences:
        raise TokenRefused(Reason.TOKEN_AUDIENCE, "made out to several audiences", verified=True)


def time_claim(claims: Claims, name: str) -> datetime:
    """A NumericDate (RFC 7519 §2).

    Raises:
        TokenRefused: it is missing or no time.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused(Reason.TOKEN_CLAIMS, f"{name} is missing or not a number", verified=True)
    if not 0 <= value <= MAX_TIME:
        raise TokenRefused(Reason.TOKEN_CLAIMS, f"{name} is out of range", verified=True)
    return datetime.fromtimestamp(value, UTC)


def _is_signed(token: UnverifiedToken, key: VerificationKey, algorithm: str) -> bool:
    """The library's primitive on the very bytes that were taken apart above.

    Its own decoding would look at the token a second time, character by character, for more than the signature costs.
    """
    return _SIGNATURES.get_algorithm_by_name(algorithm).verify(token.message, key.key, token.signature)


@lru_cache(maxsize=KNOWN_HEADERS)
def _header(segment: bytes) -> Claims:
    return MappingProxyType(_object(segment, "header"))


def _object(segment: bytes, name: str) -> dict[str, Any]:
    try:
        value = _json(_decoded(segment))
    except (ValueError, TypeError, RecursionError) as error:
        raise TokenRefused(Reason.TOKEN_MALFORMED, f"the {name} is not JSON") from error
    if not isinstance(value, dict):
        raise TokenRefused(Reason.TOKEN_MALFORMED, f"the {name} is not a JSON object")
    return value


def _json(text: bytes) -> Any:
    """The value of a JSON text without repeated names."""
    try:
        value = orjson.loads(text)
        # Most issuers write as this library does; what is the same when written again had no name twice.
        if orjson.dumps(value) == text:
            return value
    except (ValueError, TypeError):
        pass  # The other parser has the last word.
    value = _STRICT.decode(text.decode())
    # What cannot be written down again is not for us: half of a character, numbers and depths beyond all bounds.
    orjson.dumps(value)
    return value


def _decoded(segment: bytes) -> bytes:
    """Base64url without padding (RFC 7515 §2)."""
    return binascii.a2b_base64(segment.translate(_STANDARD) + _PADDING[len(segment) % 4], strict_mode=True)


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two parsers that pick different ones of two equal names can be played against each other."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("repeated name")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unrepeated, parse_constant=_no_constant)


def _shown(value: object) -> str:
    return repr(value)[:20]
