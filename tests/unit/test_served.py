import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exchanged.config import Configuration
from exchanged.keys.certificates import Authority, CertificatePair, FileCertificate, OwnCertificate
from exchanged.metrics import Metrics
from exchanged.served import Certificates, address, own_hosts


class Given:
    """Implements `ServingCertificate` with a pair that a test sets; None while there is none."""

    def __init__(self) -> None:
        self.pair: CertificatePair | None = None

    def current(self) -> CertificatePair:
        """See `ServingCertificate.current`."""
        if self.pair is None:
            raise ValueError("no SVID yet")
        return self.pair

    async def available(self) -> None:
        """See `ServingCertificate.available`."""

    async def run(self) -> None:
        """See `ServingCertificate.run`."""


class Made:
    """The certificates of a configuration with these doors, and a clock."""

    def __init__(self, folder: Path, svid: Given | None = None, **doors: Any) -> None:
        self.time = datetime.now(UTC)
        self.authority = Authority.open(folder / "ca", "test", self.clock)
        self.metrics = Metrics()
        self.certificates = Certificates(
            configuration=_configuration(doors),
            authority=self.authority,
            svid=svid,
            metrics=self.metrics,
            clock=self.clock,
        )

    def clock(self) -> datetime:
        """The time, as the test has it."""
        return self.time


def _configuration(doors: dict[str, Any], issuer: str = "https://exchanged.example:8444") -> Configuration:
    return Configuration.model_validate(
        {
            "apiVersion": "exchanged.dev/v1alpha1",
            "kind": "Configuration",
            "issuer": issuer,
            "state": "state",
            "policies": "policies",
            "doors": doors,
            "issuers": {"acme": {"type": "spiffe", "trustDomain": "acme.example"}},
            "clusters": {"prod": {"mode": "authorizer", "server": "https://prod.example:6443"}},
        }
    )


def _files(folder: Path, authority: Authority) -> dict[str, str]:
    pair = authority.serving(["exchanged.example"])
    (folder / "tls.crt").write_bytes(pair.chain_pem)
    (folder / "tls.key").write_bytes(pair.key_pem)
    return {"certificate": str(folder / "tls.crt"), "key": str(folder / "tls.key")}


def test_what_each_door_serves(tmp_path: Path) -> None:
    """Files, the daemon's SVID, or a certificate of its own CA; one SVID for all, and nothing where all is plain."""
    svid, files = Given(), _files(tmp_path, Authority.open(tmp_path / "ca", "test", lambda: datetime.now(UTC)))
    made = Made(
        tmp_path,
        svid,
        grpc={"listen": "127.0.0.1:1", "svid": True},
        http={"listen": "127.0.0.1:2", "plaintext": True},
        mtls={"svid": True},
        authorizer={"tls": files},
    ).certificates
    assert made.of("grpc") is made.of("mtls") is svid
    assert isinstance(made.of("authorizer"), FileCertificate)
    assert made.of("http") is None
    plain = Made(tmp_path).certificates
    assert isinstance(plain.of("grpc"), OwnCertificate)
    assert (plain.of("mtls"), plain.of("authorizer")) == (None, None)


def test_an_svid_comes_from_somewhere(tmp_path: Path) -> None:
    """A door cannot serve an SVID that nobody gives."""
    with pytest.raises(ValueError, match="needs `workloadApi`"):
        Made(tmp_path, mtls={"svid": True})


def test_what_doors_lack(tmp_path: Path) -> None:
    """A door without its certificate, or with one that has ended, is told with the reason; the others are not."""
    svid = Given()
    made = Made(tmp_path, svid, mtls={"svid": True})
    assert made.certificates.lacking() == {"mtls": "no SVID yet"}
    svid.pair = made.authority.serving(["exchanged.example"])
    assert made.certificates.lacking() == {}
    made.time = svid.pair.not_after
    assert made.certificates.lacking() == {"mtls": f"its certificate ended at {svid.pair.not_after:%FT%TZ}"}
    made.time -= timedelta(seconds=1)
    assert made.certificates.lacking() == {}


async def test_they_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of each certificate is a gauge, as soon as there is one; a door without one ends nothing."""
    svid, looked = Given(), asyncio.Event()
    made = Made(tmp_path, svid, mtls={"svid": True})
    gauge = 'exchanged_certificate_expiry_timestamp_seconds{door="mtls"}'

    async def sleep(_: float) -> None:
        if svid.pair is not None:
            looked.set()
            await asyncio.Event().wait()
        assert gauge not in made.metrics.text().decode()
        svid.pair = made.authority.serving(["exchanged.example"])

    monkeypatch.setattr("exchanged.served.asyncio.sleep", sleep)
    watching = asyncio.create_task(made.certificates.run())
    await asyncio.wait_for(looked.wait(), 10)
    watching.cancel()
    assert svid.pair is not None
    (line,) = (each for each in made.metrics.text().decode().splitlines() if each.startswith(gauge))
    assert float(line.partition(" ")[2]) == svid.pair.not_after.timestamp()


@pytest.mark.parametrize(
    ("doors", "named"),
    [
        ({}, ["exchanged.example", "127.0.0.1", "localhost", "::1"]),
        (
            {"mtls": {"listen": "10.0.0.5:8446"}},
            ["exchanged.example", "127.0.0.1", "10.0.0.5", "localhost", "::1"],
        ),
        (
            {"authorizer": {"url": "https://authorizer.example:8445"}, "grpc": {"listen": "[2001:db8::1]:8443"}},
            ["exchanged.example", "authorizer.example", "2001:db8::1", "127.0.0.1", "localhost", "::1"],
        ),
    ],
)
def test_names_of_the_daemon(doors: dict[str, Any], named: list[str]) -> None:
    """Its own certificates are for the names under which clients reach it, each once."""
    assert own_hosts(_configuration(doors)) == named


@pytest.mark.parametrize(
    ("listen", "expected"), [("127.0.0.1:8443", ("127.0.0.1", 8443)), ("[::1]:0", ("::1", 0)), ("a.b:1", ("a.b", 1))]
)
def test_addresses(listen: str, expected: tuple[str, int]) -> None:
    """Host and port."""
    assert address(listen) == expected
