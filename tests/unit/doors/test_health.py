import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from exchanged.doors.health import Health

STATUS = health_pb2.HealthCheckResponse


class Aborted(Exception):
    """What a gRPC context raises."""


class Caller:
    """The context of a call; one that is deaf never takes what is written."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.heard: list[int] = []
        self.code: grpc.StatusCode | None = None

    async def write(self, answer: Any) -> None:
        """Takes it, or not."""
        if self.deaf:
            await asyncio.Event().wait()
        self.heard.append(answer.status)

    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        """Notes it."""
        self.code = code
        raise Aborted


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, waits briefly, and has few places."""
    for name, value in (("LOOK_SECONDS", 0.01), ("WRITE_SECONDS", 0.05), ("MOST_WATCHERS", 1)):
        monkeypatch.setattr(f"exchanged.doors.health.{name}", value)


def _watch(health: Health, caller: Any) -> asyncio.Task[None]:
    return asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(), caller))


async def test_a_watcher_hears_of_each_change_and_of_the_end() -> None:
    """Once for each change; when the end is near it hears so and is let go, and nothing is serving any more."""
    health, caller = Health(), Caller()
    watching = _watch(health, caller)
    for ready in (True, True, False, True):
        await asyncio.sleep(0.03)
        health.tell(ready=ready)
    await asyncio.sleep(0.03)
    health.end()
    health.tell(ready=True)
    await asyncio.wait_for(watching, 5)
    assert caller.heard == [
        STATUS.NOT_SERVING, STATUS.SERVING, STATUS.NOT_SERVING, STATUS.SERVING, STATUS.NOT_SERVING
    ]  # fmt: skip


async def test_a_deaf_watcher_loses_its_place() -> None:
    """One that takes nothing is not waited for, and another may watch in its place."""
    health, other = Health(), Caller()
    deaf = _watch(health, Caller(deaf=True))
    await asyncio.sleep(0)
    with pytest.raises(Aborted):
        await _watch(health, other)
    assert other.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await asyncio.wait_for(deaf, 5)
    again = Caller()
    watching = _watch(health, again)
    await asyncio.sleep(0.03)
    assert again.heard == [STATUS.NOT_SERVING]
    watching.cancel()
