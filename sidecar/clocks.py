"""Two clocks, and how long a credential lives by both."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.model import Credential

SLICE_SECONDS = 5.0
"""The longest sleep: a suspended machine or a clock that was set is noticed so long after, at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Seconds by the wall clock, which may be set; seconds of this boot, which go on while a machine is suspended."""

    wall: Callable[[], float] = time.time
    elapsed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A credential, and what both clocks said before it was asked for.

    Its end is counted from there and not read off our wall clock, which may be wrong by more than it lives. Each clock
    covers for the other: the one of this boot stands while a virtual machine does, the wall clock may be set back.
    """

    credential: Credential
    wall: float
    elapsed: float

    def used(self, clocks: Clocks) -> float:
        """Seconds since, by the clock that says more."""
        return max(clocks.wall() - self.wall, clocks.elapsed() - self.elapsed)

    def rest(self, clocks: Clocks) -> float:
        """Seconds that it still lives; not more than 0 when it has ended by either clock."""
        return self.credential.seconds - self.used(clocks)

    @property
    def skew(self) -> float:
        """Seconds that our wall clock was ahead of the daemon's."""
        return self.wall - (self.credential.expires_at.timestamp() - self.credential.seconds)
