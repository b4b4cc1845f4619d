"""The examples of docs/examples as their readers would run them, built once for each state of their files.

Go's stubs are generated here, from proto/, and kept nowhere: what an author does is what is tried, and there is nothing
to fall behind the contract.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab import build, npm
from tests.lab.build import BuildError, Program, built, cache_folder, tool

EXAMPLES = Path("docs/examples").resolve()
PROTO = Path("proto").resolve()
CONTRACT = "exchanged/v1/exchange.proto"
PAGE = Path("docs/clients.md").resolve()


def go_line() -> str:
    """What the page has an author type, up to the program's arguments."""
    found = re.search(r"`(go install .* go run \.) SERVER CLUSTER SCOPE TOKEN_FILE`", PAGE.read_text())
    assert found is not None
    return found[1]


def go_place(folder: Path) -> tuple[Path, dict[str, str]]:
    """Where to type it, and the environment of somebody who has go and protoc and has installed nothing with them.

    protoc is the one of grpcio-tools.
    """
    module, programs = folder / "docs" / "examples" / "go", folder / "programs"
    shutil.copytree(EXAMPLES / "go", module, ignore=shutil.ignore_patterns("exchangedv1"))
    (folder / "proto").symlink_to(PROTO)
    programs.mkdir()
    (programs / "go").symlink_to(tool("go"))
    protoc = programs / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
    protoc.chmod(0o755)
    path = f"{programs}:{os.defpath}"
    return module, {**build._environment(), "PATH": path, "GOPATH": str(folder / "gopath"), "GOBIN": ""}


def go() -> list[str | Path]:
    """The command of the Go example, built after all of the page's line but its end.

    Raises:
        BuildError: it does not build.
    """
    source, line = EXAMPLES / "go", go_line().removesuffix(" && go run .")
    files = (path for path in sorted(source.iterdir()) if path.is_file())
    digest = _digest(line.encode(), *(file.read_bytes() for file in files), (PROTO / CONTRACT).read_bytes())
    target = cache_folder() / "examples" / f"go-{digest}"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        module, environment = go_place(scratch)
        _run(["/bin/sh", "-c", line], module, environment)
        _put(scratch, target)
    return [built(Program(name=f"example-{digest}", module=target / "docs" / "examples" / "go", package="."))]


def node(folder: Path) -> list[str | Path]:
    """The command of the Node example, laid into `folder` beside the contract, with the packages of its lock.

    Raises:
        BuildError: the packages cannot be had.
    """
    place = folder / "docs" / "examples" / "node"
    place.mkdir(parents=True)
    shutil.copy(EXAMPLES / "node" / "exchange.mjs", place)
    (place / "node_modules").symlink_to(npm.installed(EXAMPLES / "node") / "node_modules")
    (folder / "proto").symlink_to(PROTO)
    return [npm.node(), place / "exchange.mjs"]


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed in {folder}:\n{done.stderr}")


def _put(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(scratch)


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(each + b"\0" for each in contents)).hexdigest()[:16]
