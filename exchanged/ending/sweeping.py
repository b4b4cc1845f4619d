"""Sweeps: objects at a cluster that carry this store's mark, and that no grant accounts for, are found and deleted."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from exchanged.errors import ExchangeError
from exchanged.log import entries
from exchanged.model import ClusterName, GrantId, GrantState
from exchanged.ports import ClusterMode, Store

log = logging.getLogger(__name__)

SWEEP_INTERVAL = timedelta(minutes=5)
"""How often a cluster is searched."""
GRANTS_LOOKED_AT = 1_000
"""Unfinished grants that tell where objects may be beyond the configured namespaces. They come oldest first, and which
namespaces are configured changes with a restart alone."""
_EVER = datetime.max.replace(tzinfo=UTC)


async def keep_sweeping(cluster: ClusterName, mode: ClusterMode, store: Store, clock: Callable[[], datetime]) -> None:
    """Until cancelled: sweeps the cluster at once, and again and again."""
    namespaces: frozenset[str] | None = None

    async def is_known(grant_id: GrantId) -> bool:
        grant = await store.grant(grant_id)
        return grant is not None and grant.state is not GrantState.WITHDRAWN

    while True:
        try:
            if namespaces is None:
                namespaces = await _namespaces(cluster, store)
            for swept in await mode.sweep(is_known, clock(), epoch=store.epoch, namespaces=namespaces):
                await store.append(entries.swept(cluster, swept, clock()))
        except ExchangeError as error:
            log.warning("sweep failed; it will be tried again", extra={"cluster": cluster, "detail": error.detail})
        await asyncio.sleep(SWEEP_INTERVAL.total_seconds())


async def _namespaces(cluster: ClusterName, store: Store) -> frozenset[str]:
    """Where unfinished grants have objects."""
    unfinished = await store.due(_EVER, GRANTS_LOOKED_AT, cluster=cluster)
    return frozenset(made.namespace for grant in unfinished for made in grant.plan.objects)
