"""A keeper in a world whose clocks the test turns."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.keeper import Keeper
from sidecar.model import Ask, Refused
from sidecar.place import Place
from sidecar.settings import FileSettings, TokenSettings
from sidecar.sources import SourceSettings
from tests.unit.sidecar.virtual import Draw, FakeDaemon, FakeSource, Turned, middle

NO = Refused("NO_POLICY", "no policy grants this [NO_POLICY, request r-1]")
ROUND = 5.0
"""Seconds in which a change of the world is noticed, besides the pauses that are meant."""


@dataclass(slots=True)
class Made:
    """A keeper and its world."""

    keeper: Keeper
    daemon: FakeDaemon
    turned: Turned
    source: FakeSource
    changes: list[str]
    directory: Path

    def read(self) -> str | None:
        """What a reader of the file finds."""
        try:
            return (self.directory / "token").read_text()
        except FileNotFoundError:
            return None


def make(folder: Path, draw: Draw = middle, ran: float = 0.0, **more: Any) -> Made:
    """A keeper that was not started, on a machine that ran for so long."""
    turned = Turned()
    turned.ran = ran
    daemon, source = FakeDaemon(turned), FakeSource()
    usual = TokenSettings(
        name="prod",
        server="exchanged.example:443",
        ca=None,
        ask=Ask(scope="read-pods/pods"),
        source=SourceSettings(),
        files=FileSettings(directory=folder / "files"),
    )
    told = replace(usual, **more)
    changes: list[str] = []
    assert told.files is not None
    keeper = Keeper(
        settings=told,
        daemon=daemon,
        source=source,
        place=Place(told),
        changed=lambda event, _held: changes.append(event),
        clocks=turned.clocks(),
        draw=draw,
    )
    keeper.adopt()
    return Made(keeper, daemon, turned, source, changes, told.files.directory)


@asynccontextmanager
async def kept(folder: Path, draw: Draw = middle, **more: Any) -> AsyncIterator[Made]:
    """A keeper that runs, with its first token."""
    made = make(folder, draw, **more)
    async with running(made):
        await made.turned.run(0.1)
        assert made.read() == "token-1"
        yield made


@asynccontextmanager
async def running(made: Made) -> AsyncIterator[None]:
    """A keeper that runs."""
    task = asyncio.create_task(made.keeper.keep())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        made.keeper.close()


@contextmanager
def away(directory: Path) -> Iterator[None]:
    """Nothing can be written there, nor read."""
    hidden = directory.with_name("away")
    directory.rename(hidden)
    directory.touch()
    yield
    directory.unlink()
    hidden.rename(directory)
