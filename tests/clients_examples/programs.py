"""The examples of docs/examples as their readers would run them, built once for each state of their files.

Go's stubs are generated here, from proto/, and kept nowhere: what an author does is what is tried, and there is nothing
to fall behind the contract.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lab import npm
from tests.lab.build import BuildError, Program, built, cache_folder, tool

EXAMPLES = Path("docs/examples").resolve()
PROTO = Path("proto").resolve()
CONTRACT = "exchanged/v1/exchange.proto"
_GENERATORS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
}
"""What the example's go.mod lists as tools."""


def go() -> list[str | Path]:
    """The command of the Go example, built after `go generate`, for which protoc is the one of grpcio-tools.

    Raises:
        BuildError: it does not build.
    """
    source = EXAMPLES / "go"
    digest = _digest(*(path for path in sorted(source.iterdir()) if path.is_file()), PROTO / CONTRACT)
    target = cache_folder() / "examples" / f"go-{digest}"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        module, programs = scratch / "docs" / "examples" / "go", scratch / "bin"
        shutil.copytree(source, module)
        (scratch / "proto").symlink_to(PROTO)
        programs.mkdir()
        for name, package in _GENERATORS.items():
            (programs / name).symlink_to(built(Program(name=name, module=source, package=package)))
        protoc = programs / "protoc"
        protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
        protoc.chmod(0o755)
        _run([tool("go"), "generate", "."], module, {"PATH": f"{programs}:{os.environ['PATH']}"})
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


def _run(command: list[str | Path], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))} failed in {folder}:\n{done.stderr}")


def _put(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(scratch)


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() + b"\0" for file in files)).hexdigest()[:16]
