import asyncio
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from exchanged.doors.tls import server_context
from exchanged.keys.certificates import Authority, FileCertificate, OwnCertificate, load_pair


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Now."""
        return self.time


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> x509.Certificate:
    """The certificate that a client sees, without a network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = one.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_the_development_authority_serves_loopback(tmp_path: Path) -> None:
    """Made once and kept; what it issues is trusted by whoever has its certificate, and nobody else reads its key."""
    clock = Clock()
    authority = Authority.open(tmp_path, "test", clock)
    assert Authority.open(tmp_path, "test", clock).pem == authority.pem
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    pair = authority.serving(["localhost", "127.0.0.1"])
    assert "PRIVATE" not in repr(pair)
    client = ssl.create_default_context(cadata=authority.pem.decode())
    for host in ("localhost", "127.0.0.1"):
        assert _handshake(server_context(pair), client, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server_context(pair), client, "elsewhere.example")


def test_own_certificates_renew_themselves(tmp_path: Path) -> None:
    """At half of its life a new one is served; connections go on with the same context."""
    clock = Clock()
    clock.time -= timedelta(days=4)
    authority = Authority.open(tmp_path, "test", clock)
    own = OwnCertificate(authority=authority, hosts=["localhost"], clock=clock)
    first = own.current()
    clock.time += timedelta(days=3)
    assert own.current() is first
    clock.time += timedelta(days=1)
    second = own.current()
    assert second.not_after > first.not_after
    context = server_context(first)
    load_pair(context, second)
    client = ssl.create_default_context(cadata=authority.pem.decode())
    seen = _handshake(context, client, "localhost")
    assert seen == x509.load_pem_x509_certificate(second.chain_pem)


async def test_files_are_taken_up_when_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewed pair is served; half of one is not, and neither is none; then the old one stays."""
    authority = Authority.open(tmp_path / "ca", "test", Clock())
    certificate, key, ca = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    first, second = authority.serving(["localhost"]), authority.serving(["localhost"])
    certificate.write_bytes(first.chain_pem)
    key.write_bytes(first.key_pem)
    files = FileCertificate(certificate=certificate, key=key, certificate_authority=ca)
    assert files.current().ca_pem == authority.pem
    certificate.write_bytes(second.chain_pem)
    files.look()
    assert files.current().chain_pem == first.chain_pem
    assert "kept" in caplog.text
    key.write_bytes(second.key_pem)

    async def sleep(_: float) -> None:
        if files.current().chain_pem == second.chain_pem:
            raise asyncio.CancelledError

    monkeypatch.setattr("exchanged.keys.certificates.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await files.run()
    key.unlink()
    files.look()
    assert files.current().chain_pem == second.chain_pem


def test_a_clock_that_was_set_back_gets_a_new_certificate(tmp_path: Path) -> None:
    """What was issued at a time that has not come yet is not served; nobody would accept it."""
    clock = Clock()
    own = OwnCertificate(authority=Authority.open(tmp_path, "test", clock), hosts=["localhost"], clock=clock)
    first = own.current()
    clock.time -= timedelta(days=365)
    second = own.current()
    assert second is not first
    assert second.not_before <= clock.time < second.not_after
    assert own.current() is second


def _encrypted(certificate: Path, key: Path) -> None:
    del certificate
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _too_short(certificate: Path, key: Path) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.public_key(private.public_key()).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _nothing(certificate: Path, key: Path) -> None:
    certificate.write_bytes(b"")
    key.write_bytes(b"")


@pytest.mark.parametrize("change", [_encrypted, _too_short, _nothing])
def test_files_that_cannot_be_served_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path, Path], None]
) -> None:
    """An encrypted key, one too short for OpenSSL, and empty files: the old pair stays; at the start it is told."""
    pair = Authority.open(tmp_path / "ca", "test", Clock()).serving(["localhost"])
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(pair.chain_pem)
    key.write_bytes(pair.key_pem)
    files = FileCertificate(certificate=certificate, key=key, certificate_authority=None)
    change(certificate, key)
    os.utime(key, (1, 1))
    files.look()
    assert files.current().chain_pem == pair.chain_pem
    assert "kept" in caplog.text
    with pytest.raises((ValueError, OSError)):
        FileCertificate(certificate=certificate, key=key, certificate_authority=None)
