"""One token's life: had before it is needed, kept while it lives, gone when it has ended or is refused."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sidecar import schedule
from sidecar.advice import advice, cause
from sidecar.clocks import SLICE_SECONDS, Clocks, Held
from sidecar.files import Unwritable
from sidecar.grants import Grants
from sidecar.model import ExchangeFailed, Fault, Refused
from sidecar.place import Place
from sidecar.settings import TokenSettings
from sidecar.sources import Source, SourceFailed
from sidecar.state import Caller, Counts, State

log = logging.getLogger("sidecar")

_SHORTEST_NAP = 0.005
_TRY_AGAIN = frozenset({"POLICY_CHANGED"})
"""Refusals that the next try may not meet."""


@dataclass(slots=True)
class Keeper:
    """Keeps one token. `changed` is told "granted" or "removed", and of which credential."""

    settings: TokenSettings
    daemon: Caller
    source: Source
    place: Place
    changed: Callable[[str, Held], None]
    clocks: Clocks = field(default_factory=Clocks)
    draw: schedule.Draw = random.uniform
    state: State = field(default_factory=State)
    counts: Counts = field(default_factory=Counts)
    grants: Grants = field(init=False)
    _renew_at: float = 0.0
    _not_before: float = 0.0
    _check_at: float = 0.0
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.grants = Grants(self.settings, self.daemon, self.source, self.clocks)

    @property
    def ready(self) -> bool:
        """The credential is where it should be, and lives by both clocks and the daemon's last word."""
        held = self.state.held
        return held is not None and self.state.vouched and held.rest(self.clocks) > 0 and self.place.is_whole()

    @property
    def trouble(self) -> str:
        """Why it is not ready, for people."""
        held, told = self.state.held, self.state.away or self.state.trouble
        lives = held is not None and held.rest(self.clocks) > 0
        return told or ("its files were taken away" if lives else "it has ended")

    def adopt(self) -> None:
        """Makes the files' place ready; goes on with what an earlier run left, until there is better.

        Raises:
            Unwritable: it cannot be used.
        """
        held = self.place.adopt(self.clocks)
        if held is not None:
            self.state.held, self.state.vouched = held, True
            self.grants.add(held)
            log.info("going on with what an earlier run left", extra=self._about(held))

    async def keep(self) -> None:
        """Keeps it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_in_time())
            while True:
                await self._bear(self._step)
                await self._doze(self._nap(), self._gone)

    async def once(self, patience: float) -> str:
        """Has a new one, or tries for so many seconds: "granted", "refused" or "unavailable".

        While nobody answers, what an earlier run left is as good until its end.
        """
        until, left = self.clocks.elapsed() + patience, self.state.held
        while True:
            await self._bear(self._renew)
            if self.ready and self.state.held is not left:
                return "granted"
            if self.state.refused:
                return "refused"
            self._drop_if_over()
            if self._not_before > until:
                return "granted" if self.ready else "unavailable"
            await self.clocks.sleep(max(_SHORTEST_NAP, self._not_before - self.clocks.elapsed()))

    async def give_back(self) -> None:
        """Ends all grants that live, and removes the files.

        Raises:
            ExchangeFailed: some may live still.
        """
        self._drop()
        await self.grants.give_back()

    def close(self) -> None:
        """Another may have its place; what is asked for is not waited for."""
        self.grants.close()
        self.place.release()

    async def _bear(self, work: Callable[[], Awaitable[None]]) -> None:
        """One token's surprises take nothing from the others."""
        try:
            await work()
        except Exception as error:
            log.exception("this should not happen", extra=self._named())
            self._failed(Fault("", f"{type(error).__name__}: {error}"))

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

    async def _doze(self, seconds: float, called: asyncio.Event) -> None:
        """Sleeps, until it is called."""
        ways = [asyncio.ensure_future(self.clocks.sleep(seconds)), asyncio.ensure_future(called.wait())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            called.clear()

    async def _end_in_time(self) -> None:
        while True:
            nap = SLICE_SECONDS
            if self._drop_if_over():
                # Now somebody waits: the pauses begin anew, short.
                self.state.failures = 0
                self._gone.set()
            elif (held := self.state.held) is not None:
                self._restore(held)
                nap = max(_SHORTEST_NAP, min(nap, held.rest(self.clocks)))
            self.place.tidy(self.clocks.elapsed())
            await self._doze(nap, self._came)

    def _drop_if_over(self) -> bool:
        held = self.state.held
        if held is None or held.rest(self.clocks) > 0:
            return False
        self.counts.expired += 1
        self.state.trouble = self.state.trouble or "it has ended"
        self._drop()
        log.error("expired; removed", extra=self._about(held, why=self.state.trouble))
        return True

    def _restore(self, held: Held) -> None:
        """What somebody took away comes back."""
        try:
            restored = self.place.restore(held, self.clocks.elapsed())
            self.state.away = ""
            if restored:
                log.warning("files were gone; written anew", extra=self._about(held))
                self.changed("granted", held)
        except Unwritable as error:
            if self.state.away != str(error):
                log.error("files are gone", extra=self._about(held, why=str(error)))  # noqa: TRY400 - told whole
            self.state.away = str(error)

    async def _renew(self) -> None:
        try:
            held = await self._granted()
            # Until it is in its place it is nobody's, but no other is asked for.
            self.state.pending = held
            if held.rest(self.clocks) <= 0:
                raise Fault("", "it came after its end")
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
        return await self.grants.another()

    def _accept(self, held: Held) -> None:
        self.state = State(held=held, vouched=True, trouble="")
        self._renew_at = schedule.refresh_after(held.credential.seconds, self.draw)
        self._not_before = 0.0
        self._check_later()
        log.info("granted", extra=self._about(held))
        self.changed("granted", held)
        self._came.set()

    def _refused(self, error: Refused) -> None:
        self.counts.refused += 1
        had = self.state.held is not None
        self._drop()
        self.state.failures, self.state.refused, self.state.trouble = 0, error.reason, error.message
        pause = schedule.pause_after_refusal(self.draw)
        self._not_before = self.clocks.elapsed() + pause
        told = {"reason": error.reason, "what_to_do": advice(error.reason), "again_in_seconds": round(pause)}
        log.error("refused; removed" if had else "refused", extra=self._named(why=error.message, **told))

    def _failed(self, error: ExchangeFailed | SourceFailed | Unwritable) -> None:
        if not isinstance(error, Unwritable):
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
            lives = await self.grants.lives(held)
        except (ExchangeFailed, SourceFailed) as error:
            if not self.state.untold:
                log.info("nobody tells whether it lives", extra=self._named(why=str(error)))
            self.state.untold = True
            return
        self.state.untold = False
        if not lives and self.state.held is held:
            self.counts.revoked += 1
            self.grants.forget(held)
            self.state.vouched, self.state.revoked, self.state.trouble = False, True, "it was revoked"
            self._not_before = 0.0
            log.warning("revoked; asking for another", extra=self._about(held))

    def _check_later(self) -> None:
        self._check_at = self.clocks.elapsed() + self.settings.check * self.draw(0.75, 1.25)

    def _drop(self) -> None:
        """Nobody is to use what there is."""
        had = self.state.held
        self.state.held, self.state.pending = None, None
        self.state.vouched, self.state.revoked = False, False
        self.place.remove()
        if had is not None:
            self.changed("removed", had)

    def _named(self, **more: object) -> dict[str, object]:
        return {"token": self.settings.name, **more}

    def _about(self, held: Held, **more: object) -> dict[str, object]:
        credential = held.credential
        told = {"grant": credential.grant_id, "scope": credential.scope, "cluster": credential.cluster}
        return self._named(**told, until=credential.expires_at.isoformat(timespec="seconds"), **more)
