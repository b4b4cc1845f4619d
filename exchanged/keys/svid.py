"""The daemon's own X.509-SVID: what its doors serve, and what it shows to others."""

import logging
from typing import Protocol

from exchanged.keys.certificates import CertificatePair, pair_of

log = logging.getLogger(__name__)


class Svid(Protocol):
    """An X.509-SVID, PEM, with the authorities of its trust domain."""

    @property
    def spiffe_id(self) -> str: ...  # noqa: D102 - as it says
    @property
    def chain_pem(self) -> bytes: ...  # noqa: D102
    @property
    def key_pem(self) -> bytes: ...  # noqa: D102
    @property
    def authorities_pem(self) -> bytes: ...  # noqa: D102


class Svids(Protocol):
    """Where the daemon's own SVIDs come from."""

    @property
    def svids(self) -> tuple[Svid, ...]:
        """Those that there are; a renewed one is a new object."""
        ...

    async def updated(self) -> None:
        """Returns when there may be others."""
        ...


class SvidCertificate:
    """Implements `ServingCertificate` with an SVID; None as `spiffe_id` takes the first (SPIFFE_Workload_API §8)."""

    def __init__(self, *, source: Svids, spiffe_id: str | None) -> None:
        self._source = source
        self._spiffe_id = spiffe_id
        self._taken: Svid | None = None
        self._pair: CertificatePair | None = None

    def current(self) -> CertificatePair:
        """See `ServingCertificate.current`. An SVID that is taken back is served to its end, which is near."""
        found = next((each for each in self._source.svids if self._spiffe_id in {None, each.spiffe_id}), None)
        if found is not None and found is not self._taken:
            self._taken = found
            try:
                self._pair = pair_of(found.chain_pem, found.key_pem, found.authorities_pem)
            except (OSError, ValueError) as error:
                log.warning("the SVID before is kept: the new one cannot be used", extra={"detail": str(error)})
            else:
                log.info("SVID taken up", extra={"spiffe_id": found.spiffe_id})
        if self._pair is None:
            wanted = self._spiffe_id or "any"
            raise ValueError(f"the Workload API has not given the daemon an SVID ({wanted}) yet")
        return self._pair

    async def available(self) -> None:
        """See `ServingCertificate.available`."""
        while True:
            try:
                self.current()
            except ValueError:
                await self._source.updated()
            else:
                return

    async def run(self) -> None:
        """See `ServingCertificate.run`; the Workload API renews it."""
