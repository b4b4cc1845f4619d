"""What the tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spiffe.answers import Identity
from tests.spiffe.go_spiffe import GoSpiffe
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

DEPLOYER = "spiffe://acme.example/ns/web/sa/deployer"
INTERNAL = "spiffe://acme.example/internal"


@pytest.fixture
def partner() -> TrustDomain:
    """A trust domain that ours is federated with."""
    return TrustDomain("partner.example", jwt="RSA")


@pytest.fixture
def api(tmp_path: Path, partner: TrustDomain) -> Iterator[WorkloadApi]:
    """An API whose caller has two identities, the second below an intermediate."""
    home = TrustDomain("acme.example")
    second = Identity(path="/internal", hint="internal", dns=("web.example",), under=home.intermediate())
    identities = [Identity(), second]
    with WorkloadApi.served(tmp_path / "api.sock", home, federated=[partner], identities=identities) as serving:
        yield serving


@pytest.fixture
def go(api: WorkloadApi) -> GoSpiffe:
    """The client on go-spiffe."""
    return GoSpiffe.of(api)
