"""What a grant was decided by has changed: grants that would not be decided so now end."""

from collections.abc import Callable

from exchanged.ending.end_where import end_where
from exchanged.ending.endings import Endings
from exchanged.errors import ClusterUnavailable, ExchangeError, Reason
from exchanged.model import Grant, IssuerName
from exchanged.ports import ClusterMode, GrantQuery, Store


async def decide_again(mode: ClusterMode, store: Store, endings: Endings) -> None:
    """Revokes the live grants of a cluster that its roles, as they stand, do not allow.

    A changed role whose rules still need no class that nobody acknowledged ends nothing.

    Raises:
        ClusterUnavailable, StoreUnavailable: not all could be decided, or ended; to be called again.
    """

    def why_of(grant: Grant) -> str | None:
        if not grant.plan.role_digest:
            return None
        if (why := mode.unready()) is not None:
            # Roles that are not known allow nothing new, and end nothing either.
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{mode.traits.name}: {why}")
        try:
            mode.plan(grant.id, grant.allowed)
        except ExchangeError as refusal:
            return f"decided again by its cluster role as it stands: {refusal.detail}"
        return None

    await end_where(store, endings, GrantQuery(cluster=mode.traits.name), why_of)


async def end_of_untrusted(is_trusted: Callable[[IssuerName], bool], why: str, store: Store, endings: Endings) -> None:
    """Revokes the live grants whose subject or actor was vouched for by an issuer that is not trusted any more.

    Raises:
        StoreUnavailable, ClusterUnavailable: not all could be ended; to be called again.
    """

    def why_of(grant: Grant) -> str | None:
        for party in (grant.subject, grant.actor):
            if party is not None and not is_trusted(party.issuer):
                return f"issuer {party.issuer} {why}"
        return None

    await end_where(store, endings, GrantQuery(), why_of)
