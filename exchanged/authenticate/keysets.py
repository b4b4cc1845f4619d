"""An issuer's keys, found by their id."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from exchanged.authenticate.fetched import Fetched, SourceError, since_boot
from exchanged.authenticate.jwk import VerificationKey, public_keys

Keys = tuple[VerificationKey, ...]


class Source(Protocol):
    """Where a JSON document comes from: a JWK Set, or a SPIFFE bundle."""

    async def fetch(self) -> Mapping[str, Any]:
        """The document.

        Raises:
            SourceError: it could not be had.
        """
        ...


class KeySet:
    """The keys of one issuer (RFC 7517 §5)."""

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
        self._keys = Fetched(
            fetch=self._fetch,
            refresh=lambda _: refresh,
            stale_limit=stale_limit,
            clock=clock,
            on_fetch=on_fetch,
            elapsed=elapsed,
        )

    async def find(self, kid: object) -> Keys:
        """The keys of this id, or all where a token names none.

        Raises:
            KeysUnavailable: there are none, or none that are fresh enough.
        """
        return with_id(await self._keys.get(), kid) or with_id(await self._keys.again() or (), kid)

    async def run(self) -> None:
        """Fetches ahead of need until cancelled."""
        await self._keys.run()

    def knows(self, kid: object) -> bool:
        """Whether a token of this key id can be verified or refused by the keys that are there, without a fetch."""
        return bool(with_id(self._keys.last or (), kid))

    def unready(self) -> str | None:
        """Why tokens could not be verified now, or None."""
        return self._keys.unready()

    async def _fetch(self) -> Keys:
        keys = public_keys(await self._source.fetch(), self._algorithms)
        if not keys:
            raise SourceError("the set has no key that can be used")
        return keys


def with_id(keys: Keys, kid: object) -> Keys:
    """The keys that a token may mean by this id."""
    if kid is None:
        return keys
    # A key without an id in the set cannot be told apart, so it is a candidate for each.
    return tuple(key for key in keys if key.kid is None or key.kid == kid)
