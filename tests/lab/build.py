"""Builds the lab's programs from public Go modules, once for each set of sources, into a cache outside the checkout."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KUBERNETES_VERSION = "v1.37.2"
_VERSION = "k8s.io/component-base/version"
_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES_VERSION} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=37 "
    f"-X {_VERSION}.gitTreeState=clean"
)
PACKAGES_IN_ALL = 2_100
"""About how many packages a full build compiles; only for the progress that it shows."""


class BuildError(Exception):
    """A program of the lab could not be built; the message says where the output is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A Go program of the lab: the folder with its go.mod, what to build in it, and how to call it."""

    name: str
    module: Path
    package: str
    ldflags: str = "-s -w"


SERVER = Program(name="lab-server", module=HERE / "server", package=".", ldflags=_LDFLAGS)
LOAD = Program(name="load", module=HERE.parent / "bench" / "load", package=".")
GRPCURL = Program(name="grpcurl", module=HERE / "grpcurl", package="github.com/fullstorydev/grpcurl/cmd/grpcurl")
ACTIONLINT = Program(
    name="actionlint", module=HERE.parent / "ci" / "actionlint", package="github.com/rhysd/actionlint/cmd/actionlint"
)
SPIFFE_CLIENT = Program(name="spiffe-client", module=HERE.parent / "spiffe" / "client", package=".")
CLIENT_GO = Program(name="client-go", module=HERE.parent / "clients" / "go", package=".")


def cache_folder() -> Path:
    """Where builds are kept: EXCHANGED_LAB_CACHE, or exchanged-lab in the user's cache folder."""
    named = os.environ.get("EXCHANGED_LAB_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exchanged-lab"


def built(program: Program) -> Path:
    """The program's path, after building it if these sources were never built here.

    Raises:
        BuildError: the build failed.
    """
    target = cache_folder() / f"{program.name}-{_key(program)}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f"{program.name}.lock"):
            if not target.exists():
                _build(program, target)
    return target


def tool(name: str) -> Path:
    """A program that a Python package installed beside the interpreter (go, kubectl).

    Raises:
        BuildError: it is not there.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise BuildError(f"{name} is not installed beside {sys.executable}; run `make test` once, or `make lab`")
    return path


def _key(program: Program) -> str:
    digest = hashlib.sha256()
    for source in sorted(program.module.iterdir()):
        if source.suffix in {".go", ".mod", ".sum"}:
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    digest.update(program.ldflags.encode())
    digest.update(subprocess.run([tool("go"), "version"], check=True, capture_output=True, env=_environment()).stdout)
    digest.update(platform.machine().encode())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process is building the lab; waiting for it …", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _environment() -> dict[str, str]:
    go = cache_folder() / "go"
    return {
        "GOCACHE": str(go / "build"),
        "GOMODCACHE": str(go / "mod"),
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
    }


def _build(program: Program, target: Path) -> None:
    scratch = target.with_suffix(f".{os.getpid()}")
    output = target.with_suffix(".log")
    command: list[str | Path] = [tool("go"), "build", "-v", "-trimpath", "-ldflags", program.ldflags]
    command += ["-o", scratch, program.package]
    long = "; about 6 minutes on 2 cores" if program is SERVER else ""
    print(f"Building {program.name} from its public modules, once{long}.", file=sys.stderr)
    started = time.monotonic()
    with (
        output.open("w") as log,
        subprocess.Popen(
            command, cwd=program.module, env=_environment(), stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        ) as process,
    ):
        assert process.stderr is not None
        compiled = 0
        for line in process.stderr:
            log.write(line)
            compiled += not line.startswith("go: ")
            _show_progress(line, compiled, time.monotonic() - started)
    if process.returncode:
        last = "".join(output.read_text().splitlines(keepends=True)[-15:])
        raise BuildError(f"building {program.name} failed (all of its output: {output}):\n{last}")
    scratch.replace(target)
    print(f"\nBuilt {target} in {time.monotonic() - started:.0f} s.", file=sys.stderr, flush=True)


def _show_progress(line: str, compiled: int, seconds: float) -> None:
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        text = f"{seconds:4.0f} s  {compiled:5d} packages of about {PACKAGES_IN_ALL}  {line.strip()}"
        print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
    elif compiled % 100 == 0 and compiled:
        print(f"{seconds:4.0f} s  {compiled:5d} packages compiled", file=sys.stderr, flush=True)
