"""Whether a grant could be issued now; and where records cannot be written, trying whether they can again."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from exchanged.clusters import Clusters
from exchanged.errors import ExchangeError
from exchanged.issuers import Issuers
from exchanged.log.record import Record, RecordKind
from exchanged.served import Certificates
from exchanged.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
"""How often it is tried whether records can be written again. Nobody sends requests to who is not ready, so that no
exchange would ever find out."""


class Readiness:
    """What the daemon lacks."""

    def __init__(
        self,
        *,
        store: SqliteStore,
        issuers: Issuers,
        clusters: Clusters,
        certificates: Certificates,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._clusters = clusters
        self._certificates = certificates
        self._clock = clock
        self.draining = False

    async def lacking(self) -> Mapping[str, str]:
        """What is out of reach, and why; nothing means that a grant could be issued now."""
        if self.draining:
            return {"stopping": "no more grants are issued"}
        try:
            await self._store.last_sequence()
        except ExchangeError as error:
            return {"store": error.detail}
        if self._store.failing is not None:
            return {"store": self._store.failing}
        lacking = {f"door {name}": why for name, why in self._certificates.lacking().items()}
        for what, parts in (("issuer", self._issuers.unready()), ("cluster", self._clusters.unready())):
            # One that is there is enough: for the others their own exchanges are refused.
            if all(reason is not None for reason in parts.values()):
                lacking |= {f"{what} {name}": str(reason) for name, reason in parts.items()}
        return lacking

    async def run(self) -> None:
        """Where a record could not be written, writes one every few seconds until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            failing = self._store.failing
            if failing is not None:
                record = Record(kind=RecordKind.RESUMED, time=self._clock(), body={"after": failing})
                try:
                    await self._store.append(record)
                except ExchangeError as error:
                    log.warning("records still cannot be written", extra={"detail": error.detail})
