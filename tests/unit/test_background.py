import asyncio

import pytest

from exchanged import background
from exchanged.background import steadily


async def test_work_that_fails_begins_anew(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody thought of ends neither the work nor the daemon, and is told."""
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0)
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        if times < 3:
            raise KeyError("nobody thought of this")

    await steadily("some work", work)
    assert times == 3
    assert caplog.text.count("begins anew") == 2


async def test_work_can_be_cancelled() -> None:
    """The end of the daemon is the end of its work."""
    working = asyncio.create_task(steadily("waiting", asyncio.Event().wait))  # type: ignore[arg-type] # it returns True
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
