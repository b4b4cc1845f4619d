"""A sidecar's world without waiting: clocks that a test turns, and a daemon that says what it is told to."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sidecar.clocks import Clocks
from sidecar.model import Ask, Credential, ExchangeFailed, Fault, Subject

LIFETIME = 300.0
_TURNS = 30
"""Of the event loop, after which everybody waits for a clock."""


class Turned:
    """Clocks of a machine that can be suspended, and whose wall clock can be set."""

    def __init__(self) -> None:
        self.ran = 0.0
        self.suspended = 0.0
        self.stepped = 1_800_000_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def elapsed(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.ran + self.suspended

    def wall(self) -> float:
        """The wall clock."""
        return self.ran + self.suspended + self.stepped

    async def sleep(self, seconds: float) -> None:
        """As asyncio.sleep: by a clock that stands while the machine is suspended."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.ran + seconds, next(self._numbers), future))
        await future

    async def run(self, seconds: float) -> None:
        """So much time passes, and everybody does what they do in it."""
        until = self.ran + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            when, _, future = heapq.heappop(self._sleepers)
            self.ran = max(self.ran, when)
            if not future.done():
                future.set_result(None)
            await self._settle()
        self.ran = until

    def clocks(self) -> Clocks:
        """For a keeper."""
        return Clocks(wall=self.wall, elapsed=self.elapsed, sleep=self.sleep)

    async def _settle(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)


@dataclass(slots=True)
class FakeDaemon:
    """Grants, until `says` is an error; a call takes `takes` seconds. `keeps` is a token that it does not end."""

    turned: Turned
    lifetime: float = LIFETIME
    takes: float = 0.01
    says: ExchangeFailed | None = None
    says_of_life: ExchangeFailed | None = None
    ahead: float = 0.0
    asked: list[float] = field(default_factory=list)
    looked: int = 0
    given_back: list[str] = field(default_factory=list)
    granted: list[tuple[str, float]] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    keeps: str = ""
    most_in_flight: int = 0
    _in_flight: int = 0

    async def exchange(self, ask: Ask, subject: Subject) -> Credential:
        """A token; each ends so long after it was granted, by all that passes in the world."""
        del subject
        self.asked.append(self.turned.elapsed())
        await self._under_way()
        if self.says is not None:
            raise self.says
        token = f"token-{len(self.granted) + 1}"
        self.granted.append((token, self.turned.elapsed() + self.lifetime))
        return Credential(
            token=token,
            grant_id=f"grant-{len(self.granted)}",
            expires_at=datetime.fromtimestamp(self.turned.wall() + self.ahead + self.lifetime, UTC),
            seconds=self.lifetime,
            cluster="prod",
            scope=ask.scope,
            server="https://api.example:6443",
            certificate_authority="a CA",
        )

    async def lives(self, token: str, subject: Subject) -> bool:
        """Whether it was not revoked."""
        del subject
        self.looked += 1
        await self._under_way()
        if self.says_of_life is not None:
            raise self.says_of_life
        return token not in self.revoked

    async def give_back(self, token: str, subject: Subject) -> None:
        """Notes it."""
        del subject
        await self._under_way()
        if self.says is not None or token == self.keeps:
            raise self.says or fault()
        self.given_back.append(token)

    async def _under_way(self) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self.turned.sleep(self.takes)
        finally:
            self._in_flight -= 1


@dataclass(slots=True)
class FakeSource:
    """A proof, or the error that `says` is."""

    says: Exception | None = None
    hangs: bool = False

    async def subject(self) -> Subject:
        """The proof."""
        if self.hangs:
            await asyncio.Event().wait()
        if self.says is not None:
            raise self.says
        return Subject(token="proof")


def fault(retry_after: float | None = None) -> Fault:
    """Nobody answers."""
    return Fault("", "connection refused [UNAVAILABLE]", retry_after=retry_after)


def middle(low: float, high: float) -> float:
    """Chance that is none."""
    return (low + high) / 2


Draw = Callable[[float, float], float]


def seeded(chance: int) -> Draw:
    """Chance that comes again."""
    return random.Random(chance).uniform  # noqa: S311 - nobody is to be kept from guessing it
