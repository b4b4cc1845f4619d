"""The sidecar as its users run it: a process of its own beside a daemon, and what it costs."""

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.files import LOCK
from tests.daemon import Daemon

COMMAND = Path(sysconfig.get_path("scripts")) / "sidecar"
PATIENCE_SECONDS = 30


def eventually(holds: Callable[[], Any], what: str = "", patience: float = PATIENCE_SECONDS) -> Any:
    """What `holds` returns, as soon as it is true."""
    until = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < until, what or holds
        time.sleep(0.01)
    return found


@dataclass(slots=True)
class Sidecar:
    """A sidecar in a folder; `start` and `stop` as often as needed."""

    folder: Path
    daemon: Daemon
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def files(self) -> Path:
        """Where its files are, unless the flags say something else."""
        return self.folder / "files"

    @property
    def subject_token(self) -> Path:
        """Where it finds its subject token, unless the flags say something else."""
        return self.folder / "subject.jwt"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "sidecar.log"

    def command(self, *flags: str) -> list[str]:
        """The command for one token; or with --config."""
        told = (*self.flags, *flags)
        if "--config" in told:
            return [str(COMMAND), "run", "--log-format", "json", *told]
        proven = "--source" in told or "--subject-token-command" in told
        usual = [] if proven else ["--subject-token-file", str(self.subject_token)]
        place = ["--directory", str(self.files)]
        return [str(COMMAND), "run", "--log-format", "json", *usual, *place, *told]

    def start(self, *flags: str) -> None:
        """Starts it; returns at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*flags), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment()
            )

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def running(self, *flags: str) -> Iterator["Sidecar"]:
        """Started, and gone at the end."""
        self.start(*flags)
        try:
            yield self
        finally:
            self.kill()

    def once(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """The command with --once, to its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.run(
            self.command("--once", *flags),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self._environment(),
        )

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """What it said, of this kind if one is given."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in told if event in {"", each["event"]}]

    def until(self, event: str, times: int = 1) -> dict[str, Any]:
        """The event, when it was said so often."""
        eventually(lambda: len(self.events(event)) >= times, f"{event} {times} times")
        return self.events(event)[times - 1]

    def token(self) -> str | None:
        """What a reader of the file finds."""
        try:
            return (self.files / "token").read_text()
        except FileNotFoundError:
            return None

    def left(self) -> set[str]:
        """What is in the folder, but for the lock."""
        return {each.name for each in self.files.iterdir()} - {LOCK}

    def rss_mib(self) -> float:
        """Its resident memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def first_token_ms(self) -> float:
        """From the start of the process until its file is there; it runs on."""
        began = time.perf_counter()
        self.start()
        eventually((self.files / "token").exists)
        return (time.perf_counter() - began) * 1000

    def _environment(self) -> dict[str, str]:
        told = {"EXCHANGED_SERVER": self.daemon.grpc, "EXCHANGED_CA": str(self.daemon.ca)}
        return {**os.environ, **told, **self.environment}
