"""Tokens of OpenID Connect providers: CI systems by their profile, others by what they say."""

from datetime import datetime
from typing import Any

from exchanged.authenticate.jws import Expected, verify
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.profiles import Profile
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Claims, Identity, IdentityKind, IssuerName, UnverifiedToken

MAX_ID = 256
"""Characters of `jti` and of a job's id."""


class OidcAuthenticator:
    """Implements `Authenticator` for one provider."""

    def __init__(
        self,
        *,
        name: IssuerName,
        expected: Expected,
        keys: KeySet,
        profile: Profile,
        single_use: bool,
        job_uses: int,
        kind: IdentityKind,
    ) -> None:
        self.name = name
        self._expected = expected
        self._keys = keys
        self._profile = profile
        self._single_use = single_use
        self._job_uses = job_uses
        self._kind = kind

    def may_vouch(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.may_vouch`."""
        return token.claims.get("iss") == self._expected.issuer

    def knows(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.knows`."""
        return self._keys.knows(token.header.get("kid"))

    async def authenticate(self, token: UnverifiedToken, now: datetime) -> Identity:
        """See `Authenticator.authenticate`."""
        keys = await self._keys.find(token.header.get("kid"))
        issued, expires = verify(token, keys, self._expected, now)
        claims, profile = token.claims, self._profile
        return Identity(
            issuer=self.name,
            subject=claims["sub"],
            kind=self._kind,
            claims=usable(claims, profile),
            issued_at=issued,
            expires_at=expires,
            token_digest=token.presented.digest(),
            single_use=_id(claims, "jti") if self._single_use else None,
            # Older servers of the kind do not say which job it is; then there is none to count by.
            job=_id(claims, profile.job) if profile.job in claims else None,
            job_uses=self._job_uses if profile.job in claims else 0,
            may_act=_may_act(claims),
            unknown_claims=unknown(claims, profile),
        )

    async def run(self) -> None:
        """See `Authenticator.run`."""
        await self._keys.run()

    def unready(self) -> str | None:
        """See `Authenticator.unready`."""
        return self._keys.unready()


def usable(claims: Claims, profile: Profile) -> dict[str, Any]:
    """The claims that policies may match on, with `iss` and `sub`."""
    if profile.used is None:
        return dict(claims)
    found = {name: value for name, value in claims.items() if name in profile.usable}
    if not claims.keys() <= profile.known:
        found |= {name: value for name, value in claims.items() if name.startswith(profile.prefix)}
    return found


def unknown(claims: Claims, profile: Profile) -> tuple[str, ...]:
    """Claims that nobody here has heard of: noted, so that a change of the issuer's is seen."""
    if profile.used is None:
        return ()
    if claims.keys() <= profile.known:
        return ()
    strange = claims.keys() - profile.known
    return tuple(sorted(name[:MAX_ID] for name in strange if not name.startswith(profile.prefix)))


def _id(claims: Claims, name: str) -> str:
    value = claims.get(name)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID or not text.isprintable():
        raise TokenRefused(Reason.TOKEN_CLAIMS, f"{name} is missing or not a short id", verified=True)
    return text


def _may_act(claims: Claims) -> Claims | None:
    value = claims.get("may_act")
    if value is not None and not isinstance(value, dict):
        raise TokenRefused(Reason.TOKEN_CLAIMS, "may_act is not an object (RFC 8693 §4.4)", verified=True)
    return value
