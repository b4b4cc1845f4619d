"""The client on go-spiffe, as tests call it."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.lab.build import SPIFFE_CLIENT, built
from tests.spiffe.workload_api import WorkloadApi


@dataclass(frozen=True, slots=True)
class GoSpiffe:
    """The client with this Workload API; its commands are told in client/main.go."""

    program: Path
    address: str = ""

    @classmethod
    def of(cls, api: WorkloadApi | None = None) -> "GoSpiffe":
        """The client of this API, built if it never was."""
        return cls(_program(), api.address if api else "")

    def __call__(self, *arguments: str | Path) -> Any:
        """What a command found out; an object with `error` if it failed."""
        command = [self.program, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)

    @contextmanager
    def watch(self, count: int) -> Iterator[Iterator[Any]]:
        """So many updates of the X.509 context, as they come."""
        with subprocess.Popen(
            [self.program, "watch", str(count)], env=self._environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                yield (json.loads(line) for line in process.stdout)
            finally:
                process.kill()

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "SPIFFE_ENDPOINT_SOCKET": self.address}


@cache
def _program() -> Path:
    return built(SPIFFE_CLIENT)
