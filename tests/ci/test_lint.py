import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.runner import ACTION, action
from tests.lab.build import ACTIONLINT, built, tool

EXAMPLE = ACTION / "example.yml"


def _clean(*command: Any, **more: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.lab
def test_actionlint() -> None:
    """The example is a good workflow, and so are its scripts."""
    _clean(built(ACTIONLINT), "-shellcheck", tool("shellcheck"), "-pyflakes", "", EXAMPLE)


@pytest.mark.lab
def test_actionlint_with_the_action_at_hand(tmp_path: Path) -> None:
    """The action's metadata is sound, and the example gives it what it asks for: what it lacks would be noticed."""
    workflow = tmp_path / ".github" / "workflows" / "deploy.yml"
    workflow.parent.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    shutil.copytree(ACTION, tmp_path / "deploy" / "ci" / "github")
    text, count = re.subn(r"uses: acme/exchanged/(\S+)@[0-9a-f]{40}", r"uses: ./\1", EXAMPLE.read_text())
    assert count == 1
    workflow.write_text(text)
    _clean(built(ACTIONLINT), "-shellcheck", "", "-pyflakes", "", cwd=tmp_path)
    workflow.write_text(text.replace("scope:", "scoop:"))
    with pytest.raises(AssertionError, match="scoop"):
        _clean(built(ACTIONLINT), "-shellcheck", "", "-pyflakes", "", cwd=tmp_path)


def test_zizmor() -> None:
    """Zizmor, at its strictest, finds nothing in the action and the example."""
    _clean(tool("zizmor"), "--offline", "--no-progress", "--persona=auditor", ACTION / "action.yml", EXAMPLE)


def test_the_example_may_ask_for_its_token_and_nothing_else() -> None:
    """Permissions are none, but for the OIDC token of the one job."""
    example = yaml.safe_load(EXAMPLE.read_text())
    assert example["permissions"] == {}
    (job,) = example["jobs"].values()
    assert job["permissions"] == {"id-token": "write"}
    assert [step["uses"] for step in job["steps"] if "uses" in step] == [
        "acme/exchanged/deploy/ci/github@0123456789abcdef0123456789abcdef01234567"
    ]


def test_the_action_runs_as_it_stands() -> None:
    """What the metadata names is there, and imports nothing but Node's own modules and its neighbours."""
    runs = action()["runs"]
    assert (ACTION / runs["main"]).exists()
    assert (ACTION / runs["post"]).exists()
    for path in ACTION.rglob("*.mjs"):
        for source in re.findall(r'from "([^"]+)"', path.read_text()):
            assert source.startswith("node:") or (path.parent / source).exists(), (path, source)
    assert not [path.name for path in ACTION.rglob("*") if path.name in {"package.json", "node_modules"}]
