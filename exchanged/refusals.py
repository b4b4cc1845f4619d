"""What becomes of a refusal: verified callers leave a durable record each, strangers are counted and sampled."""

from collections.abc import Callable
from datetime import datetime, timedelta

from exchanged.errors import ExchangeError, Unavailable
from exchanged.log import entries
from exchanged.model import ExchangeRequest, Identity, RequestContext
from exchanged.ports import Store

WINDOW = timedelta(minutes=1)
"""Over which the bound on records about strangers is counted."""


class Refusals:
    """Records refusals, so that strangers cannot fill the log or the disk."""

    def __init__(self, *, store: Store, clock: Callable[[], datetime], unverified_per_minute: int) -> None:
        self._store = store
        self._clock = clock
        self._most = unverified_per_minute
        self._window_start: datetime | None = None
        self._in_window = 0
        self._left_out = 0

    async def record(
        self,
        refusal: ExchangeError,
        request: ExchangeRequest,
        context: RequestContext,
        subject: Identity | None,
        actor: Identity | None,
    ) -> None:
        """Writes down what an issuer vouches for; of the rest as much as the bound allows, and how much it left out.

        Raises:
            StoreUnavailable, LogUnavailable: a verified refusal that cannot be recorded is not answered as one.
        """
        if isinstance(refusal, Unavailable) and subject is None:
            return
        verified = subject is not None or refusal.verified
        if verified:
            await self._store.append(entries.refused(refusal, request, context, subject, actor))
        elif self._within_bound(context.time):
            left_out, self._left_out = self._left_out, 0
            await self._store.append(entries.unverified(refusal, context, left_out))
        else:
            self._left_out += 1

    def _within_bound(self, now: datetime) -> bool:
        if self._window_start is None or now - self._window_start >= WINDOW:
            self._window_start, self._in_window = now, 0
        self._in_window += 1
        return self._in_window <= self._most
