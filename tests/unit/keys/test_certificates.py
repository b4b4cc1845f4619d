import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from exchanged.doors.tls import load, server_context
from exchanged.keys.certificates import Authority, FileCertificate, OwnCertificate


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
    load(context, second)
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
