"""A job as GitLab and its runner play it: inputs, `extends`, variables, and the scripts in two shells."""

import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path("deploy/ci/gitlab")
TEMPLATE = FOLDER / "templates" / "cluster-token.yml"
SECONDS = 100


def component(**inputs: str) -> dict[str, Any]:
    """The jobs of the component, with these inputs in place; a name is written with _ for -.

    Raises:
        AssertionError: an input is missing, unknown, or not as its pattern wants it.
    """
    spec, text = TEMPLATE.read_text().split("\n---\n")
    declared = yaml.safe_load(spec)["spec"]["inputs"]
    assert inputs.keys() <= declared.keys()
    values = {}
    for name, rules in declared.items():
        values[name] = inputs.get(name, rules.get("default"))
        assert values[name] is not None, f"{name} is missing"
        assert re.fullmatch(rules["regex"].removeprefix("^").removesuffix("$"), values[name]), f"{name} does not match"

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {filled(key): filled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [filled(each) for each in node]
        return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: values[found[1]], node) if _is_text(node) else node

    jobs: dict[str, Any] = filled(yaml.safe_load(text))
    return jobs


def _is_text(node: Any) -> bool:
    return isinstance(node, str)


@dataclass(slots=True)
class GitlabJob:
    """A job that extends the component's, run by a shell."""

    folder: Path
    made: dict[str, Any]
    token: str
    number: str
    shell: str = "sh"
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """Where the component keeps what it has."""
        return self.folder / "builds" / "web.tmp" / f"exchanged-{self.number}"

    @property
    def kubeconfig(self) -> Path:
        """What KUBECONFIG names."""
        return self.state / "kubeconfig"

    def run(self, *script: str, options: str = "") -> subprocess.CompletedProcess[str]:
        """Before_script and script, in one shell."""
        process = self.start(*script, options=options)
        output, _ = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(script, process.returncode, output)

    def start(self, *script: str, options: str = "") -> "subprocess.Popen[str]":
        """The same, under way."""
        return self._start([*self.made["before_script"], *script], options)

    def after(self, options: str = "") -> subprocess.CompletedProcess[str]:
        """After_script, in a shell of its own."""
        process = self._start(self.made["after_script"], options)
        output, _ = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(["after_script"], process.returncode, output)

    def _start(self, lines: list[str], options: str) -> "subprocess.Popen[str]":
        project = self.folder / "builds" / "web"
        project.mkdir(parents=True, exist_ok=True)
        variables = {name: each["value"] for name, each in self.made["variables"].items()}
        assert not any(each["expand"] for each in self.made["variables"].values())
        environment = {
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CI_JOB_ID": self.number,
            "CI_PROJECT_DIR": str(project),
            "EXCHANGED_ID_TOKEN": self.token,
            "JOB_SCRIPT": "\n".join(lines),
        }
        # As the runner does it: errors end it, and the script's standard input is empty.
        flags = "set -eo pipefail" if self.shell == "bash" else "set -e"
        return subprocess.Popen(
            [self.shell, "-c", f'{flags}{options}\n: | eval "$JOB_SCRIPT"'],
            cwd=project,
            env=environment | variables | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
