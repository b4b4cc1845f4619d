"""When what failed may be tried again: after a pause that grows, and is not the same for all that failed together."""

import asyncio
import random

FIRST_PAUSE = 0.5
"""Seconds before what failed is tried again; doubles each time."""
LONGEST_PAUSE = 30.0
"""The longest such pause, in seconds: a cluster that comes back is served within it."""


class Pauses:
    """The pauses of many things, each by its name."""

    def __init__(self) -> None:
        self._pauses: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._pauses)

    def put_off(self, name: str) -> None:
        """It failed, once more."""
        pause, _ = self._pauses.get(name, (FIRST_PAUSE / 2, 0.0))
        pause = min(pause * 2, LONGEST_PAUSE)
        jittered = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        self._pauses[name] = (pause, asyncio.get_running_loop().time() + jittered)

    def is_over(self, name: str) -> bool:
        """Whether it may be tried now."""
        return self._pauses.get(name, (0.0, 0.0))[1] <= asyncio.get_running_loop().time()

    def forget(self, name: str) -> None:
        """It succeeded."""
        self._pauses.pop(name, None)

    def clear(self) -> None:
        """Everything may be tried now."""
        self._pauses.clear()
