"""Other people's clients, each with the kubeconfig of `exchanged kubeconfig`, past three lifetimes of their tokens."""

import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients import npm
from tests.lab.build import CLIENT_GO, built, tool
from tests.lab.worlds import World, world
from tests.policies import reading

pytestmark = pytest.mark.lab
PYTHON = Path(__file__).parent / "python"
PAUSE_SECONDS = 3
GRANTS = 4
"""One at the start, and one for each of three lifetimes."""
SCRIPTS = sysconfig.get_path("scripts")
KUBECTL = "kubectl"
PROGRAMS: dict[str, Callable[[], list[str | Path]]] = {
    "client-go": lambda: [built(CLIENT_GO)],
    "python": lambda: [sys.executable, PYTHON / "list_sync.py"],
    "python-aio": lambda: [sys.executable, PYTHON / "list_aio.py"],
    "client-node": lambda: [npm.node(), npm.installed() / "list.mjs"],
}
CLIENTS = (KUBECTL, *PROGRAMS)


@dataclass(slots=True)
class Calls:
    """What the calls of each client came to."""

    failed: threading.Event = field(default_factory=threading.Event)
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counted: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, client: str, error: str) -> None:
        """One call, "" where it was answered."""
        self.counted[client] += 1
        if error:
            self.errors[client].append(error)
            self.failed.set()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster, and a policy for each length of life."""
    lives = {
        f"{name}.yaml": reading(name, lifetime={"default": name.removeprefix("of-"), "max": "15m"})
        for name in ("of-1m", "of-5m", "of-15m")
    }
    with world(tmp_path_factory.mktemp("clients"), {"prod": {"mode": "authorizer"}}, lives) as running:
        yield running


@pytest.mark.timeout(300)
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
            kubeconfig, environment = _user(made, folder / name, policy, name)
            if name == KUBECTL:
                stack.enter_context(_kubectl(kubeconfig, environment, calls))
            else:
                stack.enter_context(_running(name, kubeconfig, environment, calls))
        until = time.monotonic() + 3.7 * life
        calls.failed.wait(3 * life)
        used = _used(made, policy)
        while (
            time.monotonic() < until
            and not calls.failed.wait(2)
            and not all(len(used[name]) >= GRANTS for name in CLIENTS)
        ):
            used = _used(made, policy)
    assert not calls.errors
    assert {name: len(used[name]) for name in CLIENTS if len(used[name]) < GRANTS} == {}
    assert {name: count for name, count in calls.counted.items() if count < 3 * life / (2 * PAUSE_SECONDS)} == {}


def _user(made: World, home: Path, policy: str, name: str) -> tuple[Path, dict[str, str]]:
    """A kubeconfig for one client, and the environment of its user, who is a job in GitHub Actions."""
    home.mkdir()
    environment = {
        "PATH": f"{SCRIPTS}:{os.defpath}",
        "HOME": str(home),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{made.issuer.url}/token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": made.issuer.request_token,
        "ACTIONS_ID_TOKEN_CA": str(made.issuer.certificate_authority),
        "EXCHANGED_AUDIENCE": made.issuer.audience,
    }
    asked = ("--cluster", "prod", "--scope", f"{policy}/pods", "--source", "github", "--intent", name)
    kubeconfig = home / "kubeconfig"
    made.daemon.run("kubeconfig", *asked, "--output-file", str(kubeconfig), environment=environment)
    return kubeconfig, environment


@contextmanager
def _running(name: str, kubeconfig: Path, environment: dict[str, str], calls: Calls) -> Iterator[None]:
    """A program that lists pods; it ends with its standard input."""
    command = [*PROGRAMS[name](), kubeconfig, "web", str(PAUSE_SECONDS)]
    with (
        (kubeconfig.parent / "log").open("wb") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        output: Any = process.stdout

        def read() -> None:
            for line in output:
                calls.note(name, json.loads(line)["error"])

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
            assert process.poll() is None, (kubeconfig.parent / "log").read_text()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            reader.join()


@contextmanager
def _kubectl(kubeconfig: Path, environment: dict[str, str], calls: Calls) -> Iterator[None]:
    """kubectl, again and again: a new process each time."""
    stopped = threading.Event()
    command: list[str | Path] = [tool("kubectl"), "--kubeconfig", kubeconfig, "get", "pods", "-n", "web"]

    def run() -> None:
        while not stopped.wait(PAUSE_SECONDS):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
            calls.note(KUBECTL, done.stderr if done.returncode else "")

    runner = threading.Thread(target=run)
    runner.start()
    try:
        yield
    finally:
        stopped.set()
        runner.join()


def _used(made: World, policy: str) -> dict[str, set[str]]:
    """Grants by which pods were listed, for each client: what the cluster's own audit log says."""
    answered = set()
    for line in made.cluster.audit_log.read_text().splitlines(keepends=True):
        event = json.loads(line) if line.endswith("\n") else {}
        if event.get("objectRef", {}).get("resource") == "pods" and event["responseStatus"]["code"] == 200:
            answered.add(event["user"].get("uid"))
    found: dict[str, set[str]] = defaultdict(set)
    for grant in made.daemon.json("grants", "list", "--all", "--policy", policy, "--limit", "1000")["grants"]:
        if grant["id"] in answered:
            found[grant["stated"]["intent"]].add(grant["id"])
    return found
