"""Calls that come at about the same time go on together.

One by one, each exchange finds its code pushed out of the processor's caches by what receives and answers calls, and
its record alone in a commit. Where many are under way, they wait a moment for one another instead; few wait for nobody.
"""

import asyncio

FEW = 4
"""Calls under way that need not wait."""
ENOUGH = 32
"""Calls that are company enough: what more of them share in code, they lose in data of their own."""
QUIET_SECONDS = 0.002
"""When nobody came for so long, nobody is waited for."""
LONGEST_SECONDS = 0.02
"""What a call waits at most for company that keeps coming. Where it does, the daemon is busy, and calls that go on
together are done sooner than one by one."""


class Gathering:
    """Where calls wait for company."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    async def join(self, under_way: int) -> None:
        """Returns when enough have come, or nobody else did; at once if few are `under_way`, this one included."""
        if under_way <= FEW:
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) >= ENOUGH:
            self._go_on()
        elif self._timer is None:
            self._until = loop.time() + LONGEST_SECONDS
            self._timer = loop.call_later(QUIET_SECONDS, self._look, loop, 0)
        await turn

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        if len(self._waiting) > seen and loop.time() < self._until:
            self._timer = loop.call_later(QUIET_SECONDS, self._look, loop, len(self._waiting))
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():  # its caller may have hung up
                turn.set_result(None)
