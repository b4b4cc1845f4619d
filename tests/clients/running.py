"""Other people's clients as their users run them, each with the kubeconfig of `exchanged kubeconfig`."""

import json
import os
import subprocess
import sys
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import npm
from tests.lab.build import CLIENT_GO, built, tool
from tests.lab.worlds import World

PYTHON, NODE = (Path(__file__).parent / name for name in ("python", "node"))
PAUSE_SECONDS = 3
SCRIPTS = sysconfig.get_path("scripts")
KUBECTL = "kubectl"
PROGRAMS: dict[str, Callable[[], list[str | Path]]] = {
    "client-go": lambda: [built(CLIENT_GO)],
    "python": lambda: [sys.executable, PYTHON / "list_sync.py"],
    "python-aio": lambda: [sys.executable, PYTHON / "list_aio.py"],
    "client-node": lambda: [npm.node(), npm.installed(NODE, "list.mjs") / "list.mjs"],
}
CLIENTS = (KUBECTL, *PROGRAMS)


@dataclass(slots=True)
class Calls:
    """What the calls of each client came to, in their order; "" where one was answered."""

    came_to: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed: threading.Event = field(default_factory=threading.Event)

    def note(self, client: str, error: str) -> None:
        """One call."""
        self.came_to[client].append(error)
        if error:
            self.failed.set()

    @property
    def errors(self) -> dict[str, list[str]]:
        """Who saw what go wrong."""
        found = {client: [error for error in came_to if error] for client, came_to in self.came_to.items()}
        return {client: errors for client, errors in found.items() if errors}


def prepare() -> None:
    """Builds and installs what was never built and installed here, before a clock runs."""
    for command in PROGRAMS.values():
        command()


def listing(made: World, home: Path, scope: str, name: str, calls: Calls) -> AbstractContextManager[None]:
    """A client of this name lists pods, again and again, as a user of its own."""
    kubeconfig, environment = _user(made, home, scope, name)
    return (_kubectl if name == KUBECTL else _program)(name, kubeconfig, environment, calls)


def used(made: World, policy: str) -> dict[str, set[str]]:
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


def _user(made: World, home: Path, scope: str, name: str) -> tuple[Path, dict[str, str]]:
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
    asked = ("--cluster", "prod", "--scope", scope, "--source", "github", "--intent", name)
    kubeconfig = home / "kubeconfig"
    made.daemon.run("kubeconfig", *asked, "--output-file", str(kubeconfig), environment=environment)
    return kubeconfig, environment


@contextmanager
def _program(name: str, kubeconfig: Path, environment: dict[str, str], calls: Calls) -> Iterator[None]:
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
def _kubectl(name: str, kubeconfig: Path, environment: dict[str, str], calls: Calls) -> Iterator[None]:
    """kubectl, again and again: a new process each time."""
    stopped = threading.Event()
    command: list[str | Path] = [tool("kubectl"), "--kubeconfig", kubeconfig, "get", "pods", "-n", "web"]

    def run() -> None:
        while not stopped.wait(PAUSE_SECONDS):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
            calls.note(name, done.stderr if done.returncode else "")

    runner = threading.Thread(target=run)
    runner.start()
    try:
        yield
    finally:
        stopped.set()
        runner.join()
