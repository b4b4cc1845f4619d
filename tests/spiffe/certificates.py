"""Certificates, built extension by extension."""

import datetime as dt
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.issuers import Kind, PrivateKey

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


def certificate(
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
    """A certificate; what is None or empty is left out."""
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


def now() -> dt.datetime:
    """The time, aware."""
    return dt.datetime.now(dt.UTC)


def new_key(kind: Kind) -> PrivateKey:
    """A key of this kind."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def organization(name: str) -> list[x509.NameAttribute[str]]:
    """How the names of all that SPIRE issues begin."""
    return [x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]
