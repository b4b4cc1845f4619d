"""The exchange, from a token that somebody shows to a token that a cluster honours: one story, in numbered steps."""

from exchanged.model import ClusterTraits, Exchanged, ExchangeRequest, Grant, PresentedToken, RequestContext


class Exchanger:
    """What both doors call, so that neither can skip a check."""

    async def exchange(self, request: ExchangeRequest, context: RequestContext) -> Exchanged:
        """A token for one cluster, recorded before it is released (RFC 8693 §2).

        Raises:
            ExchangeError: one of its classes, for everything that a caller can cause.
        """
        raise NotImplementedError

    async def revoke(self, token: PresentedToken, context: RequestContext) -> None:
        """The grant of this token, if it lives, ends (RFC 7009 §2.2: an unknown token is no error)."""
        raise NotImplementedError

    async def introspect(self, token: PresentedToken, context: RequestContext) -> tuple[Grant, ClusterTraits] | None:
        """What a live token stands for, or None (RFC 7662 §2.2)."""
        raise NotImplementedError
