"""What is done on a change, with real processes and a real server."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar import hooks
from sidecar.hooks import HookFailed, Hooks, perform
from sidecar.settings import HookSettings

EVENT = {"event": "granted", "name": "prod", "directory": "/files"}


@asynccontextmanager
async def _waiting(folder: Path, name: str = "workload") -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process that is called so, and writes a file when it is sent SIGUSR1."""
    program = folder / name
    program.symlink_to("/bin/sh")
    script = f"trap 'echo > {folder}/told' USR1; echo > {folder}/up; while :; do sleep 0.02; done"
    with subprocess.Popen([program, "-c", script]) as process:
        try:
            await _eventually((folder / "up").exists)
            yield process
        finally:
            process.kill()


async def _eventually(holds: Callable[[], object]) -> None:
    """Returns when it holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it does not come to hold")


async def test_a_signal_to_a_process_by_name(tmp_path: Path) -> None:
    """Every process whose program is called so has it."""
    async with _waiting(tmp_path, f"workload-{os.getpid()}"):
        await perform(HookSettings(signal=signal.SIGUSR1, process=f"workload-{os.getpid()}"), EVENT)
        await _eventually((tmp_path / "told").exists)


async def test_of_a_family_the_first_is_signalled(tmp_path: Path) -> None:
    """A server's workers are its own to tell."""
    name = f"server-{os.getpid()}"
    (tmp_path / name).symlink_to("/bin/sh")
    inner = f"trap 'echo > {tmp_path}/inner-told' USR1; echo > {tmp_path}/inner-up; while :; do sleep 0.02; done"
    outer = f"trap 'echo > {tmp_path}/told' USR1; {tmp_path}/{name} -c \"$INNER\" & while :; do sleep 0.02; done"
    environment = {**os.environ, "INNER": inner}
    with subprocess.Popen([tmp_path / name, "-c", outer], env=environment, start_new_session=True) as process:
        try:
            await _eventually((tmp_path / "inner-up").exists)
            await perform(HookSettings(signal=signal.SIGUSR1, process=name), EVENT)
            await _eventually((tmp_path / "told").exists)
            assert not (tmp_path / "inner-told").exists()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def test_a_signal_to_a_process_by_its_pid_file(tmp_path: Path) -> None:
    """The number is read each time."""
    async with _waiting(tmp_path) as process:
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        await perform(HookSettings(signal=signal.SIGUSR1, pid_file=tmp_path / "pid"), EVENT)
        await _eventually((tmp_path / "told").exists)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1", "9" * 30])
async def test_a_pid_file_that_names_no_workload(tmp_path: Path, text: str) -> None:
    """Neither a group of processes nor the first one is signalled."""
    (tmp_path / "pid").write_text(text)
    with pytest.raises(HookFailed, match="process"):
        await perform(HookSettings(signal=signal.SIGUSR1, pid_file=tmp_path / "pid"), EVENT)


async def test_nobody_is_called_so() -> None:
    """It is said what may be missing."""
    with pytest.raises(HookFailed, match="share process ids"):
        await perform(HookSettings(signal=signal.SIGUSR1, process="nobody-is-called-so"), EVENT)


async def test_a_command(tmp_path: Path) -> None:
    """It is told what happened in its environment."""
    script = f'echo "$SIDECAR_EVENT $SIDECAR_NAME $SIDECAR_DIRECTORY" > {tmp_path}/told'
    await perform(HookSettings(command=("/bin/sh", "-c", script)), EVENT)
    assert (tmp_path / "told").read_text() == "granted prod /files\n"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/bin/sh", "-c", "exit 3"), "ended with 3"),
        (("/no/such",), "cannot be run"),
        (("/bin/true", "\0"), "cannot be run"),
    ],
)
async def test_a_command_that_fails(command: tuple[str, ...], why: str) -> None:
    """It is said how."""
    with pytest.raises(HookFailed, match=why):
        await perform(HookSettings(command=command), EVENT)


async def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it started."""
    monkeypatch.setattr(hooks, "SECONDS", 0.3)
    script = f"sleep 100 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(HookFailed, match="takes longer"):
        await perform(HookSettings(command=("/bin/sh", "-c", script)), EVENT)
    number = int((tmp_path / "pid").read_text())
    await _eventually(lambda: not _runs(number))


def _runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("status", "good"), [("200 OK", True), ("204 No Content", True), ("500 Error", False), ("", False)]
)
async def test_an_http_call(status: str, good: bool) -> None:  # noqa: FBT001 - a table
    """The event is posted as JSON; anything but 2xx is a failure."""
    heard: list[bytes] = []
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        heard.append(head + await reader.readexactly(length))
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode() if status else b"")
        writer.close()
        await writer.wait_closed()
        answered.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hook = HookSettings(url=f"http://127.0.0.1:{port}/-/reload?now")
        if good:
            await perform(hook, EVENT)
        else:
            with pytest.raises(HookFailed, match="answers"):
                await perform(hook, EVENT)
        await answered.wait()
    assert heard[0].startswith(b"POST /-/reload?now HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heard[0].endswith(b'{"event": "granted", "name": "prod", "directory": "/files"}')


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://a..b/"])
async def test_nobody_listens(url: str) -> None:
    """It is said."""
    with pytest.raises(HookFailed, match="nobody answers"):
        await perform(HookSettings(url=url), EVENT)


async def test_what_nobody_foresaw_ends_no_more_than_the_hook(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counted, and the next change is told all the same."""
    monkeypatch.setattr(hooks, "PAUSES", ())
    odd = HookSettings(url="http://[")  # the settings refuse it
    running = Hooks((odd, HookSettings(command=("/bin/true",))), "prod")
    task = asyncio.create_task(running.run())
    running.changed(EVENT)
    await _eventually(lambda: (running.failed, running.done) == (1, 1))
    running.changed(EVENT)
    await _eventually(lambda: (running.failed, running.done) == (2, 2))
    assert "this should not happen" in caplog.text
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failed_hook_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload that starts after the first token hears of it all the same."""
    monkeypatch.setattr(hooks, "PAUSES", (0.05, 0.05))
    script = f"test -e {tmp_path}/up || {{ echo > {tmp_path}/up; exit 1; }}; echo > {tmp_path}/done"
    running = Hooks((HookSettings(command=("/bin/sh", "-c", script)),), "prod")
    task = asyncio.create_task(running.run())
    running.changed(EVENT)
    await _eventually(lambda: running.done)
    assert (tmp_path / "done").exists()
    assert running.failed == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_changes_that_come_meanwhile_are_one(tmp_path: Path) -> None:
    """While a hook runs, the last change is the one that is told next."""
    script = f'echo "$SIDECAR_EVENT" >> {tmp_path}/told; sleep 0.2'
    running = Hooks((HookSettings(command=("/bin/sh", "-c", script)),), "prod")
    task = asyncio.create_task(running.run())
    running.changed(EVENT)
    await _eventually((tmp_path / "told").exists)
    for each in ("granted", "removed"):
        running.changed(EVENT | {"event": each})
    await _eventually(lambda: running.done == 2)
    assert (tmp_path / "told").read_text().split() == ["granted", "removed"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
