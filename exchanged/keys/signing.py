"""The keys that sign grants: made here, published before use, kept published until their last token has ended.

    made ── publish_ahead ──► signs ── until the next one signs ──► published only ── longest grant ──► deleted

API servers keep a key set for a while, so a key that signs must have been seen before; and removing a key revokes
nothing, so it stays as long as a token of its may live. All times follow from the moment a key was made, which its
file's name says: a daemon that was down for a month, or died in the middle of a change, goes on where it stands.
"""

import asyncio
import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from exchanged.keys.files import write_private

CHECK_INTERVAL = timedelta(minutes=1)
"""How often the plan above is compared with the clock."""
LINGER = timedelta(hours=1)
"""How much longer than its last token a key stays published: clocks differ, and nothing is gained by haste."""
ALGORITHM = "ES256"
_COORDINATE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key, with its id (RFC 7638 thumbprint) and the time it was made."""

    kid: str
    made_at: datetime
    key: ec.EllipticCurvePrivateKey
    header: bytes

    def jwk(self) -> dict[str, str]:
        """The public key as JWK (RFC 7517)."""
        return {**_public_members(self.key), "kid": self.kid, "use": "sig", "alg": ALGORITHM}


class KeyRing:
    """The signing keys of this daemon."""

    def __init__(
        self,
        *,
        folder: Path,
        rotate_after: timedelta,
        publish_ahead: timedelta,
        longest_grant: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._folder = folder
        self._rotate_after = rotate_after
        self._publish_ahead = publish_ahead
        self._longest_grant = longest_grant
        self._clock = clock
        self._keys: list[SigningKey] = []
        self._active: SigningKey | None = None

    def load(self) -> bool:
        """Reads the keys, and makes, retires and deletes what is due; True if something changed.

        Raises:
            OSError, ValueError: the folder cannot be used.
        """
        now = self._clock()
        keys = sorted((_read(path) for path in self._folder.glob("*.pem")), key=_made_at)
        changed = False
        if not keys or now >= keys[-1].made_at + self._rotate_after:
            keys.append(self._make(now))
            changed = True
        for key, successor in list(itertools.pairwise(keys)):
            if now >= self._signs_from(successor, keys) + self._longest_grant + LINGER:
                self._path(key).unlink(missing_ok=True)
                keys.remove(key)
                changed = True
        self._keys = keys
        # The first signs whatever the clock says: one that was set back must not leave the daemon without a key.
        active = max((key for key in keys if key is keys[0] or now >= self._signs_from(key, keys)), key=_made_at)
        changed |= self._active is not None and active.kid != self._active.kid
        self._active = active
        return changed

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS of these claims (RFC 7515, ES256).

        Composed here rather than by the library: there is no choice to get wrong in signing with one's own key by one
        algorithm, and an exchange pays for it each time. Verifying, where there is, stays the library's.
        """
        if self._active is None:
            raise RuntimeError("keys are loaded before anything is signed")
        message = self._active.header + b"." + _base64url(orjson.dumps(claims))
        r, s = decode_dss_signature(self._active.key.sign(message, _ECDSA))
        signature = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
        return (message + b"." + _base64url(signature)).decode()

    def jwks(self) -> dict[str, Any]:
        """The public keys, those that will sign and those that have signed too (RFC 7517 §5)."""
        return {"keys": [key.jwk() for key in self._keys]}

    async def run(self, on_change: Callable[[], Any]) -> None:
        """Follows the plan until cancelled; tells `on_change` what it did, by awaiting it."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL.total_seconds())
            if await asyncio.to_thread(self.load):
                await on_change()

    def _signs_from(self, key: SigningKey, keys: list[SigningKey]) -> datetime:
        """The first key signs at once: there is no other."""
        return key.made_at if key is keys[0] else key.made_at + self._publish_ahead

    def _make(self, now: datetime) -> SigningKey:
        private = ec.generate_private_key(ec.SECP256R1())
        key = _signing_key(private, now.replace(microsecond=0))
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._path(key), pem)
        return key

    def _path(self, key: SigningKey) -> Path:
        return self._folder / f"{int(key.made_at.timestamp())}-{key.kid}.pem"


_ECDSA = ec.ECDSA(hashes.SHA256())


def _made_at(key: SigningKey) -> datetime:
    return key.made_at


def _read(path: Path) -> SigningKey:
    private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is not an EC key")  # noqa: TRY004 - a bad file, not a bad argument
    return _signing_key(private, datetime.fromtimestamp(int(path.name.split("-", 1)[0]), UTC))


def _signing_key(private: ec.EllipticCurvePrivateKey, made_at: datetime) -> SigningKey:
    members = json.dumps(_public_members(private), sort_keys=True, separators=(",", ":"))
    kid = _base64url(hashlib.sha256(members.encode()).digest()).decode()
    header = json.dumps({"alg": ALGORITHM, "kid": kid, "typ": "JWT"}, separators=(",", ":"))
    return SigningKey(kid=kid, made_at=made_at, key=private, header=_base64url(header.encode()))


def _public_members(private: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The members that make the thumbprint (RFC 7638 §3.2)."""
    point = private.public_key().public_numbers()
    x, y = (_base64url(value.to_bytes(_COORDINATE, "big")).decode() for value in (point.x, point.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
