"""Public keys that verify: taken from key sets (RFC 7517), each with the algorithms that fit it and no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

SMALLEST_RSA_KEY = 2_048
"""Bits (RFC 7518 §3.3)."""
MAX_KEYS = 100
"""Keys of one set that are looked at."""

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS: Final = _RSA.union(_CURVES.values())
"""All that are ever verified (RFC 7518 §3.3 to §3.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the algorithms that it may verify."""

    kid: str | None
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    algorithms: frozenset[str]


def public_keys(
    key_set: Mapping[str, Any], algorithms: frozenset[str], uses: tuple[str | None, ...] = ("sig", None)
) -> tuple[VerificationKey, ...]:
    """The keys of a JWK Set (RFC 7517 §5) that may verify something here; others are left out.

    Args:
        key_set: as JSON.
        algorithms: that may be verified.
        uses: values of `use` that are for verifying; None where it may be left out.

    Raises:
        ValueError: it is not a JWK Set.
    """
    listed = key_set.get("keys")
    if not isinstance(listed, list):
        raise ValueError("no list of keys")  # noqa: TRY004 - what the caller is told to expect
    used = [jwk for jwk in listed if isinstance(jwk, dict) and jwk.get("use") in uses]
    return tuple(key for jwk in used[:MAX_KEYS] if (key := _public_key(jwk, algorithms)) is not None)


def _public_key(jwk: Mapping[str, Any], algorithms: frozenset[str]) -> VerificationKey | None:
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("kty") not in ("RSA", "EC") or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK({name: value for name, value in jwk.items() if name != "alg"}, _any_algorithm(jwk)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    if "alg" in jwk:
        algorithms = frozenset(name for name in algorithms if name == jwk["alg"])
    kid = jwk.get("kid")
    return verification_key(kid if isinstance(kid, str) else None, key, algorithms)


def verification_key(kid: str | None, key: object, algorithms: frozenset[str]) -> VerificationKey | None:
    """A public key as one that verifies, by those of these algorithms that fit it; None where none does."""
    # A set with a private key in it is a leak. Whoever published it can be imitated by everybody.
    if isinstance(key, rsa.RSAPublicKey):
        fitting = _RSA if key.key_size >= SMALLEST_RSA_KEY else frozenset()
    elif isinstance(key, ec.EllipticCurvePublicKey):
        fitting = frozenset({_CURVES[key.curve.name]}) if key.curve.name in _CURVES else frozenset()
    else:
        return None
    fitting &= algorithms
    return VerificationKey(kid=kid, key=key, algorithms=fitting) if fitting else None


def _any_algorithm(jwk: Mapping[str, Any]) -> str:
    """Only so that the library parses the key; which algorithms it verifies is decided above."""
    if jwk["kty"] == "RSA":
        return "RS256"
    return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(jwk.get("crv")), "ES256")
