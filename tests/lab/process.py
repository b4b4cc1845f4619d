"""One program of a cluster: started with a pipe that ends with us, watched until ready, stopped cleanly."""

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 20


class ProgramFailed(Exception):
    """A program of the lab ended, or did not become ready; the message ends with its last lines."""


@dataclass(slots=True)
class Program:
    """A running program. It ends when its standard input does: also when this process dies."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, binary: Path, flags: list[str], folder: Path) -> "Program":
        """Starts it, with its output in NAME.log."""
        log = folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [binary, name, *flags],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={"PATH": os.defpath, "HOME": str(folder)},
                start_new_session=True,
            )
        return cls(name=name, process=process, log=log)

    def check(self) -> None:
        """Raises ProgramFailed if it has ended."""
        if self.process.poll() is not None:
            raise ProgramFailed(f"{self.name} ended with {self.process.returncode}:\n{self.last_lines()}")

    def last_lines(self, count: int = 25) -> str:
        """The end of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def stop(self) -> None:
        """Asks it to end, and makes it after a while."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
