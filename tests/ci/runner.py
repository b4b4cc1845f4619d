"""A job as GitHub's runner plays it: steps in order, command files, workflow commands, state for post steps."""

import json
import os
import re
import stat
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.issuers import FakeIssuer
from tests.lab.npm import node

ACTION = Path("deploy/ci/github").resolve()
FILES = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_STATE", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
SECONDS = 150
_COMMAND = re.compile(r"\s*::(?P<name>[^\s:]+)(?: [^:]*)?::(?P<data>.*)")


@dataclass(slots=True)
class Step:
    """A step that ran: how it ended, what it printed, and what it set."""

    code: int
    output: str
    inputs: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The workflow commands that a runner finds in the output, with their data as it reads them."""
        found = [_COMMAND.fullmatch(line) for line in self.output.splitlines()]
        return [(each["name"], _unescaped(each["data"])) for each in found if each is not None]

    def said(self, name: str) -> list[str]:
        """The data of the commands with this name."""
        return [data for command, data in self.commands if command == name]

    @property
    def error(self) -> str:
        """What it failed with."""
        assert self.code == 1, self.output
        (said,) = self.said("error")
        return said

    @property
    def kubeconfig(self) -> Any:
        """What it wrote for the steps that follow."""
        return json.loads(Path(self.outputs["kubeconfig"]).read_text())

    @property
    def shown(self) -> str:
        """What people see of the output: without the lines that are commands to mask."""
        return "\n".join(line for line in self.output.splitlines() if not line.startswith("::add-mask::"))


@dataclass(slots=True)
class Job:
    """A job in a folder, and what its steps share."""

    folder: Path
    environment: dict[str, str]
    exported: dict[str, str] = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def of(cls, folder: Path, issuer: FakeIssuer, **environment: str) -> "Job":
        """A job that may ask this issuer for OIDC tokens, unless its environment says otherwise."""
        usual = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": issuer.request_token,
            "NODE_EXTRA_CA_CERTS": str(issuer.certificate_authority),
        }
        return cls(folder, usual | environment)

    @property
    def temporary(self) -> Path:
        """RUNNER_TEMP."""
        return self.folder / "_temp"

    def main(self, **inputs: str) -> Step:
        """The action's main step; an input's name is written with _ for -."""
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        process, files = self.begin(given)
        return self.end(process, files, given)

    def begin(self, inputs: dict[str, str]) -> tuple["subprocess.Popen[str]", dict[str, Path]]:
        """The main step under way."""
        declared = action()["inputs"]
        assert inputs.keys() <= declared.keys()
        values = {name: str(declared[name].get("default", "")) for name in declared} | inputs
        environment = {f"INPUT_{name.upper()}": value for name, value in values.items()}
        return self._start([node(), ACTION / action()["runs"]["main"]], environment)

    def post(self, main: Step) -> Step:
        """The action's post step, after this main step, however that ended."""
        assert action()["runs"]["post-if"] == "always()"
        environment = {f"STATE_{name}": value for name, value in main.state.items()}
        process, files = self._start([node(), ACTION / action()["runs"]["post"]], environment)
        return self.end(process, files, {})

    def run(self, script: str) -> Step:
        """A step with a script."""
        process, files = self._start(["bash", "-e", "-c", script], {})
        return self.end(process, files, {})

    def end(self, process: "subprocess.Popen[str]", files: dict[str, Path], inputs: dict[str, str]) -> Step:
        """The step when it has ended; what it set counts however it ended."""
        output, _ = process.communicate(timeout=SECONDS)
        read = {name: _pairs(path.read_text()) for name, path in files.items()}
        step = Step(process.returncode, output, inputs, read["GITHUB_ENV"], read["GITHUB_OUTPUT"], read["GITHUB_STATE"])
        self.exported |= step.env
        return step

    def _start(
        self, command: list[Any], environment: dict[str, str]
    ) -> tuple["subprocess.Popen[str]", dict[str, Path]]:
        self.steps += 1
        workspace = self.folder / "work"
        commands = self.temporary / "_runner_file_commands"
        for folder in (workspace, commands):
            folder.mkdir(parents=True, exist_ok=True)
        files = {name: commands / f"{name.lower()}_{self.steps}" for name in FILES}
        for path in files.values():
            path.touch()
        usual = {
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RUNNER_TEMP": str(self.temporary),
            "GITHUB_WORKSPACE": str(workspace),
            **{name: str(path) for name, path in files.items()},
        }
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env=usual | self.environment | self.exported | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return process, files


def action() -> dict[str, Any]:
    """The action's metadata."""
    read: dict[str, Any] = yaml.safe_load((ACTION / "action.yml").read_text())
    return read


def advice() -> dict[str, str]:
    """What the action tells a job to do, by reason."""
    script = (
        f"import({json.dumps(str(ACTION / 'lib' / 'refusal.mjs'))}).then(m => console.log(JSON.stringify(m.ADVICE)))"
    )
    told = subprocess.run([node(), "-e", script], check=True, capture_output=True, text=True).stdout
    read: dict[str, str] = json.loads(told)
    return read


def mode(path: str | Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(Path(path).stat().st_mode)


def _pairs(text: str) -> dict[str, str]:
    """A command file as the runner reads it: NAME=VALUE, or NAME<<DELIMITER up to the delimiter."""
    pairs = {}
    lines = iter(text.splitlines())
    for line in lines:
        if not line:
            continue
        name, mark, delimiter = line.partition("<<")
        if mark and "=" not in name:
            value = []
            for each in lines:
                if each == delimiter:
                    break
                value.append(each)
            else:
                raise AssertionError(f"the delimiter of {name} does not come")
            pairs[name] = "\n".join(value)
        else:
            name, mark, rest = line.partition("=")
            assert mark, f"{line!r} is no command"
            pairs[name] = rest
    return pairs


def _unescaped(data: str) -> str:
    return data.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
