import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.ci.pipeline import FOLDER
from tests.ci.runner import ACTION, action, advice
from tests.cli.command import run
from tests.daemon import Daemon

PAGE = Path("docs/ci.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def block(key: str) -> Any:
    """The one block of the page with this key at its top."""
    (found,) = [each for each in BLOCKS if key in each]
    return found


def _is_part(shown: Any, whole: Any) -> bool:
    """Whether all that is shown is in the whole, as it is shown."""
    if isinstance(shown, dict):
        return isinstance(whole, dict) and all(_is_part(value, whole.get(key)) for key, value in shown.items())
    if isinstance(shown, list):
        return len(shown) == len(whole) and all(map(_is_part, shown, whole))
    return bool(shown == whole)


def test_every_reason_is_explained() -> None:
    """The page says of each reason that a job is advised on what it means and whom to ask."""
    assert [reason for reason in advice() if f"`{reason}`" not in PAGE] == []


def test_every_input_is_named() -> None:
    """And of each input and output that there is one."""
    spec = next(yaml.safe_load_all((FOLDER / "templates" / "cluster-token.yml").read_text()))["spec"]
    names = {*action()["inputs"], *action()["outputs"], *spec["inputs"]}
    assert [name for name in names if not re.search(rf"[`\s]{name}[`:]", PAGE)] == []


def test_what_the_page_shows_is_in_the_examples() -> None:
    """Workflow and pipeline on the page are those of the examples, with less around them."""
    assert _is_part(block("jobs"), yaml.safe_load((ACTION / "example.yml").read_text()))
    assert _is_part(block("include"), yaml.safe_load((FOLDER / "example.gitlab-ci.yml").read_text()))


def test_the_issuers_are_accepted(tmp_path: Path) -> None:
    """A daemon takes the issuers as the page shows them."""
    daemon = Daemon.make(tmp_path, issuers=block("issuers")["issuers"])
    done = run("config", "check", daemon.config, "-o", "json")
    assert json.loads(done.out)["faults"] == []
