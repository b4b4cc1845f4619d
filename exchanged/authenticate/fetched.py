"""What an issuer publishes: fetched ahead of need, never in a storm, and kept for a while when the issuer is away."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from exchanged.errors import KeysUnavailable, Reason

log = logging.getLogger(__name__)

UNKNOWN_KEY_PAUSE = timedelta(seconds=30)
"""Between two fetches for a key that is not known: strangers can invent keys, issuers rarely do."""
FAILURE_PAUSE = timedelta(seconds=5)
"""Between two fetches while the issuer does not answer."""

Value = TypeVar("Value")


class SourceError(Exception):
    """It could not be had; the message says why."""


def since_boot() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Age:
    """How long ago something was, by both clocks: one may be set back, the other may stand still with the machine."""

    def __init__(self, clock: Callable[[], datetime], elapsed: Callable[[], float]) -> None:
        self._clock, self._elapsed = clock, elapsed
        self._began = (elapsed(), clock())

    def is_over(self, most: timedelta) -> bool:
        """Whether it was longer ago than this, by either clock."""
        elapsed, then = self._began
        return self._clock() - then > most or self._elapsed() - elapsed > most.total_seconds()


class Fetched(Generic[Value]):
    """A value of one issuer.

    Args:
        fetch: has it; raises SourceError or ValueError where it cannot be had or used.
        refresh: how often it is fetched, by what it says itself.
        stale_limit: how much longer than that it is good.
        on_fetch: told whether a fetch succeeded.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], Awaitable[Value]],
        refresh: Callable[[Value], timedelta],
        stale_limit: timedelta,
        clock: Callable[[], datetime],
        on_fetch: Callable[[bool], None],
        elapsed: Callable[[], float] = since_boot,
    ) -> None:
        self._fetch = fetch
        self._refresh = refresh
        self._stale_limit = stale_limit
        self._clock = clock
        self._on_fetch = on_fetch
        self._elapsed = elapsed
        self._value: Value | None = None
        self._age: Age | None = None
        self._tried_at: float | None = None
        self._failure = "not fetched yet"
        self._fetching: asyncio.Task[None] | None = None

    @property
    def last(self) -> Value | None:
        """What was fetched last, however long ago."""
        return self._value

    def fresh(self) -> Value | None:
        """The value, or None where there is none that is fresh enough."""
        if self._value is None or self._age is None:
            return None
        return None if self._age.is_over(self._refresh(self._value) + self._stale_limit) else self._value

    async def get(self) -> Value:
        """The value.

        Raises:
            KeysUnavailable: there is none, or none that is fresh enough.
        """
        if (value := self.fresh()) is not None:
            return value
        await self._fetch_unless_tried(FAILURE_PAUSE)
        if (value := self.fresh()) is None:
            raise KeysUnavailable(Reason.KEYS_UNAVAILABLE, self._failure, retry_after=FAILURE_PAUSE)
        return value

    async def again(self) -> Value | None:
        """The value, fetched anew unless that was tried a short while ago: for who misses something in it."""
        await self._fetch_unless_tried(UNKNOWN_KEY_PAUSE)
        return self._value

    async def run(self) -> None:
        """Fetches ahead of need until cancelled."""
        while True:
            await self._fetch_unless_tried(timedelta(0))
            pause = FAILURE_PAUSE if self._value is None or self._failure else self._refresh(self._value)
            await asyncio.sleep(pause.total_seconds() * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load

    def unready(self) -> str | None:
        """Why there is no value that is fresh enough, or None."""
        return None if self.fresh() is not None else self._failure or "its keys are too old"

    async def _fetch_unless_tried(self, pause: timedelta) -> None:
        if self._fetching is None:
            if self._tried_at is not None and self._elapsed() - self._tried_at < pause.total_seconds():
                return
            self._fetching = asyncio.create_task(self._try())
        # Single flight; a caller that goes away does not take the others' answer with it.
        await asyncio.shield(self._fetching)

    async def _try(self) -> None:
        try:
            value = await self._fetch()
        except (SourceError, ValueError) as error:
            # The good value that is there stays until it is too old.
            self._failure = str(error)
            self._on_fetch(False)
            log.warning("keys could not be fetched", extra={"detail": self._failure})
        else:
            self._value, self._age, self._failure = value, Age(self._clock, self._elapsed), ""
            self._on_fetch(True)
        finally:
            self._tried_at = self._elapsed()
            self._fetching = None
