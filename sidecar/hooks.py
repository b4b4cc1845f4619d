"""What is done when a token changed: a signal to a process, a command, an HTTP call. None of them gets the token."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sidecar.advice import why
from sidecar.child import ran
from sidecar.settings import HookSettings
from sidecar.sources import read_file

log = logging.getLogger("sidecar")

SECONDS = 30.0
"""For one command or call."""
PAUSES = (1.0, 5.0, 15.0)
"""Before a hook that failed is tried again: at the start the workload may not be there yet."""


class HookFailed(Exception):
    """What was to be told was not."""


class Hooks:
    """The hooks of one token: one run at a time, and what came meanwhile is one more run."""

    def __init__(self, hooks: tuple[HookSettings, ...], name: str) -> None:
        self._hooks = hooks
        self._name = name
        self._event: dict[str, str] | None = None
        self._came, self._told = asyncio.Event(), asyncio.Event()
        self._told.set()
        self.done = 0
        self.failed = 0

    def changed(self, event: Mapping[str, str]) -> None:
        """Notes a change, of which the hooks are told soon."""
        self._event = dict(event)
        if self._hooks:
            self._told.clear()
        self._came.set()

    async def told(self) -> None:
        """Returns when there is nothing that was not told, or given up."""
        await self._told.wait()

    async def run(self) -> None:
        """Tells of changes until cancelled; what was not told yet of an older one is not told any more."""
        while self._hooks:
            await self._came.wait()
            self._came.clear()
            event = self._event or {}
            await asyncio.gather(*(self._tell(hook, event) for hook in self._hooks))
            if not self._came.is_set():
                self._told.set()

    async def _tell(self, hook: HookSettings, event: Mapping[str, str]) -> None:
        for pause in (*PAUSES, None):
            try:
                await perform(hook, event)
            except HookFailed as error:
                told = {"token": self._name, "why": str(error), "again_in_seconds": pause}
                log.warning("hook failed", extra=told)
            except Exception:
                # Whatever it is, the token is worth more than its hook.
                log.exception("this should not happen", extra={"token": self._name})
            else:
                self.done += 1
                return
            if pause is None or await self._newer(pause):
                break
        self.failed += 1

    async def _newer(self, pause: float) -> bool:
        """Waits; whether another change came meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._came.wait()
        return self._came.is_set()


async def perform(hook: HookSettings, event: Mapping[str, str]) -> None:
    """Does one thing.

    Raises:
        HookFailed: it was not done.
    """
    try:
        async with asyncio.timeout(SECONDS):
            if hook.command:
                await _run(hook.command, event)
            elif hook.url:
                await _call(hook.url, event)
            else:
                _signal(hook)
    except TimeoutError as error:
        raise HookFailed(f"{hook.url or hook.command[0]} takes longer than {SECONDS:g} s") from error


async def _run(command: tuple[str, ...], event: Mapping[str, str]) -> None:
    environment = {f"SIDECAR_{name.upper()}": value for name, value in event.items()}
    try:
        # Standard output is nobody's; what it says goes where we say things.
        code = await ran(command, stdout=2, environment={**os.environ, **environment})
    except (OSError, ValueError) as error:
        raise HookFailed(f"{command[0]} cannot be run: {why(error)}") from error
    if code:
        raise HookFailed(f"{command[0]} ended with {code}")


async def _call(url: str, event: Mapping[str, str]) -> None:
    parts = urlsplit(url)
    body = json.dumps(event).encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except (OSError, ValueError) as error:
        raise HookFailed(f"{url}: nobody answers ({why(error)})") from error
    try:
        writer.write(head.encode() + body)
        await writer.drain()
        line = (await reader.readline()).split()
    except (OSError, ValueError) as error:
        raise HookFailed(f"{url}: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if len(line) < 2 or not line[0].startswith(b"HTTP/") or not line[1].startswith(b"2"):  # noqa: PLR2004 - version, status
        raise HookFailed(f"{url} answers {line[1].decode(errors='replace') if len(line) > 1 else 'nothing'}")


def _signal(hook: HookSettings) -> None:
    numbers = _of_file(hook.pid_file) if hook.pid_file else _of_name(hook.process)
    if not numbers:
        raise HookFailed(f"no process is called {hook.process}; do its container and this one share process ids?")
    for number in numbers:
        try:
            os.kill(number, hook.signal)
        except (OSError, OverflowError) as error:
            raise HookFailed(f"process {number}: {why(error)}; it has to be of the same user") from error


def _of_file(file: Path) -> list[int]:
    try:
        number = int(read_file(file).strip())
    except (OSError, ValueError) as error:
        raise HookFailed(f"{file} has no process id: {error}") from error
    if number <= 1:
        # 0 and below are groups of processes, ours among them; where process ids are shared, 1 is no workload.
        raise HookFailed(f"{file}: {number} is not the process id of a workload")
    return [number]


def _of_name(name: str) -> list[int]:
    """Processes whose program is called so; of those that started one another, the first."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The name that the kernel has is cut at 15 characters; what a process calls itself may be a sentence.
            before, _, after = (folder / "stat").read_text(errors="replace").rpartition(")")
            program = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            if name in {before.partition("(")[2], Path(program).name, program}:
                found[int(folder.name)] = int(after.split()[1])
    return [number for number, parent in found.items() if parent not in found]
