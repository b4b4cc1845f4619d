from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ci.door import Door, door
from tests.ci.runner import Job
from tests.fixtures import Running


@pytest.fixture
def job(tmp_path: Path, running: Running) -> Job:
    """A job that may ask for OIDC tokens."""
    return Job.of(tmp_path, running.issuer)


@pytest.fixture
def inputs(running: Running) -> dict[str, str]:
    """What a workflow gives the action to reach the daemon."""
    return {
        "server": running.daemon.url,
        "audience": running.issuer.audience,
        "certificate_authority": running.daemon.ca.read_text(),
        "cluster": "prod",
        "scope": "deploy-web/rollout",
    }


@pytest.fixture
def between(tmp_path: Path, running: Running) -> Iterator[Door]:
    """A door before the daemon's."""
    with door(tmp_path / "door", running.daemon) as made:
        yield made


@pytest.fixture
def by_door(inputs: dict[str, str], between: Door) -> dict[str, str]:
    """The same inputs, by way of that door."""
    return inputs | {"server": between.url, "certificate_authority": str(between.ca)}
