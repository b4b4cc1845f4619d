"""The README's commands do what it says: each is run as it stands, in the folder of a running daemon."""

import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.daemon import COMMAND, Daemon
from tests.issuers import FakeIssuer
from tests.policies import demo

README = Path("README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^    (exchanged .*)$", README, re.MULTILINE)]
BLOCK = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeIssuer]]:
    """A daemon whose configuration and only policy are those of the README."""
    assert BLOCK is not None
    made = tmp_path_factory.mktemp("readme")
    with FakeIssuer.served(made / "issuer") as issuer:
        daemon = Daemon.make(
            made / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            clusters={"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}},
            policies={"deploy-web.yaml": BLOCK[1]},
        )
        (daemon.folder / "job.jwt").write_text(issuer.github_token())
        with daemon.running():
            yield daemon, issuer


def test_the_policy_is_the_one_of_the_demo() -> None:
    """The README shows the policy that the demo plays."""
    assert BLOCK is not None
    assert yaml.safe_load(BLOCK[1]) == yaml.safe_load(demo())


def _parts() -> list[str]:
    return [part.strip() for command in COMMANDS for part in command.split(";")]


@pytest.mark.parametrize("command", _parts())
def test_command(folder: tuple[Daemon, FakeIssuer], command: str) -> None:
    """The command succeeds."""
    daemon, issuer = folder
    words = shlex.split(command.replace("exchanged.example:443", daemon.grpc))
    environment = {
        **os.environ,
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "EXCHANGED_CONFIG": "exchanged.yaml",
        "EXCHANGED_CA": str(daemon.ca),
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": issuer.request_token,
        "ACTIONS_ID_TOKEN_CA": str(issuer.certificate_authority),
        "EXCHANGED_AUDIENCE": issuer.audience,
    }
    if words[1] == "serve":
        # One is running already in this state folder, and says so to the second.
        done = subprocess.run(
            [COMMAND, *words[1:]],
            cwd=daemon.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "another daemon uses" in done.stderr
        return
    with subprocess.Popen(
        [COMMAND, *words[1:]],
        cwd=daemon.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if words[-1] == "follow":
            assert process.stdout is not None
            assert process.stdout.readline()
            process.terminate()
            return
        told, wrong = process.communicate(timeout=30)
        assert process.returncode == 0, told + wrong
