import asyncio
from itertools import pairwise

import pytest

from exchanged.time_limit import TimeLimit


async def _slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def test_what_is_in_time_comes_back() -> None:
    """Results and errors are what they are, also after an earlier one was too slow."""
    limit = TimeLimit(0.02)
    with pytest.raises(TimeoutError):
        await limit.run(_slow(5))
    assert await limit.run(_slow(0)) == "done"
    with pytest.raises(ZeroDivisionError):
        await limit.run(_fails())


async def _fails() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError


async def test_many_are_each_cancelled_at_their_own_deadline() -> None:
    """One timer serves them all, in order, however many were done in between."""
    limit, loop = TimeLimit(0.05), asyncio.get_running_loop()
    ended: list[float] = []

    async def late(after: float) -> None:
        await asyncio.sleep(after)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await limit.run(_slow(5))
        ended.append(loop.time())
        assert ended[-1] - began >= 0.04

    quick = [limit.run(_slow(0.001)) for _ in range(20)]
    await asyncio.gather(*(late(number * 0.01) for number in range(5)), *map(asyncio.create_task, quick))
    assert len(ended) == 5
    assert all(later > earlier for earlier, later in pairwise(ended))
    assert limit._timer is None
    assert not limit._deadlines


async def test_whoever_else_cancels_is_obeyed() -> None:
    """A cancellation from outside stays one, also when the time is over at the same moment."""
    limit = TimeLimit(0.01)
    task = asyncio.create_task(limit.run(_slow(5)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stubborn = asyncio.create_task(limit.run(_slow_to_end()))
    await asyncio.sleep(0.02)
    stubborn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stubborn


async def _slow_to_end() -> None:
    try:
        await asyncio.sleep(5)
    finally:
        await asyncio.sleep(0.05)
