"""The daemon as its users run it: a process of its own, on free ports, with a configuration in a folder."""

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.process import free_ports

COMMAND = Path(sysconfig.get_path("scripts")) / "exchanged"
START_SECONDS = 30


@dataclass(slots=True)
class Daemon:
    """A daemon in a folder; `start` and `stop` as often as needed."""

    folder: Path
    settings: dict[str, Any]
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(
        cls,
        folder: Path,
        *,
        issuers: dict[str, Any],
        clusters: dict[str, Any] | None = None,
        policies: dict[str, str] | None = None,
        doors: dict[str, dict[str, Any]] | None = None,
        **more: Any,
    ) -> "Daemon":
        """Writes configuration and policies; free ports, a cluster without an API server unless told otherwise.

        `doors` are further ones, and what the usual ones have besides their ports.
        """
        folder.mkdir(parents=True, exist_ok=True)
        opened: dict[str, dict[str, Any]] = {"grpc": {}, "http": {}, "authorizer": {}, **(doors or {})}
        ports = dict(zip(opened, free_ports(len(opened)), strict=True))
        settings = {
            "apiVersion": "exchanged.dev/v1alpha1",
            "kind": "Configuration",
            "issuer": f"https://127.0.0.1:{ports['http']}",
            "state": "state",
            "policies": "policies",
            "doors": {name: {"listen": f"127.0.0.1:{ports[name]}", **opened[name]} for name in opened},
            "issuers": issuers,
            "clusters": clusters or {"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443"}},
            **more,
        }
        daemon = cls(folder, settings, ports)
        daemon.write()
        (folder / "policies").mkdir(exist_ok=True)
        for name, text in (policies or {}).items():
            (folder / "policies" / name).write_text(text)
        return daemon

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "exchanged.yaml"

    @property
    def ca(self) -> Path:
        """Who vouches for its doors."""
        return self.folder / "state" / "ca" / "ca.crt"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "exchanged.log"

    @property
    def url(self) -> str:
        """Its HTTP door, and its name as an issuer."""
        return str(self.settings["issuer"])

    @property
    def grpc(self) -> str:
        """Its gRPC door."""
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def mtls(self) -> str:
        """Its gRPC door for callers with a certificate."""
        return f"localhost:{self.ports['mtls']}"

    def write(self) -> None:
        """Writes the configuration."""
        self.config.write_text(json.dumps(self.settings, indent=2))

    def start(self, *, prefix: tuple[str, ...] = (), patience: float = START_SECONDS) -> None:
        """Starts it; returns when it answers on its socket, ready or not.

        Raises:
            AssertionError: it ended, or does not answer; with its log.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, COMMAND, "serve", "--config", self.config, "--log-format", "json"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until = time.monotonic() + patience
        while self.run("status", "-o", "json", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the daemon did not start:\n{self.log.read_text()}")

    def wait_ready(self) -> None:
        """Returns when it could issue a grant."""
        until = time.monotonic() + START_SECONDS
        while not (status := self.json("status"))["ready"]:
            if time.monotonic() > until:
                raise AssertionError(f"not ready: {status}\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM; returns its exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(40)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def running(self) -> Iterator["Daemon"]:
        """Started, ready, and stopped at the end."""
        try:
            self.start()
            self.wait_ready()
            yield self
        finally:
            self.kill() if sys.exc_info()[0] else self.stop()

    def run(
        self,
        *arguments: str,
        check: bool = True,
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command of `exchanged` that talks to it."""
        done = subprocess.run(
            [COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "EXCHANGED_CONFIG": str(self.config),
                "EXCHANGED_SERVER": self.grpc,
                "EXCHANGED_CA": str(self.ca),
                **(environment or {}),
            },
        )
        if check and done.returncode:
            raise AssertionError(f"exchanged {' '.join(arguments)}: {done.stderr}")
        return done

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def exchange(self, subject_token: str, **options: str) -> Any:
        """An exchange from a shell: all of the reply."""
        flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        arguments = ("token", "get", "--source", "stdin", "-o", "json", *flags)
        return json.loads(self.run(*arguments, stdin=subject_token).stdout)
