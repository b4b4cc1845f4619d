"""Tokens of OpenID Connect providers: CI systems by their profile, others by what they say."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from exchanged.authenticate.jws import Expected, verify
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.profiles import Profile
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Claims, Identity, IdentityKind, IssuerName, UnverifiedToken

MAX_ID = 256
"""Characters of `jti` and of a job's id."""
KNOWN_SHAPES = 64
"""Sets of claim names that need not be sorted out again: an issuer's tokens have the same ones again and again."""


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
        # Older servers of the kind do not say which job it is; then there is none to count by.
        job = _id(claims, profile.job) if profile.job in claims else None
        return Identity(
            issuer=self.name,
            subject=claims["sub"],
            kind=self._kind,
            claims=usable(claims, profile),
            issued_at=issued,
            expires_at=expires,
            token_digest=token.presented.digest(),
            single_use=_id(claims, "jti") if self._single_use else None,
            job=job,
            job_uses=self._job_uses if job else 0,
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
    return {name: claims[name] for name in _sorted_out(profile, tuple(claims))[0]}


def unknown(claims: Claims, profile: Profile) -> tuple[str, ...]:
    """Claims that nobody here has heard of: noted, so that a change of the issuer's is seen."""
    return () if profile.used is None else _sorted_out(profile, tuple(claims))[1]


@lru_cache(maxsize=KNOWN_SHAPES)
def _sorted_out(profile: Profile, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of usable claims, and of unknown ones."""
    strange = {name for name in names if name not in profile.known}
    own = {name for name in strange if name.startswith(profile.prefix)}
    found = tuple(name for name in names if name in profile.usable or name in own)
    return found, tuple(sorted(name[:MAX_ID] for name in strange - own))


def _id(claims: Claims, name: str) -> str:
    value = claims.get(name)
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not 0 < len(text) <= MAX_ID or not text.isprintable():
        raise TokenRefused(Reason.TOKEN_CLAIMS, f"{name} is missing or not a short id", verified=True)
    return text


def _may_act(claims: Claims) -> Claims | None:
    value = claims.get("may_act")
    if value is not None and not isinstance(value, dict):
        raise TokenRefused(Reason.TOKEN_CLAIMS, "may_act is not an object (RFC 8693 §4.4)", verified=True)
    return value
