from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.policies import reading
from tests.unit.sidecar_kubectl.plugin import Plugin


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeIssuer]]:
    """A daemon of this module's own, which its tests stop and start."""
    folder = tmp_path_factory.mktemp("plugin")
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = Daemon.make(
            folder / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            policies={
                "pods.yaml": reading(),
                "brief.yaml": reading("brief", lifetime={"default": "60s", "max": "60s"}),
            },
            limits={"liveGrantsPerSubject": 10_000},
        )
        with daemon.running():
            yield daemon, issuer


@pytest.fixture
def plugin(served: tuple[Daemon, FakeIssuer], tmp_path: Path) -> Plugin:
    """A user whose cache is empty."""
    return Plugin(*served, home=tmp_path)
