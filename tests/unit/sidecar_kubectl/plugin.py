"""A user with a cache folder, who runs `sidecar exec-credential` as kubectl does, beside a real daemon."""

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.daemon import Daemon
from tests.issuers import FakeIssuer

COMMAND = Path(sysconfig.get_path("scripts")) / "sidecar"
PATIENCE_SECONDS = 10


@dataclass(slots=True)
class Plugin:
    """A user with a cache folder, who runs the plugin for one ask."""

    daemon: Daemon
    issuer: FakeIssuer
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, *more: str, scope: str = "read-pods/pods") -> list[str]:
        """What a kubeconfig would hold."""
        asked = [f"--server={self.daemon.grpc}", f"--ca={self.daemon.ca}", "--cluster=prod", f"--scope={scope}"]
        return [*asked, "--source=github", *more]

    def variables(self) -> dict[str, str]:
        """Its environment: a job of GitHub Actions."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer.url}/token",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.issuer.request_token,
            "ACTIONS_ID_TOKEN_CA": str(self.issuer.certificate_authority),
            "EXCHANGED_AUDIENCE": self.issuer.audience,
            **self.environment,
        }

    def run(
        self, *more: str, info: Any = None, scope: str = "read-pods/pods", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs it as kubectl does; `info` is KUBERNETES_EXEC_INFO."""
        environment = self.variables()
        if info:
            environment["KUBERNETES_EXEC_INFO"] = info if isinstance(info, str) else json.dumps(info)
        command = [str(COMMAND), "exec-credential", *self.arguments(*more, scope=scope)]
        return subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
        )

    def token(self, *more: str, **options: Any) -> str:
        """The token that it gives."""
        done = self.run(*more, **options)
        assert done.returncode == 0, done.stderr
        return token_of(done.stdout)

    @property
    def entries(self) -> list[Path]:
        """The files with a token in its cache."""
        folder = self.home / ".cache" / "exchanged"
        return [file for file in folder.iterdir() if not file.suffix] if folder.exists() else []

    @property
    def entry(self) -> Path:
        """The one file with a token in its cache."""
        (found,) = self.entries
        return found

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Its entry as it would be in other circumstances."""
        told = json.loads(self.entry.read_text())
        change(told)
        self.entry.write_text(json.dumps(told))


def token_of(answer: str) -> str:
    """The token of an ExecCredential."""
    return str(json.loads(answer)["status"]["token"])


def aged(told: dict[str, Any]) -> None:
    """With a tenth of its life left."""
    age = 0.9 * (told["expires_at"] - told["fetched_at"])
    told["fetched_at"] -= age
    told["expires_at"] -= age
    told["boot_seconds"] -= age


def until(condition: Callable[[], bool]) -> None:
    """Waits for it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
