import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from exchanged.client import AsyncCredential, Credential, Grant, Refused, Unavailable
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

    async def awaited(self, within: float | None) -> Grant:
        """The same for coroutines."""
        await asyncio.sleep(0)
        return self(within)


Shown = Callable[[], str]


@pytest.fixture(params=["threads", "coroutines"])
def made(request: pytest.FixtureRequest) -> tuple[Clock, Source, Shown]:
    """A credential of either kind: its clock, its source, and the token that it shows."""
    clock, source = Clock(), Source()
    if request.param == "threads":
        credential = Credential(source, clock)
        return clock, source, lambda: credential.grant().token
    awaited = AsyncCredential(source.awaited, clock)
    return clock, source, lambda: asyncio.run(awaited.grant()).token


def test_a_token_is_fetched_once_and_again_early(made: tuple[Clock, Source, Shown]) -> None:
    """The first half of its life it is the same; after four fifths it is another."""
    clock, source, shown = made
    assert {shown(), shown()} == {"token 1"}
    clock.now += 49
    assert shown() == "token 1"
    clock.now += 32
    assert shown() == "token 2"
    # While one lives, another may take no more than half of what that has left.
    assert source.within[0] is None
    assert source.within[1] == pytest.approx(4.5)


@pytest.mark.parametrize("error", [Unavailable("away"), FileNotFoundError("no token yet"), KeyError("token")])
def test_a_fault_is_borne_while_the_token_lives(made: tuple[Clock, Source, Shown], error: Exception) -> None:
    """Nobody notices, until it has ended; then they are told, and it is not tried by everybody in turn."""
    clock, source, shown = made
    shown()
    source.error = error
    clock.now += 85
    assert {shown() for _ in range(5)} == {"token 1"}
    assert len(source.within) == 2
    clock.now += 20
    for _ in range(5):
        with pytest.raises(type(error)):
            shown()
    assert len(source.within) == 3
    source.error = None
    clock.now += 2
    assert shown() == "token 4"


def test_a_refusal_ends_it_and_is_remembered(made: tuple[Clock, Source, Shown]) -> None:
    """What there is is not shown any more; the daemon is not asked again before half a minute."""
    clock, source, shown = made
    shown()
    source.error = Refused("no", "NO_POLICY", "r1")
    clock.now += 81
    for _ in range(5):
        with pytest.raises(Refused) as told:
            shown()
        assert told.value.reason == "NO_POLICY"
    assert len(source.within) == 2
    source.error = None
    clock.now += 61
    assert shown() == "token 3"


def test_threads_share_one_request() -> None:
    """All who have nothing wait for one request; who has something good waits for none."""
    clock, asked, answer = Clock(), threading.Semaphore(0), threading.Semaphore(0)
    source = Source()

    def fetch(within: float | None) -> Grant:
        asked.release()
        assert answer.acquire(timeout=10)
        return source(within)

    credential = Credential(fetch, clock)
    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(credential.grant) for _ in range(8)]
        assert asked.acquire(timeout=10)
        answer.release()
        assert {each.result(10).token for each in first} == {"token 1"}
        clock.now += 81
        renewing = pool.submit(credential.grant)
        assert asked.acquire(timeout=10)
        # The request is under way: here they go on with what there is.
        assert {credential.grant().token for _ in range(5)} == {"token 1"}
        answer.release()
        assert renewing.result(10).token == "token 2"
    assert len(source.within) == 2


async def test_coroutines_share_one_request() -> None:
    """The same for a loop; and who is cancelled while asking leaves the others no worse."""
    clock, answer, source = Clock(), asyncio.Event(), Source()

    async def fetch(within: float | None) -> Grant:
        await answer.wait()
        return source(within)

    credential = AsyncCredential(fetch, clock)
    waiting = [asyncio.create_task(credential.grant()) for _ in range(8)]
    await asyncio.sleep(0)
    waiting.pop(0).cancel()
    answer.set()
    assert {each.token for each in await asyncio.gather(*waiting)} == {"token 1"}
    clock.now += 81
    answer.clear()
    renewing = asyncio.create_task(credential.grant())
    await asyncio.sleep(0)
    assert (await credential.grant()).token == "token 1"
    answer.set()
    assert (await renewing).token == "token 2"
    assert len(source.within) == 2


def test_what_is_held_is_handed_over_to_be_given_back() -> None:
    """Once, and only while it lives."""
    clock = Clock()
    credential = Credential(Source(), clock)
    assert credential.forget() is None
    credential.grant()
    held = credential.forget()
    assert held is not None
    assert (held.token, credential.forget()) == ("token 1", None)
    credential.grant()
    clock.now += 100
    assert credential.forget() is None
