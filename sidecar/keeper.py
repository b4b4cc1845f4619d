"""One token's life: had before it is needed, kept while it lives, gone when it has ended or is refused."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sidecar import schedule
from sidecar.advice import advice, cause
from sidecar.clocks import SLICE_SECONDS, Clocks, Held
from sidecar.files import Unwritable
from sidecar.model import ExchangeFailed, Fault, Refused, Subject
from sidecar.place import Place
from sidecar.settings import TokenSettings
from sidecar.sources import Source, SourceFailed
from sidecar.state import Caller, Counts, State

log = logging.getLogger("sidecar")

SKEW_SECONDS = 30.0
"""Between our clock and the daemon's; with more, somebody should look at it."""
_SHORTEST_NAP = 0.005
_TRY_AGAIN = frozenset({"POLICY_CHANGED"})
"""Refusals that the next try may not meet."""


@dataclass(slots=True)
class Keeper:
    """Keeps one token. `changed` is told "granted" or "removed"."""

    settings: TokenSettings
    daemon: Caller
    source: Source
    place: Place
    changed: Callable[[str], None]
    clocks: Clocks = field(default_factory=Clocks)
    draw: schedule.Draw = random.uniform
    state: State = field(default_factory=State)
    counts: Counts = field(default_factory=Counts)
    _subject: Subject | None = None
    _renew_at: float = 0.0
    _not_before: float = 0.0
    _check_at: float = 0.0
    _earlier: list[Held] = field(default_factory=list)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ready(self) -> bool:
        """The credential is where it should be, and lives by both clocks and the daemon's last word."""
        held = self.state.held
        return held is not None and self.state.vouched and held.rest(self.clocks) > 0

    def adopt(self) -> None:
        """Makes the files' place ready; goes on with what an earlier run left, until there is better.

        Raises:
            Unwritable: it cannot be used.
        """
        self.state.held = self.place.adopt(self.clocks)
        if self.state.held is not None:
            log.info("going on with what an earlier run left", extra=self._about(self.state.held))

    async def keep(self) -> None:
        """Keeps it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_in_time())
            while True:
                try:
                    await self._step()
                except Exception as error:
                    log.exception("this should not happen", extra=self._named())
                    self._failed(Fault("", f"{type(error).__name__}: {error}"))
                await self._doze(self._nap())

    async def once(self, patience: float) -> str:
        """Has it, or tries for so many seconds: "granted", "refused" or "unavailable"."""
        until = self.clocks.elapsed() + patience
        while True:
            await self._renew()
            if self.ready:
                return "granted"
            if self.state.refused:
                return "refused"
            if self._not_before > until:
                return "unavailable"
            await self.clocks.sleep(max(_SHORTEST_NAP, self._not_before - self.clocks.elapsed()))

    async def give_back(self) -> None:
        """Ends all grants that live, and removes the files.

        Raises:
            ExchangeFailed: some may live still.
        """
        mine = [each for each in (*self._earlier, self.state.held, self.state.pending) if each]
        self._drop()
        for each in mine:
            if each.rest(self.clocks) > 0:
                await self.daemon.give_back(each.credential.token, self._connection())
                log.info("given back", extra=self._named(grant=each.credential.grant_id))

    async def _step(self) -> None:
        now = self.clocks.elapsed()
        if now >= self._not_before and self._wants_another():
            await self._renew()
        elif self._wants_check() and now >= self._check_at:
            await self._check()

    def _wants_another(self) -> bool:
        held = self.state.held
        return held is None or not self.state.vouched or held.used(self.clocks) >= self._renew_at

    def _wants_check(self) -> bool:
        return self.settings.check > 0 and self.state.held is not None and self.state.vouched

    def _nap(self) -> float:
        """Seconds until there is something to do, or to look whether a clock was set."""
        now, held = self.clocks.elapsed(), self.state.held
        naps = [SLICE_SECONDS]
        if held is None or not self.state.vouched:
            naps.append(self._not_before - now)
        else:
            naps.append(max(self._not_before - now, self._renew_at - held.used(self.clocks)))
        if self._wants_check():
            naps.append(self._check_at - now)
        return max(_SHORTEST_NAP, min(naps))

    async def _doze(self, seconds: float) -> None:
        """Sleeps; not on when the token is gone meanwhile."""
        ways = [asyncio.ensure_future(self.clocks.sleep(seconds)), asyncio.ensure_future(self._gone.wait())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._gone.clear()

    async def _end_in_time(self) -> None:
        while True:
            held, nap = self.state.held, SLICE_SECONDS
            if held is not None and (rest := held.rest(self.clocks)) <= 0:
                self.counts.expired += 1
                self.state.trouble = self.state.trouble or "it has ended"
                self._drop()
                log.error("expired; removed", extra=self._about(held, why=self.state.trouble))
                # Now somebody waits: the pauses begin anew, short.
                self.state.failures = 0
                self._gone.set()
            elif held is not None:
                nap = max(_SHORTEST_NAP, min(nap, rest))
            self.place.tidy(self.clocks.elapsed())
            await self.clocks.sleep(nap)

    async def _renew(self) -> None:
        try:
            held = await self._granted()
            # Until it is in its place it is nobody's, but no other is asked for.
            self.state.pending = held
            self.place.put(held, self.clocks.elapsed())
        except Refused as error:
            self._failed(error) if error.reason in _TRY_AGAIN else self._refused(error)
        except (Fault, SourceFailed, Unwritable) as error:
            self._failed(error)
        else:
            self._accept(held)

    async def _granted(self) -> Held:
        """A credential; the one that could not be written before, while it is new."""
        pending = self.state.pending
        if pending is not None and pending.rest(self.clocks) > pending.credential.seconds / 2:
            return pending
        subject = await self.source.subject()
        wall, elapsed = self.clocks.wall(), self.clocks.elapsed()
        credential = await self.daemon.exchange(self.settings.ask, subject)
        self._subject = replace(subject, token="")
        self.counts.granted += 1
        held = Held(credential=credential, wall=wall, elapsed=elapsed)
        if abs(held.skew) > SKEW_SECONDS:
            log.warning("clocks differ; compare them", extra=self._named(ahead_seconds=round(held.skew)))
        return held

    def _accept(self, held: Held) -> None:
        earlier = (*self._earlier, self.state.held) if self.state.held and self.state.vouched else self._earlier
        self._earlier = [each for each in earlier if each.rest(self.clocks) > 0]
        self.state = State(held=held, vouched=True, trouble="")
        self._renew_at = schedule.refresh_after(held.credential.seconds, self.draw)
        self._not_before = 0.0
        self._check_later()
        log.info("granted", extra=self._about(held))
        self.changed("granted")

    def _refused(self, error: Refused) -> None:
        self.counts.refused += 1
        had = self.state.held is not None
        self._drop()
        self.state.refused, self.state.trouble = error.reason, error.message
        pause = schedule.pause_after_refusal(self.draw)
        self._not_before = self.clocks.elapsed() + pause
        told = {"reason": error.reason, "what_to_do": advice(error.reason), "again_in_seconds": round(pause)}
        log.error("refused; removed" if had else "refused", extra=self._named(why=error.message, **told))

    def _failed(self, error: ExchangeFailed | SourceFailed | Unwritable) -> None:
        self.counts.faults += 1
        held = self.state.held
        if held is not None and self.state.revoked:
            # It is dead, and nobody gave another.
            self._drop()
            held = None
        self.state.failures += 1
        self.state.refused, self.state.trouble = "", str(error)
        rest = held.rest(self.clocks) if held else 0.0
        retry_after = error.retry_after if isinstance(error, ExchangeFailed) else None
        pause = schedule.pause_after_fault(self.state.failures, max(0.0, rest), retry_after, self.draw)
        self._not_before = self.clocks.elapsed() + pause
        told = {"again_in_seconds": round(pause, 1), "lives_seconds": max(0, round(rest))}
        log.warning("failed", extra=self._named(why=str(error), what_to_do=cause(str(error)), **told))

    async def _check(self) -> None:
        """Asks whether the credential lives. That nobody can tell changes nothing."""
        held = self.state.held
        self._check_later()
        if held is None:
            return
        try:
            if self._subject is None:
                self._subject = replace(await self.source.subject(), token="")
            lives = await self.daemon.lives(held.credential.token, self._subject)
        except (ExchangeFailed, SourceFailed) as error:
            if not self.state.untold:
                log.info("nobody tells whether it lives", extra=self._named(why=str(error)))
            self.state.untold = True
            self._subject = None
            return
        self.state.untold = False
        if not lives and self.state.held is held:
            self.counts.revoked += 1
            self.state.vouched, self.state.revoked, self.state.trouble = False, True, "it was revoked"
            self._not_before = 0.0
            log.warning("revoked; asking for another", extra=self._about(held))

    def _check_later(self) -> None:
        self._check_at = self.clocks.elapsed() + self.settings.check * self.draw(0.75, 1.25)

    def _drop(self) -> None:
        """Nobody is to use what there is."""
        had = self.state.held is not None
        self.state.held, self.state.pending = None, None
        self.state.vouched, self.state.revoked = False, False
        self.place.remove()
        if had:
            self.changed("removed")

    def _connection(self) -> Subject:
        return self._subject or Subject()

    def _named(self, **more: object) -> dict[str, object]:
        return {"token": self.settings.name, **more}

    def _about(self, held: Held, **more: object) -> dict[str, object]:
        credential = held.credential
        told = {"grant": credential.grant_id, "scope": credential.scope, "cluster": credential.cluster}
        return self._named(**told, until=credential.expires_at.isoformat(timespec="seconds"), **more)
