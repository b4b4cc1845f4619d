"""The page on the sidecar shows what the sidecar takes, and names all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import command, health, settings_file
from sidecar.hooks import Hooks
from sidecar.sources import KINDS
from tests.unit.sidecar.keeping import make

PAGE = Path("docs/sidecar.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
POD = next(yaml.safe_load(block) for block in BLOCKS if "kind: Pod" in block)
CONFIG = next(block for block in BLOCKS if "kind: Sidecar" in block)


def test_the_configuration(tmp_path: Path) -> None:
    """It has no fault, and shows each kind of hook."""
    (tmp_path / "sidecar.yaml").write_text(CONFIG)
    made = settings_file.load(tmp_path / "sidecar.yaml", {})
    prod, test = made.tokens
    assert [bool(hook.signal) for hook in prod.hooks] == [True, False, False]
    assert (prod.source.kind, test.source.kind, test.files) == ("file", "x509-svid", None)


def test_every_key_is_explained() -> None:
    """Whatever the file may say, the page names."""
    keys = set(re.findall(r'\.(?:take|inner|inners)\("(\w+)"', Path("sidecar/settings_file.py").read_text()))
    assert len(keys) > 25
    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", PAGE)) == []
    assert [kind for kind in KINDS if f"`{kind}`" not in PAGE] == []


def test_the_pod(capsys: pytest.CaptureFixture[str]) -> None:
    """Its flags are flags; what it mounts and probes is what the sidecar reads and serves."""
    (sidecar,) = POD["spec"]["initContainers"]
    assert (sidecar["restartPolicy"], sidecar["command"]) == ("Always", ["sidecar", "run"])
    with pytest.raises(SystemExit) as ended:
        command.main([*sidecar["args"], "--help"])
    assert ended.value.code == 0
    flags = dict(each.removeprefix("--").partition("=")[::2] for each in sidecar["args"])
    help_text = capsys.readouterr().out
    assert [flag for flag in flags if f"--{flag}" not in help_text] == []
    mounts = {each["name"]: each["mountPath"] for each in sidecar["volumeMounts"]}
    assert mounts["cluster"] == flags["directory"]
    assert flags["ca"].startswith(mounts["proof"])
    ports = {sidecar[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")}
    assert ports == {int(flags["health-listen"].removeprefix(":"))}


def test_every_flag_and_figure_is_named(tmp_path: Path) -> None:
    """Or is in the help, which the page does not repeat; figures are all there."""
    kept = [(make(tmp_path).keeper, Hooks((), "prod"))]
    names = set(re.findall(r"^(sidecar_\w+)", health.answering(kept)("/metrics").body, re.MULTILINE))
    assert sorted(name for name in names - {"sidecar_info"} if f"`{name}`" not in PAGE) == []


def test_reasons_are_those_of_the_daemon() -> None:
    """None is made up."""
    known = set(re.findall(r"`([A-Z_]{5,})`", Path("docs/errors.md").read_text()))
    variables = {"EXCHANGED_ID_TOKEN", "EXCHANGED_AUDIENCE", "SPIFFE_ENDPOINT_SOCKET"}
    told = {each for each in re.findall(r"`([A-Z_]{5,})`", PAGE) if not each.startswith(("SIDECAR_", "KUBERNETES_"))}
    assert told - variables - {"CHOWN"} - known == set()


LEAN = """
import json, sys
from sidecar.cli import main
sys.argv = ["sidecar", "run", "--once", "--wait", "0", "--server", "127.0.0.1:1", *sys.argv[1:]]
code = main()
print(json.dumps([code, sorted(sys.modules)]))
"""


def test_nothing_large_is_imported(tmp_path: Path) -> None:
    """With a file as source, what costs memory in every pod stays out: TLS beside gRPC's, HTTP, YAML, archives."""
    (tmp_path / "token").write_text("proof")
    command_line = [
        sys.executable,
        "-c",
        LEAN,
        "--subject-token-file",
        str(tmp_path / "token"),
        "--directory",
        str(tmp_path / "f"),
    ]
    done = subprocess.run(command_line, capture_output=True, text=True, check=True, timeout=60)
    told: Any = json.loads(done.stdout)
    assert told[0] == 3, done.stderr
    large = {"ssl", "_ssl", "_hashlib", "http", "email", "urllib.request", "yaml", "shutil", "tempfile", "uvloop"}
    others = {"spiffe", "cryptography", "pydantic", "aiohttp", "exchanged.model", "exchanged.config", "typer", "rich"}
    assert (large | others) & set(told[1]) == set()
