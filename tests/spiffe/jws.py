"""JWS whose header may lie about how it was signed."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import get_default_algorithms

from tests.issuers import PrivateKey

_FAMILIES = {"RSA": ("RS", "PS"), "EC": ("ES",), "HMAC": ("HS",)}
_USUAL = {"RSA": "RS256", "EC": "ES256", "HMAC": "HS256"}


def signed(header: dict[str, Any], claims: dict[str, Any], key: PrivateKey | bytes) -> str:
    """A compact JWS with `alg` as fits the key unless the header says it; None leaves a member out.

    A key that does not fit the header's `alg` signs as it can; `none` goes unsigned.
    """
    named = {"alg": _USUAL[_family(key)], **header}
    message = f"{_encoded(named)}.{_encoded(claims)}"
    return f"{message}.{_base64url(_signature(message.encode(), key, named['alg']))}"


def _family(key: PrivateKey | bytes) -> str:
    if isinstance(key, bytes):
        return "HMAC"
    return "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC"


def _signature(message: bytes, key: PrivateKey | bytes, algorithm: Any) -> bytes:
    if str(algorithm).lower() == "none":
        return b""
    family = _family(key)
    known = get_default_algorithms()
    fits = str(algorithm).startswith(_FAMILIES[family]) and algorithm in known
    return known[algorithm if fits else _USUAL[family]].sign(message, key)


def _encoded(part: dict[str, Any]) -> str:
    return _base64url(json.dumps({k: v for k, v in part.items() if v is not None}, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
