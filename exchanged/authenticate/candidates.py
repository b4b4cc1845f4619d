"""Which issuer may vouch for a token or a certificate: what it says chooses who is asked, the keys decide."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from exchanged.authenticate.jws import unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.x509_svid import SvidChain, read
from exchanged.errors import Reason, Unavailable
from exchanged.in_step import in_step
from exchanged.model import Identity, PresentedCertificate, PresentedToken, UnverifiedToken
from exchanged.ports import Authenticator

SHOWN = 200
"""Characters of a refused token's subject that its record shows."""
MAX_KNOWING = 8
"""Issuers asked that know the key a token names: one, but for tokens that name none; each costs a signature."""
MAX_OTHERS = 64
"""Issuers asked that do not, after those. Clusters that call themselves by the same name may be many, and a key may be
new; each costs a fetch at most, and that not often, or a question to its cluster."""


class CertificateAuthenticator(Protocol):
    """Makes an `Identity` of the certificate with which a caller opened its connection, for one trust domain."""

    @property
    def trust_domain(self) -> str:
        """Its name."""
        ...

    async def authenticate_certificate(self, chain: SvidChain, now: datetime) -> Identity:
        """The identity that the certificate proves: of its leaf's own trust domain, now.

        Raises:
            TokenRefused: with the reason why not (`exchanged.authenticate.refused`).
            KeysUnavailable: when it cannot be told now.
        """
        ...


class Authenticators:
    """All configured issuers."""

    def __init__(
        self,
        *,
        authenticators: Sequence[Authenticator],
        own_issuer: str,
        certificates: Sequence[CertificateAuthenticator] = (),
    ) -> None:
        self._authenticators = authenticators
        self._own_issuer = own_issuer
        self._certificates = {each.trust_domain: each for each in certificates}

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

    async def authenticate_certificate(self, presented: PresentedCertificate, now: datetime) -> Identity:
        """The identity that the leaf's own trust domain vouches for, and no other.

        Raises:
            TokenRefused: it does not; with the reason.
            KeysUnavailable: it cannot be told now.
        """
        chain = read(presented)
        authenticator = self._certificates.get(chain.spiffe_id.trust_domain)
        if authenticator is None:
            detail = f"no configured issuer for trust domain {chain.spiffe_id.trust_domain}"
            raise TokenRefused(Reason.TOKEN_ISSUER_UNKNOWN, detail)
        return await authenticator.authenticate_certificate(chain, now)


def _ordered(candidates: list[Authenticator], token: UnverifiedToken) -> list[Authenticator]:
    """Those who know the key first: the others are then not asked at all, though they be many or out of reach."""
    knowing = [each for each in candidates if each.knows(token)]
    others = [each for each in candidates if each not in knowing]
    return knowing[:MAX_KNOWING] + others[:MAX_OTHERS]
