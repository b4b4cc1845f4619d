"""A changed cluster role decides again: grants that would not be decided so now end."""

import asyncio
from dataclasses import replace

from exchanged.ending.endings import AT_ONCE, Endings
from exchanged.errors import ClusterUnavailable, ExchangeError, Reason
from exchanged.model import Grant, GrantState
from exchanged.ports import ClusterMode, GrantQuery, Store

PAGE = 1_000
"""Live grants looked at together."""


async def decide_again(mode: ClusterMode, store: Store, endings: Endings) -> None:
    """Revokes the live grants of a cluster that its roles, as they stand, do not allow.

    A changed role whose rules still need no class that nobody acknowledged ends nothing.

    Raises:
        ClusterUnavailable, StoreUnavailable: not all could be decided, or ended; to be called again.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    query = GrantQuery(live_only=True, cluster=mode.traits.name, limit=PAGE)
    failures: list[ExchangeError] = []

    async def decide(grant: Grant) -> None:
        try:
            mode.plan(grant.id, grant.allowed)
        except ExchangeError as refusal:
            why = f"decided again by its cluster role as it stands: {refusal.detail}"
        else:
            return
        async with gate:
            try:
                await endings.end(grant.id, GrantState.REVOKED, why, by="exchanged")
            except ExchangeError as error:
                failures.append(error)

    while live := await store.grants(query):
        if (why := mode.unready()) is not None:
            # Roles that are not known allow nothing new, and end nothing either.
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{mode.traits.name}: {why}")
        await asyncio.gather(*(decide(grant) for grant in live if grant.plan.role_digest))
        query = replace(query, before=live[-1].id)
    if failures:
        raise failures[0]
