"""Ends the live grants for which there is a reason: the one walk over all of them."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from exchanged.ending.endings import AT_ONCE, Endings
from exchanged.errors import ExchangeError
from exchanged.model import Grant, GrantState
from exchanged.ports import GrantQuery, Store

PAGE = 1_000
"""Live grants looked at together."""


async def end_where(store: Store, endings: Endings, query: GrantQuery, why_of: Callable[[Grant], str | None]) -> None:
    """Revokes the live grants of a query for which `why_of` has a reason.

    Raises:
        ExchangeError: not all could be ended, or what `why_of` raises; to be called again.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    query = replace(query, live_only=True, limit=PAGE)
    failures: list[ExchangeError] = []

    async def end(grant: Grant, why: str) -> None:
        async with gate:
            try:
                await endings.end(grant.id, GrantState.REVOKED, why, by="exchanged")
            except ExchangeError as error:
                failures.append(error)

    while live := await store.grants(query):
        reasons = [(grant, why) for grant in live if (why := why_of(grant)) is not None]
        await asyncio.gather(*(end(grant, why) for grant, why in reasons))
        query = replace(query, before=live[-1].id)
    if failures:
        raise failures[0]
