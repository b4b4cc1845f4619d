"""Group commit: many waiting changes share one transaction, and so one fsync.

Changes run in the loop's thread (they are short); only COMMIT, which waits for the disk, runs in a thread of its own.
While it does, the next group gathers. A change checks before it writes, so that one which is refused leaves nothing
behind and needs no transaction of its own.
"""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from exchanged.errors import ExchangeError, Reason, StoreUnavailable

log = logging.getLogger(__name__)

MOST_CHANGES = 64
"""In one group: about as many as run in 5 ms, so that the loop is not held up for longer."""

GATHER_SECONDS = 0.001
"""For each change of the last group, how long the next one is gathered: where many come, a commit is worth waiting for,
and where one comes alone it waits for nobody. A commit costs about as much as three exchanges."""
LONGEST_GATHERING = 0.006
"""Seconds; what a change waits at most for company."""
ENOUGH_CHANGES = 32
"""So many need no more company."""

Result = TypeVar("Result")
Change = Callable[[sqlite3.Connection], Result]
Waiting = tuple[Change[Any], asyncio.Future[Any]]


class GroupCommit:
    """The one writer of a database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.failing: str | None = None
        """Why the last write failed, until one succeeds."""
        self._waiting: deque[Waiting] = deque()
        self._turn: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "store")
        self._closed = False
        self._last_size = 1
        self._enough: asyncio.Future[None] | None = None

    def run(self, change: Change[Result]) -> asyncio.Future[Result]:
        """The change's result, once it is durable; changes are made in the order in which they are asked for.

        Raises:
            ExchangeError: what the change raised; nothing of it was written.
            StoreUnavailable: the group could not be written; nothing of it was.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._closed:
            done.set_exception(StoreUnavailable(Reason.STORE_UNAVAILABLE, "the store is closed"))
            return done
        self._waiting.append((change, done))
        if self._turn is None:
            self._turn = asyncio.create_task(self._work())
        elif self._enough is not None and len(self._waiting) >= ENOUGH_CHANGES:
            _finish(self._enough)
        return done

    async def close(self) -> None:
        """Waits for what was begun."""
        self._closed = True
        if self._turn is not None:
            await self._turn
        self._thread.shutdown()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                group = [self._waiting.popleft() for _ in range(min(MOST_CHANGES, len(self._waiting)))]
                await self._write(group)
        finally:
            self._turn = None

    async def _write(self, group: list[Waiting]) -> None:
        """Writes a group, or nothing of it. Where a group fails, one may be to blame: each is tried alone then."""
        before = self._connection.total_changes
        try:
            answers = self._apply(group)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.commit)
        except Exception as error:
            self._undo()
            if len(group) > 1:
                for each in group:
                    await self._write([each])
                return
            log.exception("a change could not be written")
            self.failing = f"the store cannot be written: {error}"
            answers = [StoreUnavailable(Reason.STORE_UNAVAILABLE, self.failing)]
        else:
            if self._connection.total_changes != before:
                # A group that changed nothing proves nothing of the disk.
                self.failing = None
        _answer(group, answers)

    async def _gather(self) -> None:
        if self._last_size > 1 and len(self._waiting) < ENOUGH_CHANGES and not self._closed:
            loop = asyncio.get_running_loop()
            self._enough = loop.create_future()
            pause = min(LONGEST_GATHERING, GATHER_SECONDS * self._last_size)
            timer = loop.call_later(pause, _finish, self._enough)
            await self._enough
            timer.cancel()
            self._enough = None
        self._last_size = min(MOST_CHANGES, len(self._waiting))

    def _apply(self, group: list[Waiting]) -> list[Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        answers: list[Any] = []
        for change, _ in group:
            try:
                answers.append(change(self._connection))
            except ExchangeError as refusal:
                answers.append(refusal)
        return answers

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.rollback()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _answer(group: list[Waiting], answers: list[Any]) -> None:
    for (_, done), answer in zip(group, answers, strict=True):
        if done.cancelled():
            continue
        if isinstance(answer, ExchangeError):
            done.set_exception(answer)
        else:
            done.set_result(answer)
