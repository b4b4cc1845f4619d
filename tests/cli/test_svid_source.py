"""`exchanged token` as a workload with a Workload API."""

from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from grpc import StatusCode

from exchanged.cli.source import Source, SourceError, subject_token
from exchanged.cli.svid import x509_svid
from tests.cli.command import run
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

FIRST, SECOND = Identity(path="/agent/a"), Identity(path="/agent/b")
AUDIENCE = "https://exchanged.example"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkloadApi]:
    """A Workload API that gives two SVIDs, where the variable says."""
    for name in ("ACTIONS_ID_TOKEN_REQUEST_URL", "EXCHANGED_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with WorkloadApi.served(tmp_path / "api.sock", TrustDomain("prod.example"), identities=[FIRST, SECOND]) as serving:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", serving.address)
        yield serving


@pytest.mark.parametrize(
    ("source", "spiffe_id", "path"),
    [
        (Source.AUTO, "", FIRST.path),
        (Source.JWT_SVID, "", FIRST.path),
        (Source.JWT_SVID, "spiffe://prod.example/agent/b", SECOND.path),
    ],
)
def test_a_jwt_svid_for_the_daemons_audience(api: WorkloadApi, source: Source, spiffe_id: str, path: str) -> None:
    """Found by the variable; the first, or the one that was named."""
    token = subject_token(source, None, AUDIENCE, spiffe_id)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == (api.home.id + path, [AUDIENCE])


def test_an_x509_svid_with_who_vouches_for_the_server(api: WorkloadApi) -> None:
    """The chain, its key, and the authorities of its trust domain; no token goes with it."""
    assert subject_token(Source.X509_SVID, None, AUDIENCE) == ""
    own = x509_svid("spiffe://prod.example/agent/b")
    (leaf,) = x509.load_pem_x509_certificates(own.chain)
    assert leaf == api.svid(SECOND).certificates[0]
    assert x509.load_pem_x509_certificates(own.roots) == api.home.authorities
    assert "PRIVATE" in own.key.decode()
    assert "PRIVATE" not in repr(own)


@pytest.mark.parametrize("source", ["jwt-svid", "x509-svid"])
def test_what_is_wrong_is_said_with_what_to_do(api: WorkloadApi, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No SVID of that name, no entry for this process, nobody there, no variable: a usage error each, in one line."""

    def said(*arguments: str) -> str:
        done = run("token", "get", "--source", source, *arguments)
        assert done.code == 2
        return done.wrong

    assert "spiffe://prod.example/nobody" in said("--spiffe-id", "spiffe://prod.example/nobody")
    assert "not-an-id" in said("--spiffe-id", "not-an-id")
    api.fail(StatusCode.PERMISSION_DENIED)
    assert "is there a registration entry for this process?" in said()
    api.stop()
    assert api.address in said()
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET")
    assert "SPIFFE_ENDPOINT_SOCKET is not set" in said()


def test_nothing_at_all_names_the_workload_api_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal, with no source in sight."""
    for name in ("ACTIONS_ID_TOKEN_REQUEST_URL", "EXCHANGED_ID_TOKEN", "SPIFFE_ENDPOINT_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SourceError, match="SPIFFE_ENDPOINT_SOCKET"):
        subject_token(Source.AUTO, None, AUDIENCE)
