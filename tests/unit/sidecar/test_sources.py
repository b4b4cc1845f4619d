"""Where proofs come from."""

import os
from pathlib import Path

import pytest

from sidecar import sources
from sidecar.model import Subject
from sidecar.sources import LARGEST, CommandSource, FileSource, GithubSource, GitlabSource, SourceFailed, SourceSettings
from sidecar.sources import source as made
from tests.issuers import FakeIssuer
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

AUDIENCE = "https://exchanged.example"


async def test_a_file_is_opened_each_time(tmp_path: Path) -> None:
    """The kubelet swaps it under us."""
    file = tmp_path / "token"
    file.write_text("first\n")
    source = FileSource(file)
    assert await source.subject() == Subject(token="first")
    (tmp_path / "next").write_text("second")
    (tmp_path / "next").replace(file)
    assert await source.subject() == Subject(token="second")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no token"),
        (b" \n", "no token"),
        (b"\xff", "not text"),
        (b"a b", "one word"),
        (b"x" * (LARGEST + 1), "more than"),
    ],
)
async def test_what_is_no_token(tmp_path: Path, content: bytes, told: str) -> None:
    """It is said, and never what was found."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SourceFailed, match=told):
        await FileSource(tmp_path / "token").subject()


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is said what may be missing."""
    with pytest.raises(SourceFailed, match="is the token mounted there"):
        await FileSource(tmp_path / "token").subject()


async def test_a_command() -> None:
    """What it prints."""
    assert await CommandSource(("/bin/echo", "proof")).subject() == Subject(token="proof")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such",), "cannot be run"),
        (("/bin/sh", "-c", "echo proof; exit 4"), "ended with 4"),
        (("/bin/true",), "no token"),
        (("/bin/sh", "-c", f"head -c {LARGEST * 3} /dev/zero"), "more than|ended with"),
    ],
)
async def test_a_command_that_gives_none(command: tuple[str, ...], told: str) -> None:
    """It is said why."""
    with pytest.raises(SourceFailed, match=told):
        await CommandSource(command).subject()


async def test_a_command_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended."""
    monkeypatch.setattr(sources, "SECONDS", 0.2)
    with pytest.raises(SourceFailed, match="takes longer"):
        await CommandSource(("/bin/sleep", "100")).subject()


async def test_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's variable; without one, what the job lacks."""
    monkeypatch.setenv("EXCHANGED_ID_TOKEN", "proof")
    assert await GitlabSource().subject() == Subject(token="proof")
    monkeypatch.delenv("EXCHANGED_ID_TOKEN")
    with pytest.raises(SourceFailed, match="id_tokens"):
        await GitlabSource().subject()


async def test_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner is asked for our audience, each time anew."""
    with FakeIssuer.served(tmp_path) as issuer:
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{issuer.url}/token?v=1")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", issuer.request_token)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_CA", str(issuer.certificate_authority))
        first, second = [await GithubSource(AUDIENCE).subject() for _ in range(2)]
        assert first.token != second.token
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong")
        with pytest.raises(SourceFailed, match="401"):
            await GithubSource(AUDIENCE).subject()
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(SourceFailed, match="id-token: write"):
        await GithubSource(AUDIENCE).subject()


async def test_svids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for the daemon's audience, a certificate with its key and its trust domain's bundle, or both."""
    domain = TrustDomain("prod.example")
    identities = [Identity(path="/first"), Identity(path="/second")]
    with WorkloadApi.served(tmp_path / "api.sock", domain, identities=identities) as api:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", api.address)
        second = "spiffe://prod.example/second"
        token = await made(SourceSettings(kind="jwt-svid", spiffe_id=second), "exchanged.example:443").subject()
        assert token.token
        assert not token.certificate
        certificate = await made(SourceSettings(kind="x509-svid", spiffe_id=second), "exchanged.example:443").subject()
        assert not certificate.token
        assert certificate.certificate == api.svid(identities[1]).chain_pem
        assert certificate.roots.strip() == domain.x509_pem.strip()
        both = SourceSettings(kind="jwt-svid", certificate=True)
        subject = await made(both, "exchanged.example:443").subject()
        assert subject.token
        assert subject.key
        with pytest.raises(SourceFailed, match="no SVID"):
            await made(SourceSettings(kind="x509-svid", spiffe_id="spiffe://prod.example/third"), "e:1").subject()
    with pytest.raises(SourceFailed, match="Workload API at"):
        await made(SourceSettings(kind="x509-svid"), "e:1").subject()
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET")
    with pytest.raises(SourceFailed, match="SPIFFE_ENDPOINT_SOCKET is not set"):
        await made(SourceSettings(kind="x509-svid"), "e:1").subject()


def test_no_proof_is_shown() -> None:
    """Not where a value is printed."""
    assert "proof" not in repr(Subject(token="proof", key=b"proof"))
    assert os.environ.get("EXCHANGED_ID_TOKEN") is None
