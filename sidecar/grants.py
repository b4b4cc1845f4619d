"""The grants of one token: how they come, whether they live, and how they end when nobody wants them any more."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field, replace

from sidecar.clocks import Clocks, Held
from sidecar.model import ExchangeFailed, Subject
from sidecar.settings import TokenSettings
from sidecar.sources import Source, SourceFailed
from sidecar.state import Caller

log = logging.getLogger("sidecar")

SKEW_SECONDS = 30.0
"""Between our clock and the daemon's; with more, somebody should look at it."""
PROOF_SECONDS = 1.0
"""For a new proof at the end; without one the last opens the connection."""


@dataclass(slots=True)
class Grants:
    """All that may still live are known, whether or not anybody uses them."""

    settings: TokenSettings
    daemon: Caller
    source: Source
    clocks: Clocks
    came: int = 0
    _living: list[Held] = field(default_factory=list)
    _subject: Subject | None = None
    _subject_is_old: bool = False
    _asking: asyncio.Task[Held] | None = None

    async def another(self) -> Held:
        """A new one. Whoever is cancelled in the middle has it given back when it comes, or calls `close`.

        Raises:
            ExchangeFailed, SourceFailed: there is none.
        """
        asking = asyncio.create_task(self._ask(await self.source.subject()))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asking = asking
            raise

    def add(self, held: Held) -> None:
        """One that was there before."""
        self._living = [*(each for each in self._living if each.rest(self.clocks) > 0), held]

    def forget(self, held: Held) -> None:
        """Somebody ended it."""
        self._living = [each for each in self._living if each is not held]

    async def lives(self, held: Held) -> bool:
        """What the daemon says of it.

        Raises:
            ExchangeFailed, SourceFailed: it cannot be told.
        """
        try:
            return await self.daemon.lives(held.credential.token, await self._connection())
        except (ExchangeFailed, SourceFailed):
            self._subject_is_old = True
            raise

    async def give_back(self) -> None:
        """Ends all that live.

        Raises:
            ExchangeFailed: some may live still; each was tried.
        """
        failures = await self._end()
        if self._asking is not None:
            # The daemon may have granted it by now, and nobody else would know of it.
            with contextlib.suppress(ExchangeFailed):
                await self._asking
            failures = await self._end()
        for failure in failures:
            raise failure

    def close(self) -> None:
        """What is asked for is not waited for."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, subject: Subject) -> Held:
        wall, elapsed = self.clocks.wall(), self.clocks.elapsed()
        credential = await self.daemon.exchange(self.settings.ask, subject)
        self._subject, self._subject_is_old = replace(subject, token=""), False
        self.came += 1
        held = Held(credential=credential, wall=wall, elapsed=elapsed)
        self.add(held)
        if abs(held.skew) > SKEW_SECONDS:
            told = {"token": self.settings.name, "ahead_seconds": round(held.skew)}
            log.warning("clocks differ; compare them", extra=told)
        return held

    async def _end(self) -> list[BaseException]:
        """Why it could not be told of some that they ended."""
        living = [each for each in self._living if each.rest(self.clocks) > 0]
        if not living:
            return []
        with contextlib.suppress(SourceFailed, TimeoutError):
            async with asyncio.timeout(PROOF_SECONDS):
                await self._connection()
        subject = self._subject or Subject()
        ends = (self.daemon.give_back(each.credential.token, subject) for each in living)
        tried = await asyncio.gather(*ends, return_exceptions=True)
        for held, failure in zip(living, tried, strict=True):
            if failure is None:
                self.forget(held)
                log.info("given back", extra={"token": self.settings.name, "grant": held.credential.grant_id})
        return [failure for failure in tried if failure is not None]

    async def _connection(self) -> Subject:
        """What the connection is opened with where no proof goes over it."""
        if self._subject is None or self._subject_is_old:
            self._subject, self._subject_is_old = replace(await self.source.subject(), token=""), False
        return self._subject
