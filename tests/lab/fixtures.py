"""A cluster for many tests, and a namespace for each."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster


@pytest.fixture(scope="session")
def lab_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One plain cluster (RBAC alone), shared by the tests of a session."""
    folder: Path = tmp_path_factory.mktemp("lab")
    with Cluster.start(folder) as cluster:
        yield cluster


@pytest.fixture
def lab_namespace(lab_cluster: Cluster) -> Iterator[str]:
    """A namespace of this test's own, in the shared cluster."""
    name = f"test-{secrets.token_hex(4)}"
    lab_cluster.kubectl("create", "namespace", name)
    yield name
    lab_cluster.kubectl("delete", "namespace", name, "--wait=false")
