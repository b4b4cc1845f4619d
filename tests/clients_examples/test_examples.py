"""The examples for authors of clients: built, run against a daemon, and what they make of its answers."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients_examples import programs
from tests.daemon import Daemon
from tests.fixtures import Running
from tests.issuers import FakeIssuer
from tests.lab.build import tool
from tests.lab.process import free_ports
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
"""They are built on first use, like the lab."""
SCOPE = "deploy-web/rollout"
SECONDS = 60


@pytest.fixture(params=["go", "node"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str | Path]:
    """How an example is called."""
    return programs.go() if request.param == "go" else programs.node(tmp_path / "example")


@contextmanager
def _running(
    command: list[str | Path], daemon: Daemon, token_file: Path, scope: str = SCOPE
) -> Iterator["subprocess.Popen[str]"]:
    environment = {"PATH": os.defpath, "EXCHANGED_CA": str(daemon.ca)}
    process = subprocess.Popen(
        # Node does not like to ask an IP address for its certificate.
        [*command, f"localhost:{daemon.ports['grpc']}", "prod", scope, token_file],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _written(file: Path, issuer: FakeIssuer) -> Path:
    # A subject of this module's own: of each only so many refusals a minute are on record.
    file.write_text(issuer.github_token(sub="repo:acme/web:examples") + "\n")
    return file


def test_exchanged_used_and_given_back(command: list[str | Path], running: Running, tmp_path: Path) -> None:
    """What came is shown, with when to come again; the grant is over when the program is."""
    subject = _written(tmp_path / "token", running.issuer)
    with _running(command, running.daemon, subject) as process:
        told, wrong = process.communicate(timeout=SECONDS)
    assert (process.returncode, wrong) == (0, "")
    granted, life, given_back = told.splitlines()
    found = re.fullmatch(r"granted deploy-web/rollout as (\S+) at https://127.0.0.1:6443", granted)
    assert found is not None, granted
    assert re.match(r"good for (5m0s|4m59s|300s|299s), to be replaced after ", life)
    assert given_back == "given back"
    assert running.daemon.json("grants", "show", found[1])["state"] in {"revoked", "withdrawn"}


def test_a_refusal_is_told_with_its_reason_and_not_repeated(
    command: list[str | Path], running: Running, tmp_path: Path
) -> None:
    """One request, one sentence: the daemon's message, the reason, and the id of the record."""
    subject = _written(tmp_path / "token", running.issuer)
    with _running(command, running.daemon, subject, scope="deploy-web/other") as process:
        told, wrong = process.communicate(timeout=SECONDS)
    assert (process.returncode, told) == (1, "")
    found = re.fullmatch(r"The requested scope is not granted\. \[SCOPE_UNKNOWN, request (\S+)\]\n", wrong)
    assert found is not None, wrong
    assert found[1] in str(running.daemon.json("records", "list", "--limit", "200"))


def test_the_daemon_is_waited_for(command: list[str | Path], tmp_path: Path) -> None:
    """While it cannot say, the pause is what it asks for and more; then it is shown what the file holds by then."""
    subject = tmp_path / "token"
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        clusters = {"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}}
        issuers = {"github": issuer.settings(profile="github")}
        policies = {"web.yaml": policy("deploy-web")}
        daemon = Daemon.make(tmp_path / "daemon", issuers=issuers, clusters=clusters, policies=policies)
        issuer.broken = True
        try:
            daemon.start()
            _written(subject, issuer)
            with _running(command, daemon, subject) as process:
                said = _said(process)
                assert said.startswith("The service cannot answer now; try again. [KEYS_UNAVAILABLE, request "), said
                assert 5 <= _pause(said) <= 6
                issuer.broken = False
                _written(subject, issuer)
                told, _ = process.communicate(timeout=SECONDS)
            assert (process.returncode, told.splitlines()[-1]) == (0, "given back")
        finally:
            daemon.stop()


def test_a_daemon_that_is_not_there_is_waited_for(command: list[str | Path], running: Running, tmp_path: Path) -> None:
    """Nobody said no: it is tried again, with full jitter."""
    away = Daemon(tmp_path, {}, {"grpc": free_ports(1)[0]})
    away.ca.parent.mkdir(parents=True)
    away.ca.write_bytes(running.daemon.ca.read_bytes())
    with _running(command, away, _written(tmp_path / "token", running.issuer)) as process:
        first, second = _said(process), _said(process)
    assert first.startswith("no answer: ")
    assert second.startswith("no answer: ")
    assert _pause(first) <= 1
    assert _pause(second) <= 2


def test_the_line_of_the_page_runs_as_it_stands(running: Running, tmp_path: Path) -> None:
    """With nothing of Go's installed before, the Go example is made and run by what the page has one type."""
    subject = _written(tmp_path / "token", running.issuer)
    folder, environment = programs.go_place(tmp_path / "example")
    done = subprocess.run(
        ["/bin/sh", "-c", f'{programs.go_line()} "$@"', "sh", running.daemon.grpc, "prod", SCOPE, subject],
        cwd=folder,
        env={**environment, "EXCHANGED_CA": str(running.daemon.ca)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "given back"


def test_the_go_example_is_as_go_would_have_it() -> None:
    """It is formatted as gofmt does."""
    source = programs.EXAMPLES / "go"
    command: list[str | Path] = [tool("go"), "run", "cmd/gofmt", "-l", source]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def _said(process: "subprocess.Popen[str]") -> str:
    """The next line of what goes wrong."""
    assert process.stderr is not None
    return process.stderr.readline()


def _pause(line: str) -> float:
    found = re.search(r"trying again in ([\d.]+) ?(ms|s)$", line.strip())
    assert found is not None, line
    return float(found[1]) / (1_000 if found[2] == "ms" else 1)
