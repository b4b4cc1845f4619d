"""Clients of client-go whose grant is revoked under them, in the mode where the API server then answers 401."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.running import Calls, listing
from tests.lab.worlds import POD_READER, World, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(200)]
MODE = {"mode": "bindings", "namespaces": ["web"], "clusterRoles": ["pod-reader"]}
CLIENTS = ("kubectl", "client-go")
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster of mode `bindings`, whose tokens live for ten minutes at least."""
    role = policy("read", name="pods", rules=None, clusterRole="pod-reader", acknowledge=None, workloads=None)
    with world(tmp_path_factory.mktemp("revoked"), {"prod": MODE}, {"read.yaml": role}) as running:
        running.cluster.apply(POD_READER)
        _until(lambda: running.daemon.json("status")["clusters"]["prod"] is None)
        yield running


def test_a_revoked_token_is_replaced(made: World, tmp_path: Path) -> None:
    """After a 401 the plugin is asked again, and the next call is made with another grant; kubectl's next run too."""
    calls = Calls()
    with ExitStack() as stack:
        for name in CLIENTS:
            stack.enter_context(listing(made, tmp_path / name, "read/pods", name, calls))
        _until(lambda: all("" in calls.came_to[name] for name in CLIENTS))
        first = _live(made)
        assert sorted(first) == sorted(CLIENTS)
        for grant in first.values():
            made.daemon.run("grants", "revoke", grant, "--why", "test")
        _until(lambda: all(any(calls.came_to[name]) for name in CLIENTS))
        _until(lambda: _live(made).keys() == {*CLIENTS} and all(calls.came_to[name][-1] == "" for name in CLIENTS))
    assert any("Unauthorized" in error or "logged in" in error for error in calls.errors["kubectl"])


def _live(made: World) -> dict[str, str]:
    """The grant of each client."""
    return {grant["stated"]["intent"]: grant["id"] for grant in made.daemon.json("grants", "list")["grants"]}


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.5)
