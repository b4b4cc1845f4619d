"""Certificates: the daemon's own authorities, what they issue, and serving certificates that renew themselves."""

import asyncio
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exchanged.keys.files import write_private

log = logging.getLogger(__name__)

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVING_LIFETIME = timedelta(days=7)
"""Of a certificate that the daemon issues for itself; renewed at half of it."""
CLIENT_LIFETIME = timedelta(days=365)
"""Of the certificate with which an API server asks the authorizer: an administrator puts it there by hand."""
BACKDATED = timedelta(minutes=5)
"""Clocks differ."""
LOOK_INTERVAL = timedelta(seconds=5)
"""How often certificate files are looked at for a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePair:
    """A chain with its key, PEM. `ca_pem` is what clients need to trust it, or b"" where public roots do."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes
    not_before: datetime
    not_after: datetime


class ServingCertificate(Protocol):
    """A certificate that is current at every moment."""

    def current(self) -> CertificatePair:
        """The pair to serve now; a new one is a new object."""
        ...

    async def available(self) -> None:
        """Returns as soon as there is one."""
        ...

    async def run(self) -> None:
        """Keeps it current until cancelled."""
        ...


class Authority:
    """A certificate authority of the daemon's own: for development and loopback, or for the clients of one door."""

    def __init__(
        self, *, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Callable[[], datetime]
    ) -> None:
        self.certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def open(cls, folder: Path, name: str, clock: Callable[[], datetime]) -> "Authority":
        """The authority in this folder (ca.crt, ca.key), made if it is not there.

        Raises:
            OSError, ValueError: the files cannot be used.
        """
        certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
        if not certificate_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _self_signed(key, name, clock())
            write_private(key_file, _pem(key))
            # The certificate last: with it there, both are.
            write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_file} is not an EC key")  # noqa: TRY004 - a bad file, not a bad argument
        return cls(certificate=x509.load_pem_x509_certificate(certificate_file.read_bytes()), key=loaded, clock=clock)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def serving(self, hosts: Sequence[str]) -> CertificatePair:
        """A serving certificate for these names and addresses."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, SERVING_LIFETIME, names)

    def client(self, name: str) -> CertificatePair:
        """A client certificate with this common name."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFETIME, None)

    def _issue(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        lifetime: timedelta,
        names: x509.SubjectAlternativeName | None,
    ) -> CertificatePair:
        key, now = ec.generate_private_key(ec.SECP256R1()), self._clock()
        builder = (
            _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]), self.certificate.subject)
            .public_key(key.public_key())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return CertificatePair(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=_pem(key),
            ca_pem=self.pem,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )


class OwnCertificate:
    """Implements `ServingCertificate` with the daemon's own authority; nothing but the authority is on disk."""

    def __init__(self, *, authority: Authority, hosts: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._authority = authority
        self._hosts = hosts
        self._clock = clock
        self._pair: CertificatePair | None = None

    def current(self) -> CertificatePair:
        """See `ServingCertificate.current`."""
        now = self._clock()
        # A clock that was set back may leave a certificate that nobody accepts yet.
        if self._pair is None or not self._pair.not_before <= now < self._pair.not_after - SERVING_LIFETIME / 2:
            self._pair = self._authority.serving(self._hosts)
        return self._pair

    async def available(self) -> None:
        """See `ServingCertificate.available`; it is made when it is asked for."""

    async def run(self) -> None:
        """See `ServingCertificate.run`; renewal happens when the pair is asked for."""


class FileCertificate:
    """Implements `ServingCertificate` with files that somebody else renews."""

    def __init__(self, *, certificate: Path, key: Path, certificate_authority: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._certificate_authority = certificate_authority
        self._pair = self._read()
        self._changed = self._stamps()

    def current(self) -> CertificatePair:
        """See `ServingCertificate.current`."""
        return self._pair

    async def available(self) -> None:
        """See `ServingCertificate.available`; files that are not there are an error from the beginning."""

    async def run(self) -> None:
        """See `ServingCertificate.run`. A pair that does not fit together is left alone until it does."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL.total_seconds())
            self.look()

    def look(self) -> None:
        """Takes up changed files, if they can be used."""
        try:
            stamps = self._stamps()
            if stamps != self._changed:
                self._pair = self._read()
                self._changed = stamps
                log.info("certificate renewed", extra={"file": str(self._certificate)})
        except (OSError, ValueError) as error:
            log.warning("certificate kept: the new one cannot be used", extra={"detail": str(error)})

    def _stamps(self) -> tuple[int, int]:
        return self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns

    def _read(self) -> CertificatePair:
        """The pair in the files.

        Raises:
            OSError, ValueError: it cannot be used.
        """
        ca = self._certificate_authority.read_bytes() if self._certificate_authority else b""
        try:
            return pair_of(self._certificate.read_bytes(), self._key.read_bytes(), ca)
        except ValueError as error:
            raise ValueError(f"{self._certificate} and {self._key}: {error}") from error


def pair_of(chain_pem: bytes, key_pem: bytes, ca_pem: bytes) -> CertificatePair:
    """A chain and its key that can be served.

    Raises:
        OSError, ValueError: they cannot.
    """
    leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the key cannot be used: {error}") from error
    if private.public_key() != leaf.public_key():
        raise ValueError("they do not belong together")
    pair = CertificatePair(
        chain_pem=chain_pem,
        key_pem=key_pem,
        ca_pem=ca_pem,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )
    # What OpenSSL does not serve (a key that is too short, say) is found out before it takes the old one's place.
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    return pair


def load_pair(context: ssl.SSLContext, pair: CertificatePair) -> None:
    """New connections of this context get the pair; those that are there keep theirs.

    Raises:
        OSError: OpenSSL does not take it; what the context served before stays.
    """
    # The ssl module reads chains and keys from files only: from a folder that nobody else may enter, for a moment.
    with tempfile.TemporaryDirectory(prefix="exchanged-") as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(pair.chain_pem)
        key.write_bytes(pair.key_pem)
        context.load_cert_chain(chain, key)


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(subject, subject)
        .public_key(key.public_key())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).serial_number(x509.random_serial_number())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
