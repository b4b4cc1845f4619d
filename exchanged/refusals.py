"""What becomes of a refusal: verified callers leave a durable record, within bounds; strangers are counted and sampled.

Whoever an issuer vouches for may be anybody: at a public CI system everybody can have a token. So their refusals are
bounded too, though generously: what is left out is counted in the next record of the same issuer.
"""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from exchanged.errors import ExchangeError, Unavailable
from exchanged.log import entries
from exchanged.model import ExchangeRequest, Identity, RequestContext
from exchanged.ports import Store

log = logging.getLogger(__name__)

WINDOW = timedelta(minutes=1)
"""Over which the bounds on records are counted."""
PER_SUBJECT = 60
"""Records of a subject's refusals in a window: nobody reads more of them, and a job that is refused tries again a few
times."""
PER_ISSUER = 2_000
"""Records of the refusals of all subjects of an issuer in a window: of some 5 KB each, so 10 MB a minute at most."""
UNNAMED = ""
"""Stands for the issuer of a token whose signature was good and nothing else: the refusal does not say which it is."""


class Refusals:
    """Records refusals, so that nobody can fill the log or the disk with them."""

    def __init__(self, *, store: Store, clock: Callable[[], datetime], unverified_per_minute: int) -> None:
        self._store = store
        self._clock = clock
        self._most = unverified_per_minute
        self._window_start: datetime | None = None
        self._strangers = 0
        self._by_issuer: Counter[str] = Counter()
        self._by_subject: Counter[tuple[str, str]] = Counter()
        self._left_out: Counter[str | None] = Counter()
        """By issuer, since its last record; None for strangers."""

    async def record(
        self,
        refusal: ExchangeError,
        request: ExchangeRequest,
        context: RequestContext,
        subject: Identity | None,
        actor: Identity | None,
    ) -> None:
        """Writes down a refusal as far as the bounds allow, and how many were left out before it.

        Raises:
            StoreUnavailable, LogUnavailable: a verified refusal that cannot be recorded is not answered as one.
        """
        if isinstance(refusal, Unavailable) and subject is None:
            return
        if subject is None and not refusal.verified:
            await self._sample(refusal, context)
            return
        issuer, name = (subject.issuer, subject.subject) if subject is not None else (UNNAMED, None)
        if self._is_within_bounds(issuer, name, context.time):
            left_out = self._left_out.pop(issuer, 0)
            await self._store.append(entries.refused(refusal, request, context, subject, actor, left_out=left_out))
        else:
            self._left_out[issuer] += 1

    async def turned_away(self, refusal: ExchangeError, context: RequestContext) -> None:
        """Samples, as a stranger's, a request that a door refused before it was an exchange."""
        try:
            await self._sample(refusal, context)
        except Unavailable as error:
            log.warning("a refusal could not be recorded", extra={"detail": error.detail})

    async def _sample(self, refusal: ExchangeError, context: RequestContext) -> None:
        self._begin_window(context.time)
        self._strangers += 1
        if self._strangers <= self._most:
            left_out = self._left_out.pop(None, 0)
            await self._store.append(entries.unverified(refusal, context, left_out))
        else:
            self._left_out[None] += 1

    def _is_within_bounds(self, issuer: str, subject: str | None, now: datetime) -> bool:
        self._begin_window(now)
        # One subject's flood takes nothing of what the others of its issuer may have.
        if subject is not None and self._by_subject[issuer, subject] >= PER_SUBJECT:
            return False
        if self._by_issuer[issuer] >= PER_ISSUER:
            return False
        self._by_issuer[issuer] += 1
        if subject is not None:
            self._by_subject[issuer, subject] += 1
        return True

    def _begin_window(self, now: datetime) -> None:
        # A clock that was put back begins a window too; otherwise nothing would be recorded until it is there again.
        if self._window_start is None or abs(now - self._window_start) >= WINDOW:
            self._window_start, self._strangers = now, 0
            self._by_issuer.clear()
            self._by_subject.clear()
