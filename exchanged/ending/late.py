"""Ends that the store could not record: their grants are cut off meanwhile, and they are recorded when it can."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from exchanged.ending.pauses import Pauses
from exchanged.errors import StoreUnavailable
from exchanged.model import ClusterName, Grant, GrantId, GrantState, RequestId
from exchanged.ports import Store

log = logging.getLogger(__name__)

_STORE = "the store"
_LIVE = frozenset({GrantState.INTENDED, GrantState.ISSUED})


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An end that is decided; `give_back` lets a token for one use be used again."""

    grant_id: GrantId
    state: GrantState
    why: str
    by: str
    request_id: RequestId | None
    give_back: bool


@dataclass(slots=True)
class Late:
    """An end that is not on record. `grant` is None while the store could not be read either."""

    end: End
    grant: Grant | None = None
    is_cut: bool = False


class LateEnds:
    """All of them, in memory: after a restart a grant that was to be revoked has to be revoked again.

    Args:
        record: writes an end down, and withdraws nothing.
        cut: takes a grant from its cluster; False if it could not.
    """

    def __init__(
        self,
        *,
        store: Store,
        record: Callable[[End], Awaitable[object]],
        cut: Callable[[End, Grant], Awaitable[bool]],
    ) -> None:
        self._store = store
        self._record = record
        self._cut = cut
        self._late: dict[GrantId, Late] = {}
        self._pauses = Pauses()

    def __contains__(self, grant_id: GrantId) -> bool:
        return grant_id in self._late

    def __len__(self) -> int:
        return len(self._late)

    def at(self, cluster: ClusterName) -> list[Late]:
        """Those of one cluster, and those of which it could not be told yet."""
        return [late for late in self._late.values() if late.grant is None or late.grant.cluster == cluster]

    async def remember(self, end: End) -> None:
        """The store did not take this end."""
        log.warning("an end could not be recorded; it will be tried again", extra={"grant": end.grant_id})
        # The first of two is recorded; each cuts.
        await self.cut(self._late.setdefault(end.grant_id, Late(end)), end)

    async def cut(self, late: Late, end: End) -> None:
        """Takes its grant from its cluster, once: that takes rights away and gives none."""
        try:
            late.grant = grant = late.grant or await self._store.grant(late.end.grant_id)
        except StoreUnavailable:
            return
        if grant is None or grant.state not in _LIVE:
            self.forget(late.end.grant_id)
        elif not late.is_cut:
            late.is_cut = await self._cut(end, grant)

    async def record_at(self, cluster: ClusterName) -> None:
        """Records those of one cluster, until the store fails again."""
        for late in self.at(cluster):
            if not self._pauses.is_over(_STORE):
                return
            try:
                await self._record(late.end)
            except StoreUnavailable:
                self._pauses.put_off(_STORE)
                # Another one is tried first next time: it may be this one alone that the store does not take.
                if self._late.pop(late.end.grant_id, None):
                    self._late[late.end.grant_id] = late

    def forget(self, grant_id: GrantId) -> None:
        """The end of this grant is on record."""
        self._pauses.forget(_STORE)
        self._late.pop(grant_id, None)
