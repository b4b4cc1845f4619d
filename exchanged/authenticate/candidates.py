"""Which issuer may vouch for a token: an unverified `iss` chooses who is asked, the keys decide."""

from collections.abc import Sequence
from datetime import datetime

from exchanged.authenticate.jws import unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason, Unavailable
from exchanged.in_step import in_step
from exchanged.model import Identity, PresentedToken, UnverifiedToken
from exchanged.ports import Authenticator

SHOWN = 200
"""Characters of a refused token's subject that its record shows."""
MAX_KNOWING = 8
"""Issuers asked that know the key a token names: one, but for tokens that name none; each costs a signature."""
MAX_OTHERS = 64
"""Issuers asked that do not, after those. Clusters that call themselves by the same name may be many, and a key may be
new; each costs a fetch at most, and that not often, or a question to its cluster."""


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
        candidates = [each for each in self._authenticators if each.may_vouch(claimed)]
        if len(candidates) > 1:
            candidates = _ordered(candidates, claimed)
        await in_step()
        refusal: TokenRefused | None = None
        away: Unavailable | None = None
        for candidate in candidates:
            try:
                return await candidate.authenticate(claimed, now)
            except TokenRefused as refused:
                if refused.verified:
                    who = f"{candidate.name}/{str(claimed.claims.get('sub'))[:SHOWN]}"
                    refusal = TokenRefused(refused.reason, f"{who}: {refused.detail}", verified=True)
                elif refusal is None or not refusal.verified:
                    refusal = refused
            except Unavailable as error:
                # One of several clusters with the same name is away; the token may be another's.
                away = error
        if away is not None and (refusal is None or not refusal.verified):
            raise away
        raise refusal or TokenRefused(
            Reason.TOKEN_ISSUER_UNKNOWN, f"no configured issuer for a token of type {token_type}"
        )


def _ordered(candidates: list[Authenticator], token: UnverifiedToken) -> list[Authenticator]:
    """Those who know the key first: the others are then not asked at all, though they be many or out of reach."""
    knowing = [each for each in candidates if each.knows(token)]
    others = [each for each in candidates if each not in knowing]
    return knowing[:MAX_KNOWING] + others[:MAX_OTHERS]
