"""Trust domains and bundle endpoints against go-spiffe and OpenSSL."""

import json
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.spiffe.bundle_endpoint import BundleEndpoint
from tests.spiffe.certificates import LEAF_USAGE, now
from tests.spiffe.conftest import DEPLOYER
from tests.spiffe.go_spiffe import GoSpiffe
from tests.spiffe.pki import Svid, TrustDomain
from tests.spiffe.workload_api import WorkloadApi

Issue = Callable[[TrustDomain], Svid]
DAY = timedelta(days=1)


def _verified(folder: Path, domain: TrustDomain, svid: Svid) -> str:
    """The ID in this SVID as go-spiffe sees it, or why not."""
    bundle, _ = folder / "bundle.json", svid.write(folder, "svid")
    bundle.write_text(json.dumps(domain.bundle()))
    found = GoSpiffe.of()("verify", domain.name, bundle, folder / "svid.crt")
    return str(found.get("id") or found["error"])


def _deep(domain: TrustDomain) -> Svid:
    first = domain.intermediate("first", path_length=1)
    return domain.svid(under=domain.intermediate("second", under=first, path_length=0))


def _too_deep(domain: TrustDomain) -> Svid:
    first = domain.intermediate("first", path_length=0)
    return domain.svid(under=domain.intermediate("second", under=first))


def _constrained(domain: TrustDomain, name: str) -> Svid:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier(name)], None)
    return domain.svid(under=domain.intermediate(name_constraints=constraints))


def _rotated(domain: TrustDomain, *, before: bool, dropped: bool) -> Svid:
    svid = domain.svid()
    domain.rotate()
    if dropped:
        domain.drop_old()
    return svid if before else domain.svid()


@pytest.mark.parametrize(
    "issue",
    [
        pytest.param(lambda domain: domain.svid(), id="plain"),
        pytest.param(lambda domain: domain.svid(key_kind="RSA"), id="rsa"),
        pytest.param(
            lambda domain: domain.svid(dns=["web.example"], addresses=["127.0.0.1", "::1"], common_name="web"),
            id="other-names",
        ),
        pytest.param(lambda domain: domain.svid(extended=None), id="without-extended-usage"),
        pytest.param(
            lambda domain: domain.svid(extended=[ExtendedKeyUsageOID.CODE_SIGNING]), id="extended-usage-is-not-read"
        ),
        pytest.param(lambda domain: domain.svid(usage={"digital_signature"}), id="only-signature"),
        pytest.param(_deep, id="two-intermediates"),
        pytest.param(lambda domain: _constrained(domain, "acme.example"), id="constrained"),
        pytest.param(lambda domain: _rotated(domain, before=True, dropped=False), id="before-rotation"),
        pytest.param(lambda domain: _rotated(domain, before=False, dropped=False), id="after-rotation"),
        pytest.param(lambda domain: _rotated(domain, before=False, dropped=True), id="after-old-dropped"),
    ],
)
def test_good_svids_verify(tmp_path: Path, issue: Issue) -> None:
    """What the specification allows, go-spiffe takes."""
    domain = TrustDomain("acme.example")
    assert _verified(tmp_path, domain, issue(domain)) == DEPLOYER


@pytest.mark.parametrize(
    ("issue", "said"),
    [
        (lambda domain: domain.svid(uris=()), "no URI SAN"),
        (lambda domain: domain.svid(uris=(DEPLOYER, DEPLOYER + "/2")), "more than one URI SAN"),
        (lambda domain: domain.svid(uris=("https://acme.example/x",)), "scheme is missing or invalid"),
        (lambda domain: domain.svid(uris=("spiffe://acme.example/a//b",)), "empty segments"),
        (lambda domain: domain.svid(uris=("spiffe://elsewhere.example/x",)), "no X.509 bundle"),
        (lambda domain: domain.svid(ca=True), "CA flag"),
        (lambda domain: domain.svid(usage=LEAF_USAGE | {"key_cert_sign"}), "KeyCertSign"),
        (lambda domain: domain.svid(usage=LEAF_USAGE | {"crl_sign"}), "KeyCrlSign"),
        (lambda domain: domain.svid(not_before=now() - DAY, not_after=now() - DAY / 2), "expired"),
        (lambda domain: domain.svid(lifetime=timedelta(seconds=-1)), "expired"),
        (lambda domain: domain.svid(not_before=now() + DAY, not_after=now() + 2 * DAY), "not yet valid"),
        (lambda domain: domain.svid(under=domain.intermediate(), intermediates=()), "unknown authority"),
        (lambda domain: domain.svid(under=domain.intermediate(), intermediates=[domain.intermediate()]), "authority"),
        (lambda domain: domain.svid(under=domain.intermediate(ca=False)), "cannot sign this kind"),
        (lambda domain: domain.svid(under=domain.intermediate(usage={"digital_signature"})), "unknown authority"),
        (lambda domain: domain.svid(under=domain.intermediate(not_after=now())), "expired"),
        (_too_deep, "too many intermediates"),
        (lambda domain: _constrained(domain, "elsewhere.example"), "not permitted"),
        (lambda domain: _rotated(domain, before=True, dropped=True), "unknown authority"),
        (lambda domain: TrustDomain(domain.name).svid(), "unknown authority"),
    ],
)
def test_bad_svids_fail(tmp_path: Path, issue: Issue, said: str) -> None:
    """What is made wrong in an SVID, go-spiffe refuses, and for that reason."""
    domain = TrustDomain("acme.example")
    assert said in _verified(tmp_path, domain, issue(domain))


@pytest.mark.parametrize(
    ("issue", "lacks"),
    [
        (lambda domain: domain.svid(usage=None), x509.KeyUsage),
        (lambda domain: domain.svid(basic=False), x509.BasicConstraints),
        (lambda domain: domain.svid(extended=None), x509.ExtendedKeyUsage),
        (lambda domain: domain.svid(uris=()), x509.SubjectAlternativeName),
    ],
)
def test_extensions_can_be_left_out(issue: Issue, lacks: type[x509.ExtensionType]) -> None:
    """An extension that is left out is not there, and all others are."""
    kinds = {x509.KeyUsage, x509.BasicConstraints, x509.ExtendedKeyUsage, x509.SubjectAlternativeName}
    leaf = issue(TrustDomain("acme.example")).certificates[0]
    assert kinds & {type(each.value) for each in leaf.extensions} == kinds - {lacks}


def test_what_is_prepared_does_not_issue() -> None:
    """A prepared CA and JWT key are published, and issue once they are activated."""
    domain = TrustDomain("acme.example")
    old, kid = domain.authorities[0], domain.kid
    domain.prepare()
    assert len(domain.authorities) == len(domain.jwks()["keys"]) == 2
    assert (domain.svid().certificates[0].issuer, domain.kid) == (old.subject, kid)
    domain.activate()
    assert domain.svid().certificates[0].issuer == domain.authorities[1].subject
    assert domain.kid == domain.jwks()["keys"][1]["kid"] != kid


@contextmanager
def _server(folder: Path, svid: Svid, trusted: TrustDomain) -> Iterator[tuple[str, list[str]]]:
    """A TLS server for one connection, on OpenSSL: its address, and who came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*svid.write(folder, "server"))
    context.load_verify_locations(cadata=trusted.x509_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    came: list[str] = []

    def serve() -> None:
        with suppress(OSError):
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                certificate = connection.getpeercert() or {}
                came.extend(str(each[1]) for each in certificate.get("subjectAltName", ()))
                connection.recv(1)
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", came
        thread.join()


@pytest.mark.parametrize("expected", [DEPLOYER, "acme.example"])
def test_mtls_holds(tmp_path: Path, api: WorkloadApi, go: GoSpiffe, expected: str) -> None:
    """Between go-spiffe and OpenSSL both sides take the other's SVID, and know its ID."""
    with _server(tmp_path, api.svid(), api.home) as (address, came):
        assert go("mtls", address, expected)["peer"] == DEPLOYER
    assert came == [DEPLOYER]


def test_mtls_holds_across_domains(tmp_path: Path, api: WorkloadApi, go: GoSpiffe, partner: TrustDomain) -> None:
    """A server of a federated domain, below an intermediate, is verified by that domain's bundle."""
    svid = partner.svid("/db", under=partner.intermediate())
    with _server(tmp_path, svid, api.home) as (address, came):
        assert go("mtls", address, "partner.example")["peer"] == "spiffe://partner.example/db"
    assert came == [DEPLOYER]


@pytest.mark.parametrize(
    ("served_by", "expected", "said"),
    [
        ("acme.example", "spiffe://acme.example/other", "unexpected ID"),
        ("acme.example", "partner.example", "unexpected trust domain"),
        ("elsewhere.example", "elsewhere.example", "no X.509 bundle"),
    ],
)
def test_mtls_refuses(tmp_path: Path, api: WorkloadApi, go: GoSpiffe, served_by: str, expected: str, said: str) -> None:
    """Somebody else, or somebody of a domain without a bundle, is refused by the client."""
    server = api.svid() if served_by == api.home.name else TrustDomain(served_by).svid()
    with _server(tmp_path, server, api.home) as (address, _):
        assert said in go("mtls", address, expected)["error"]


def test_a_client_is_refused(tmp_path: Path, api: WorkloadApi, go: GoSpiffe) -> None:
    """A server that does not trust the client's domain refuses it, and the client notices."""
    with _server(tmp_path, api.svid(), TrustDomain("elsewhere.example")) as (address, came):
        assert "error" in go("mtls", address, "acme.example")
    assert came == []


def test_a_bundle_is_fetched(tmp_path: Path) -> None:
    """go-spiffe fetches a bundle by the https_web profile, and sees rotation, sequence and hint."""
    domain = TrustDomain("acme.example")
    with BundleEndpoint.served(tmp_path, domain) as endpoint:
        arguments = ("fetch", domain.name, endpoint.url, endpoint.certificate_authority)
        assert GoSpiffe.of()(*arguments) == {"x509": 1, "jwt": 1, "sequence": 1, "hint": 300, "hinted": True}
        endpoint.rotate()
        endpoint.refresh_hint = None
        assert GoSpiffe.of()(*arguments) == {"x509": 2, "jwt": 2, "sequence": 2, "hint": 0, "hinted": False}
        assert endpoint.requests == ["/bundle", "/bundle"]


def test_a_bundle_cannot_be_fetched(tmp_path: Path) -> None:
    """What is wrong at a bundle endpoint is what was set."""
    domain = TrustDomain("acme.example")
    with BundleEndpoint.served(tmp_path, domain) as endpoint:
        arguments = ("fetch", domain.name, endpoint.url, endpoint.certificate_authority)
        context = ssl.create_default_context(cafile=endpoint.certificate_authority)
        endpoint.status, endpoint.body = 503, b"{"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(endpoint.url, context=context)  # noqa: S310 - ours
        assert "unable to parse JWKS" in GoSpiffe.of()(*arguments)["error"]
        endpoint.status, endpoint.body, endpoint.redirect = 200, None, endpoint.url.replace("/bundle", "/moved")
        assert GoSpiffe.of()(*arguments)["x509"] == 1
        assert endpoint.requests[-2:] == ["/bundle", "/moved"]
        stranger = tmp_path / "stranger.crt"
        stranger.write_bytes(domain.x509_pem)
        assert "unknown authority" in GoSpiffe.of()(*arguments[:-1], stranger)["error"]
