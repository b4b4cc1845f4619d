"""Trust domains that issue SVIDs with real keys, shaped as SPIRE shapes them, and let one thing be wrong."""

import datetime as dt
import ipaddress
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.issuers import AUDIENCE, Kind, PrivateKey
from tests.lab.pki import Pair
from tests.spiffe.certificates import (
    AUTHORITY_USAGE,
    EXTENDED_USAGE,
    LEAF_USAGE,
    certificate,
    new_key,
    now,
    organization,
)
from tests.spiffe.generation import Generation
from tests.spiffe.jws import signed

BACKDATED = dt.timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID: its ID, its chain with the leaf first, and the leaf's key."""

    spiffe_id: str
    certificates: tuple[x509.Certificate, ...]
    key: PrivateKey

    @property
    def chain_pem(self) -> bytes:
        """The chain as PEM."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.certificates)

    @property
    def chain_der(self) -> bytes:
        """The chain as DER, one after another."""
        return b"".join(each.public_bytes(Encoding.DER) for each in self.certificates)

    @property
    def key_pem(self) -> bytes:
        """The key, PKCS#8 PEM."""
        return self._key(Encoding.PEM)

    @property
    def key_der(self) -> bytes:
        """The key, PKCS#8 DER."""
        return self._key(Encoding.DER)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes NAME.crt and NAME.key; returns their paths."""
        return Pair(certificate=self.chain_pem, key=self.key_pem).write(folder, name)

    def _key(self, encoding: Encoding) -> bytes:
        return self.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@dataclass(frozen=True, slots=True)
class Intermediate:
    """A CA below the root; `chain` holds it first, then what is above it, without the root."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey


class TrustDomain:
    """A trust domain: X.509 authorities and JWT keys, the current of which issue."""

    def __init__(self, name: str, *, jwt: Kind = "EC") -> None:
        self.name = name
        self._kind = jwt
        self._published = [Generation(name, jwt)]
        self._current = self._published[0]

    @property
    def id(self) -> str:
        """The trust domain's SPIFFE ID."""
        return f"spiffe://{self.name}"

    @property
    def kid(self) -> str:
        """The id of the current JWT key."""
        return self._current.kid

    @property
    def jwt_key(self) -> PrivateKey:
        """The current JWT key."""
        return self._current.jwt_key

    @property
    def authorities(self) -> list[x509.Certificate]:
        """All X.509 authorities that the bundle holds now."""
        return [each.certificate for each in self._published]

    @property
    def x509_der(self) -> bytes:
        """The authorities as the Workload API carries them."""
        return b"".join(each.public_bytes(Encoding.DER) for each in self.authorities)

    @property
    def x509_pem(self) -> bytes:
        """The authorities as PEM."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.authorities)

    def jwks(self) -> dict[str, Any]:
        """The JWT keys as the Workload API carries them."""
        return {"keys": [each.jwt_jwk() for each in self._published]}

    def bundle(self, *, sequence: int = 1, refresh_hint: int | None = 300) -> dict[str, Any]:
        """The bundle document (SPIFFE_Trust_Domain_and_Bundle.md §4)."""
        keys = [each.x509_jwk() for each in self._published] + [each.jwt_jwk() for each in self._published]
        hint = {} if refresh_hint is None else {"spiffe_refresh_hint": refresh_hint}
        return {"keys": keys, "spiffe_sequence": sequence, **hint}

    def prepare(self) -> None:
        """Publishes the next CA and JWT key; what is issued stays with the current ones."""
        self._published = [*self._published, Generation(self.name, self._kind)]

    def activate(self) -> None:
        """From now on the newest of the published CAs and JWT keys issue."""
        self._current = self._published[-1]

    def rotate(self) -> None:
        """A new CA and a new JWT key from now on; the old ones stay in the bundle."""
        self.prepare()
        self.activate()

    def drop_old(self) -> None:
        """Only the current CA and JWT key stay in the bundle."""
        self._published = [self._current]

    def svid(
        self,
        path: str = "/ns/web/sa/deployer",
        *,
        lifetime: dt.timedelta = dt.timedelta(hours=1),
        under: Intermediate | None = None,
        intermediates: Sequence[Intermediate] | None = None,
        uris: Sequence[str] | None = None,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        common_name: str | None = None,
        ca: bool = False,
        basic: bool = True,
        usage: Collection[str] | None = LEAF_USAGE,
        extended: Sequence[x509.ObjectIdentifier] | None = EXTENDED_USAGE,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        key_kind: Kind = "EC",
    ) -> Svid:
        """An X.509-SVID from the current CA, or from an intermediate.

        The first DNS name is the common name too, as with SPIRE. None leaves `usage` and `extended` out, False leaves
        out `basic`; `uris` stand instead of the SPIFFE ID, and `intermediates` are presented instead of those that
        issued it.
        """
        spiffe_id = self.id + path
        key = new_key(key_kind)
        issuer, signer = self._issuer(under)
        name = common_name if common_name is not None or not dns else dns[0]
        common = [] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        leaf = certificate(
            subject=x509.Name([*organization("SPIRE"), *common]),
            issuer=issuer.subject,
            key=key,
            signer=signer,
            validity=(not_before or now() - BACKDATED, not_after or now() + lifetime),
            alternatives=[
                *[x509.UniformResourceIdentifier(each) for each in ([spiffe_id] if uris is None else uris)],
                *[x509.DNSName(each) for each in dns],
                *[x509.IPAddress(ipaddress.ip_address(each)) for each in addresses],
            ],
            basic=x509.BasicConstraints(ca=ca, path_length=None) if basic else None,
            usage=usage,
            extended=extended,
        )
        if intermediates is None:
            above = under.chain if under else ()
        else:
            above = tuple(each.chain[0] for each in intermediates)
        return Svid(spiffe_id, (leaf, *above), key)

    def intermediate(
        self,
        name: str = "intermediate",
        *,
        under: Intermediate | None = None,
        ca: bool = True,
        usage: Collection[str] | None = AUTHORITY_USAGE,
        path_length: int | None = None,
        name_constraints: x509.NameConstraints | None = None,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
    ) -> Intermediate:
        """A CA below the current one, or below another intermediate."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = self._issuer(under)
        day = dt.timedelta(days=1)
        own = certificate(
            subject=x509.Name([*organization(self.name), x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer=issuer.subject,
            key=key,
            signer=signer,
            validity=(not_before or now() - day, not_after or now() + day),
            alternatives=[x509.UniformResourceIdentifier(self.id)],
            basic=x509.BasicConstraints(ca=ca, path_length=path_length),
            usage=usage,
            name_constraints=name_constraints,
        )
        return Intermediate((own, *(under.chain if under else ())), key)

    def jwt(
        self,
        path: str = "/ns/web/sa/deployer",
        *,
        audience: str | Sequence[str] = AUDIENCE,
        lifetime: dt.timedelta = dt.timedelta(seconds=300),
        header: dict[str, Any] | None = None,
        with_key: PrivateKey | bytes | None = None,
        **claims: Any,
    ) -> str:
        """A JWT-SVID; None leaves a header or a claim out.

        The header may lie: a key that does not fit its `alg` signs as it can; `none` goes unsigned.
        """
        issued = int(time.time())
        usual = {
            "sub": self.id + path,
            "aud": [audience] if isinstance(audience, str) else list(audience),
            "exp": issued + int(lifetime.total_seconds()),
            "iat": issued,
        }
        key = self.jwt_key if with_key is None else with_key
        named = {"kid": self.kid, "typ": "JWT", **(header or {})}
        return signed(named, usual | claims, key)

    def _issuer(self, under: Intermediate | None) -> tuple[x509.Certificate, PrivateKey]:
        return (under.chain[0], under.key) if under else (self._current.certificate, self._current.key)
