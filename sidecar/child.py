"""Programs of somebody else's, each in a session of its own: who is cut short ends with all that it started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping


class _Running:
    """How many run; how those end is asyncio's to see. A process has one set of children, so there is one number."""

    number = 0


async def ran(command: tuple[str, ...], *, stdout: int, environment: Mapping[str, str] | None = None) -> int:
    """Runs it to its end, whatever it leaves in the background; its exit code.

    Raises:
        OSError, ValueError: it cannot be run.
    """
    _Running.number += 1
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=stdout, env=environment, start_new_session=True
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    finally:
        _Running.number -= 1
        _bury_orphans()


async def printed(command: tuple[str, ...], largest: int) -> tuple[int, bytes]:
    """Its exit code, and what it has printed by then: what it leaves in the background may hold the pipe for ever.

    Who prints more than `largest` bytes is hung up on; what comes back is longer, too.

    Raises:
        OSError, ValueError: it cannot be run.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    raw = bytearray()
    with os.fdopen(ours, "rb", 0) as pipe:

        def take() -> bool:
            more = pipe.read(largest)
            raw.extend(more or b"")
            if more == b"" or len(raw) > largest:
                loop.remove_reader(pipe)
                pipe.close()
            return bool(more)

        loop.add_reader(pipe, take)
        try:
            code = await ran(command, stdout=theirs)
            # The last of it may have come with the end.
            while not pipe.closed and take():
                pass
        finally:
            os.close(theirs)
            if not pipe.closed:
                loop.remove_reader(pipe)
    return code, bytes(raw)


def _bury_orphans() -> None:
    """As process 1 of a container we have the children of all that ended; nobody else asks how they did."""
    if os.getpid() == 1 and not _Running.number:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
