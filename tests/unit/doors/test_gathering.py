import asyncio

import pytest

from exchanged.doors.gathering import ENOUGH, FEW, QUIET_SECONDS, Gathering


async def test_few_wait_for_nobody() -> None:
    """Where hardly anything is under way, nothing is gained by waiting."""
    gathering = Gathering()
    for under_way in range(1, FEW + 1):
        assert asyncio.ensure_future(gathering.join(under_way)) is not None
        await gathering.join(under_way)
    assert gathering._timer is None


async def test_enough_go_on_at_once_and_the_rest_when_it_is_quiet() -> None:
    """Those who are company enough do not wait for the clock; who comes later goes when nobody follows."""
    gathering, loop = Gathering(), asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(gathering.join(FEW + 1) for _ in range(ENOUGH)))
    assert gathering._timer is None
    together = [asyncio.create_task(gathering.join(FEW + 1)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in together)
    await asyncio.gather(*together)
    assert loop.time() - began >= QUIET_SECONDS
    assert gathering._timer is None
    assert not gathering._waiting


async def test_company_that_keeps_coming_is_not_waited_for_without_end() -> None:
    """One call a moment is company each time, and yet the first of them goes on before long."""
    gathering = Gathering()
    first = asyncio.create_task(gathering.join(FEW + 1))
    others = []
    while not first.done():
        others.append(asyncio.create_task(gathering.join(FEW + 1)))
        assert len(others) < ENOUGH
        await asyncio.sleep(QUIET_SECONDS / 2)
    await asyncio.gather(*others)


async def test_whoever_hangs_up_holds_nobody_up() -> None:
    """A call that is cancelled while it waits is left out."""
    gathering = Gathering()
    gone, stays = (asyncio.create_task(gathering.join(FEW + 1)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
