"""Trust domains that issue SVIDs with real keys, shaped as SPIRE shapes them, and let one thing be wrong."""

import base64
import datetime as dt
import ipaddress
import json
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm, get_default_algorithms

from tests.issuers import AUDIENCE, Kind, PrivateKey
from tests.lab.pki import Pair

BACKDATED = dt.timedelta(seconds=10)
LEAF_USAGE = frozenset({"digital_signature", "key_encipherment", "key_agreement"})
AUTHORITY_USAGE = frozenset({"key_cert_sign", "crl_sign"})
EXTENDED_USAGE = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
"""The bits of KeyUsage, by the names that `usage` takes."""
_FAMILIES = {"RSA": ("RS", "PS"), "EC": ("ES",), "HMAC": ("HS",)}
_USUAL = {"RSA": "RS256", "EC": "ES256", "HMAC": "HS256"}


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


class _Generation:
    """A CA and a JWT key that were made together."""

    def __init__(self, domain: str, kind: Kind) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = secrets.token_hex(16)
        self._kind = kind
        serial = x509.NameAttribute(NameOID.SERIAL_NUMBER, str(secrets.randbits(128)))
        name = x509.Name([*_organization(domain), serial])
        days = dt.timedelta(days=30)
        self.certificate = _certificate(
            subject=name,
            issuer=name,
            key=self.key,
            signer=self.key,
            validity=(_now() - days, _now() + days),
            alternatives=[x509.UniformResourceIdentifier(f"spiffe://{domain}")],
            basic=x509.BasicConstraints(ca=True, path_length=None),
            usage=AUTHORITY_USAGE,
        )

    @cached_property
    def jwt_key(self) -> PrivateKey:
        """What signs JWT-SVIDs."""
        return _new_key(self._kind)

    def jwt_jwk(self) -> dict[str, Any]:
        """Its public half as bundles carry it."""
        return {**_jwk(self.jwt_key), "use": "jwt-svid", "kid": self.kid}

    def x509_jwk(self) -> dict[str, Any]:
        """The CA as bundles carry it."""
        der = base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()
        return {**_jwk(self.key), "use": "x509-svid", "x5c": [der]}


class TrustDomain:
    """A trust domain: X.509 authorities and JWT keys, the current of which issue."""

    def __init__(self, name: str, *, jwt: Kind = "EC") -> None:
        self.name = name
        self._kind = jwt
        self._published = [_Generation(name, jwt)]
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
        self._published = [*self._published, _Generation(self.name, self._kind)]

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

        None leaves `usage` and `extended` out, False leaves out `basic`; `uris` stand instead of the SPIFFE ID, and
        `intermediates` are presented instead of those that issued it.
        """
        spiffe_id = self.id + path
        key = _new_key(key_kind)
        issuer, signer = self._issuer(under)
        common = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        leaf = _certificate(
            subject=x509.Name([*_organization("SPIRE"), *common]),
            issuer=issuer.subject,
            key=key,
            signer=signer,
            validity=(not_before or _now() - BACKDATED, not_after or _now() + lifetime),
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
        certificate = _certificate(
            subject=x509.Name([*_organization(self.name), x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer=issuer.subject,
            key=key,
            signer=signer,
            validity=(not_before or _now() - day, not_after or _now() + day),
            alternatives=[x509.UniformResourceIdentifier(self.id)],
            basic=x509.BasicConstraints(ca=ca, path_length=path_length),
            usage=usage,
            name_constraints=name_constraints,
        )
        return Intermediate((certificate, *(under.chain if under else ())), key)

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
        now = int(time.time())
        usual = {
            "sub": self.id + path,
            "aud": [audience] if isinstance(audience, str) else list(audience),
            "exp": now + int(lifetime.total_seconds()),
            "iat": now,
        }
        key = self.jwt_key if with_key is None else with_key
        named = {"alg": _USUAL[_family(key)], "kid": self.kid, "typ": "JWT", **(header or {})}
        message = ".".join(
            _encoded({k: v for k, v in part.items() if v is not None}) for part in (named, usual | claims)
        )
        return f"{message}.{_base64url(_signature(message.encode(), key, named['alg']))}"

    def _issuer(self, under: Intermediate | None) -> tuple[x509.Certificate, PrivateKey]:
        return (under.chain[0], under.key) if under else (self._current.certificate, self._current.key)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _new_key(kind: Kind) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _organization(name: str) -> list[x509.NameAttribute[str]]:
    return [x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]


def _certificate(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    signer: PrivateKey,
    validity: tuple[dt.datetime, dt.datetime],
    alternatives: list[x509.GeneralName],
    basic: x509.BasicConstraints | None,
    usage: Collection[str] | None,
    extended: Sequence[x509.ObjectIdentifier] | None = None,
    name_constraints: x509.NameConstraints | None = None,
) -> x509.Certificate:
    extensions: list[tuple[x509.ExtensionType | None, bool]] = [
        (None if usage is None else x509.KeyUsage(**{each: each in usage for each in USAGES}), True),
        (None if extended is None else x509.ExtendedKeyUsage(extended), False),
        (basic, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (None if key is signer else x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        (x509.SubjectAlternativeName(alternatives) if alternatives else None, False),
        (name_constraints, True),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    for extension, critical in extensions:
        if extension is not None:
            builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def _jwk(key: PrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        jwk.pop("key_ops")
        return jwk
    return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)


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
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
