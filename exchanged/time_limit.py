"""One time limit for many tasks, by one timer: a timer for each would cost an exchange as much as a signature."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class TimeLimit:
    """Cancels what takes longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        """In the order they come, for the limit is the same for all."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of the work, which is cancelled when its time is over.

        Raises:
            TimeoutError: it was.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is for tasks")
        self._deadlines[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError as error:
            # Of two who cancelled, the other one is not to be swallowed.
            if task not in self._deadlines and task.uncancel() == 0:
                raise TimeoutError from error
            raise
        finally:
            self._deadlines.pop(task, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for task, deadline in list(self._deadlines.items()):
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._look, loop)
                break
            del self._deadlines[task]
            task.cancel()
