"""An issuer's keys: fetched ahead of need, never in a storm, and kept for a while when the issuer is away."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from exchanged.authenticate.jws import VerificationKey, public_keys
from exchanged.errors import KeysUnavailable, Reason

log = logging.getLogger(__name__)

UNKNOWN_KEY_PAUSE = timedelta(seconds=30)
"""Between two fetches for a key id that is not known: strangers can invent ids, issuers rarely do."""
FAILURE_PAUSE = timedelta(seconds=5)
"""Between two fetches while the issuer does not answer."""


def since_boot() -> float:
    """Seconds by a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SourceError(Exception):
    """The keys could not be had; the message says why."""


class Source(Protocol):
    """Where a JWK Set comes from."""

    async def fetch(self) -> Mapping[str, Any]:
        """The JWK Set (RFC 7517 §5).

        Raises:
            SourceError: it could not be had.
        """
        ...


class KeySet:
    """The keys of one issuer."""

    def __init__(
        self,
        *,
        source: Source,
        algorithms: frozenset[str],
        refresh: timedelta,
        stale_limit: timedelta,
        clock: Callable[[], datetime],
        on_fetch: Callable[[bool], None],
        elapsed: Callable[[], float] = since_boot,
    ) -> None:
        self._source = source
        self._algorithms = algorithms
        self._refresh = refresh
        self._oldest = refresh + stale_limit
        self._clock = clock
        self._on_fetch = on_fetch
        self._elapsed = elapsed
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched_at: tuple[float, datetime] | None = None
        """By both clocks."""
        self._tried_at: float | None = None
        self._failure = "not fetched yet"
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: object) -> tuple[VerificationKey, ...]:
        """The keys of this id, or all where a token names none.

        Raises:
            KeysUnavailable: there are none, or none that are fresh enough.
        """
        if not self._are_usable():
            await self._fetch_unless_tried(FAILURE_PAUSE)
            if not self._are_usable():
                raise KeysUnavailable(Reason.KEYS_UNAVAILABLE, self._failure, retry_after=FAILURE_PAUSE)
        found = self._with_id(kid)
        if not found:
            await self._fetch_unless_tried(UNKNOWN_KEY_PAUSE)
            found = self._with_id(kid)
        return found

    async def run(self) -> None:
        """Fetches ahead of need until cancelled."""
        while True:
            await self._fetch_unless_tried(timedelta(0))
            pause = self._refresh if self._failure == "" else FAILURE_PAUSE
            await asyncio.sleep(pause.total_seconds() * random.uniform(0.8, 1.0))  # noqa: S311 - spreads load

    def knows(self, kid: object) -> bool:
        """Whether a token of this key id can be verified or refused by the keys that are there, without a fetch."""
        return bool(self._with_id(kid))

    def unready(self) -> str | None:
        """Why tokens could not be verified now, or None."""
        return None if self._are_usable() else self._failure or "its keys are too old"

    def _are_usable(self) -> bool:
        if self._fetched_at is None:
            return False
        elapsed, then = self._fetched_at
        # Too old by either clock: the one may have been set back, the other may have stood still with the machine.
        return self._clock() - then <= self._oldest and self._elapsed() - elapsed <= self._oldest.total_seconds()

    def _with_id(self, kid: object) -> tuple[VerificationKey, ...]:
        if kid is None:
            return self._keys
        # A key without an id in the set cannot be told apart, so it is a candidate for each.
        return tuple(key for key in self._keys if key.kid is None or key.kid == kid)

    async def _fetch_unless_tried(self, pause: timedelta) -> None:
        if self._fetching is None:
            if self._tried_at is not None and self._elapsed() - self._tried_at < pause.total_seconds():
                return
            self._fetching = asyncio.create_task(self._fetch())
        # Single flight; a caller that goes away does not take the others' answer with it.
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            keys = public_keys(await self._source.fetch(), self._algorithms)
            if not keys:
                raise SourceError("the set has no key that can be used")
        except (SourceError, ValueError) as error:
            # The good keys that are there stay until they are too old.
            self._failure = str(error)
            self._on_fetch(False)
            log.warning("keys could not be fetched", extra={"detail": self._failure})
        else:
            self._keys, self._fetched_at, self._failure = keys, (self._elapsed(), self._clock()), ""
            self._on_fetch(True)
        finally:
            self._tried_at = self._elapsed()
            self._fetching = None
