import asyncio
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from exchanged.client import AsyncCredential, Credential, Grant, Refused, Unavailable
from tests.unit.client.kinds import Kind
from tests.unit.client.test_schedule import GRANT


@dataclass(slots=True)
class Clock:
    """Seconds, as told."""

    now: float = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass(slots=True)
class Source:
    """Grants one after the other, each for 100 s; or what is to go wrong."""

    error: Exception | None = None
    within: list[float | None] = field(default_factory=list)

    def __call__(self, within: float | None) -> Grant:
        """The next grant."""
        self.within.append(within)
        if self.error is not None:
            raise self.error
        return replace(GRANT, token=f"token {len(self.within)}", expires_in=100.0)


class Slow(Source):
    """Gives one when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, within: float | None) -> Grant:
        """The next grant, in the end."""
        self.asked.release()
        assert self.answer.acquire(timeout=10)
        return super().__call__(within)


class Made:
    """A credential of either kind, its clock and its source."""

    def __init__(self, kind: Kind, source: Source) -> None:
        self.clock, self.source, self.kind = Clock(), source, kind
        self.credential = kind.credential(source, self.clock)

    def shown(self) -> str:
        """The token that it shows to somebody who asks."""
        return str(self.kind.begin(self.credential.grant).result(10).token)

    def forgotten(self, within: float = 10) -> "Future[Any]":
        """What is to be given back in the end; what is under way is waited for so long."""
        return self.kind.begin(self.credential.forget, within)

    def settle(self) -> None:
        """Returns when no renewal is under way."""
        self.kind.settle(self.credential)


@pytest.fixture
def made(kind: Kind) -> Made:
    """One whose source answers at once."""
    return Made(kind, Source())


@pytest.fixture
def slow(kind: Kind) -> tuple[Made, Slow]:
    """One whose source answers when told to."""
    source = Slow()
    return Made(kind, source), source


def test_a_token_is_fetched_once_and_again_early(made: Made) -> None:
    """The first half of its life it is the same; after four fifths it is replaced by another."""
    assert {made.shown(), made.shown()} == {"token 1"}
    made.clock.now += 49
    assert made.shown() == "token 1"
    made.clock.now += 32
    made.shown()
    made.settle()
    assert made.shown() == "token 2"
    # While one lives, another may take no more than half of what that has left.
    assert made.source.within[0] is None
    assert made.source.within[1] == pytest.approx(4.5)


@pytest.mark.parametrize("error", [Unavailable("away"), FileNotFoundError("no token yet"), KeyError("token")])
def test_a_fault_is_borne_while_the_token_lives(made: Made, error: Exception) -> None:
    """Nobody notices, until it has ended; then they are told, and it is not tried by everybody in turn."""
    made.shown()
    made.source.error = error
    made.clock.now += 85
    assert made.shown() == "token 1"
    made.settle()
    assert {made.shown() for _ in range(5)} == {"token 1"}
    assert len(made.source.within) == 2
    made.clock.now += 20
    for _ in range(5):
        with pytest.raises(type(error)):
            made.shown()
    assert len(made.source.within) == 3
    made.source.error = None
    made.clock.now += 2
    assert made.shown() == "token 4"


def test_a_refusal_ends_it_and_is_remembered(made: Made) -> None:
    """What there is is not shown any more; the daemon is not asked again before half a minute."""
    made.shown()
    made.source.error = Refused("no", "NO_POLICY", "r1")
    made.clock.now += 81
    made.shown()
    made.settle()
    for _ in range(5):
        with pytest.raises(Refused) as told:
            made.shown()
        assert told.value.reason == "NO_POLICY"
    assert len(made.source.within) == 2
    made.source.error = None
    made.clock.now += 61
    assert made.shown() == "token 3"


def test_all_share_one_request(slow: tuple[Made, Slow]) -> None:
    """All who have nothing wait for one request; who has something good waits for none, whoever began it."""
    made, source = slow
    first = [made.kind.begin(made.credential.grant) for _ in range(8)]
    assert source.asked.acquire(timeout=10)
    source.answer.release()
    assert {each.result(10).token for each in first} == {"token 1"}
    made.clock.now += 81
    assert {made.shown() for _ in range(5)} == {"token 1"}
    assert source.asked.acquire(timeout=10)
    assert {made.shown() for _ in range(5)} == {"token 1"}
    source.answer.release()
    made.settle()
    assert made.shown() == "token 2"
    assert len(source.within) == 2


async def test_who_is_cancelled_throws_nothing_away() -> None:
    """Callers that give up one after the other leave one request, which ends well for who comes next."""
    answer, source = asyncio.Event(), Source()

    async def fetch(within: float | None) -> Grant:
        grant = source(within)
        await answer.wait()
        return grant

    credential = AsyncCredential(fetch, Clock())
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(credential.grant(), 0.001)
    answer.set()
    assert (await credential.grant()).token == "token 1"
    assert len(source.within) == 1


def test_what_is_held_is_handed_over_to_be_given_back(made: Made) -> None:
    """Once; who asks afterwards is told that the client is closed."""
    made.shown()
    assert made.forgotten().result(10).token == "token 1"
    assert made.forgotten().result(10) is None
    with pytest.raises(RuntimeError, match="closed"):
        made.shown()


def test_what_has_ended_is_not_handed_over(made: Made) -> None:
    """There is nothing to give back."""
    made.shown()
    made.clock.now += 100
    assert made.forgotten().result(10) is None


@pytest.mark.parametrize("lives", [True, False])
def test_what_is_under_way_is_handed_over_too(slow: tuple[Made, Slow], lives: bool) -> None:  # noqa: FBT001 - the case
    """It is waited for, and shown to nobody any more."""
    made, source = slow
    if lives:
        source.answer.release()
        made.shown()
        assert source.asked.acquire(timeout=10)
        made.clock.now += 81
    waiting = made.kind.begin(made.credential.grant)
    assert source.asked.acquire(timeout=10)
    forgotten = made.forgotten()
    while not made.credential._closed:
        pass
    source.answer.release()
    assert forgotten.result(10).token == f"token {1 + lives}"
    if lives:
        assert waiting.result(10).token == "token 1"
    else:
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(10)


def test_what_does_not_come_is_not_waited_for_long(slow: tuple[Made, Slow]) -> None:
    """The source of a proof may hang: the end comes all the same, and what comes later is shown to nobody."""
    made, source = slow
    waiting = made.kind.begin(made.credential.grant)
    assert source.asked.acquire(timeout=10)
    assert made.forgotten(0.01).result(10) is None
    source.answer.release()
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(10)


async def test_what_hangs_is_ended() -> None:
    """No task is left behind."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def fetch(_: float | None) -> Grant:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    credential = AsyncCredential(fetch, Clock())
    waiting = asyncio.create_task(credential.grant())
    await begun.wait()
    assert await credential.forget(0.01) is None
    with pytest.raises(RuntimeError, match="closed"):
        await waiting
    assert ended.is_set()


def test_a_token_lives_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown to its end, and renewed as soon as there are threads again."""
    clock, source = Clock(), Source()
    credential = Credential(source, clock)
    credential.grant()
    clock.now += 81

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", none)
        assert {credential.grant().token for _ in range(2)} == {"token 1"}
    credential.grant()
    with credential._lock:
        assert credential._held.grant is not None
        assert credential._held.grant.token == "token 2"


ENDS = """
import dataclasses, itertools, threading
from exchanged.client import Credential
from tests.unit.client.test_schedule import GRANT

begun, count, now = threading.Event(), itertools.count(), [0.0]

def fetch(within):
    if next(count):
        begun.set()
        threading.Event().wait()
    return dataclasses.replace(GRANT, expires_in=100.0)

credential = Credential(fetch, lambda: now[0])
credential.grant()
now[0] = 81.0
print(credential.grant().token)
begun.wait()
"""


def test_no_exit_waits_for_a_renewal() -> None:
    """A program ends when it is done, quietly."""
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "t\n", "")
