"""Other people's clients past three lifetimes of their tokens."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.running import CLIENTS, PAUSE_SECONDS, Calls, listing, prepare, used
from tests.lab.worlds import World, world
from tests.policies import reading

pytestmark = pytest.mark.lab
GRANTS = 4
"""One at the start, and one for each of three lifetimes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster, and a policy for each length of life."""
    prepare()
    lives = {
        f"{name}.yaml": reading(name, lifetime={"default": name.removeprefix("of-"), "max": "15m"})
        for name in ("of-1m", "of-5m", "of-15m")
    }
    with world(tmp_path_factory.mktemp("clients"), {"prod": {"mode": "authorizer"}}, lives) as running:
        yield running


@pytest.mark.timeout(400)
def test_no_call_fails_while_tokens_of_a_minute_come_and_go(made: World, tmp_path: Path) -> None:
    """Past three lifetimes no client has seen an error, and each has used four grants or more."""
    _prove(made, tmp_path, "of-1m", 60)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("minutes", [5, 15])
def test_no_call_fails_with_longer_tokens(made: World, tmp_path: Path, minutes: int) -> None:
    """The same for tokens that the Python client holds for due, and for those that it does not."""
    _prove(made, tmp_path, f"of-{minutes}m", 60 * minutes)


def _prove(made: World, folder: Path, policy: str, life: float) -> None:
    calls = Calls()
    with ExitStack() as stack:
        for name in CLIENTS:
            stack.enter_context(listing(made, folder / name, f"{policy}/pods", name, calls))
        until = time.monotonic() + 3.7 * life
        calls.failed.wait(3 * life)
        while not all(len(used(made, policy)[name]) >= GRANTS for name in CLIENTS):
            if calls.failed.wait(2) or time.monotonic() > until:
                break
    assert not calls.errors
    assert {name: len(grants) for name, grants in used(made, policy).items() if len(grants) >= GRANTS}.keys() == {
        *CLIENTS
    }
    assert min(len(calls.came_to[name]) for name in CLIENTS) >= 3 * life / (2 * PAUSE_SECONDS)
