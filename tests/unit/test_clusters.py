from pathlib import Path

import pytest

from exchanged.clusters import traits_of
from exchanged.config import Cluster
from exchanged.model import ClusterName, ClusterTraits
from tests.lab.pki import Authority


def _traits(authority: Path | None) -> ClusterTraits:
    settings = {"mode": "authorizer", "server": "https://prod.example:6443", "certificateAuthority": authority}
    return traits_of(ClusterName("prod"), Cluster.model_validate(settings))


def test_clients_are_told_certificates_alone(tmp_path: Path) -> None:
    """What stands beside them in the file is for people, or for nobody: a comment, in whatever encoding, or a key."""
    old, new = Authority("old"), Authority("new")
    file = tmp_path / "ca.crt"
    file.write_bytes(
        b'# Issuer: CN=Z\xfcrich "x"\r\n' + old.pem + old.server().key + b"\nData:\n  Version: 3\n" + new.pem
    )
    assert _traits(file).certificate_authority == (old.pem + new.pem).decode()


def test_where_public_roots_vouch_clients_are_told_none() -> None:
    """Without a file there is no CA to tell."""
    assert _traits(None).certificate_authority == ""


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    """It would leave clients with public roots, or with none; the error names it."""
    file = tmp_path / "ca.crt"
    file.write_bytes(Authority("ca").server().key)
    with pytest.raises(ValueError, match=r"ca\.crt holds no certificate \(PEM\)"):
        _traits(file)
