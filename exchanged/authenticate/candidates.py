"""Which issuer may vouch for a token: an unverified `iss` chooses who is asked, the keys decide."""

from collections.abc import Sequence
from datetime import datetime

from exchanged.authenticate.jws import unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Identity, PresentedToken
from exchanged.ports import Authenticator

MAX_CANDIDATES = 8
"""Issuers asked about one token. Clusters that call themselves by the same name are few; each costs a signature."""


class Authenticators:
    """All configured issuers."""

    def __init__(self, *, authenticators: Sequence[Authenticator], own_issuer: str) -> None:
        self._authenticators = authenticators
        self._own_issuer = own_issuer

    async def authenticate(self, token: PresentedToken, token_type: str, now: datetime) -> Identity:
        """The identity that one of the issuers vouches for.

        Raises:
            TokenRefused: none does; with the most telling reason.
            KeysUnavailable, ClusterUnavailable: it cannot be told now.
        """
        claimed = unverified(token)
        if claimed.claims.get("iss") == self._own_issuer:
            # No chains: a grant that bred another would outlive its revocation.
            raise TokenRefused(Reason.TOKEN_OWN, "a token that exchanged issued")
        candidates = [each for each in self._authenticators if each.may_vouch(claimed)][:MAX_CANDIDATES]
        refusal = TokenRefused(Reason.TOKEN_ISSUER_UNKNOWN, f"no configured issuer for a token of type {token_type}")
        for candidate in candidates:
            try:
                return await candidate.authenticate(claimed, now)
            except TokenRefused as refused:
                if refused.verified or not refusal.verified:
                    refusal = refused
        raise refusal
