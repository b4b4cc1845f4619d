"""Projected service account tokens: offline by the cluster's keys, by its TokenReview, or by both.

Clusters that call themselves by the same issuer URL are told apart by their keys (or by the cluster that answers the
review) and have the configured name; a key of one never vouches for another.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from exchanged.authenticate.jws import Expected, check_claims, verify
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.oidc import unknown
from exchanged.authenticate.profiles import KUBERNETES
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Claims, Identity, IdentityKind, IssuerName, PresentedToken, UnverifiedToken

PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReview:
    """What a cluster says of a token (authentication.k8s.io/v1 TokenReview, status)."""

    authenticated: bool
    audiences: tuple[str, ...] = ()
    username: str = ""
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""


class TokenReviewer(Protocol):
    """A cluster that can be asked about a token."""

    async def review(self, token: PresentedToken, audiences: tuple[str, ...]) -> TokenReview:
        """What the cluster says of the token for these audiences.

        Raises:
            ClusterUnavailable: it does not answer, or does not let us ask.
        """
        ...


class KubernetesAuthenticator:
    """Implements `Authenticator` for one cluster. At least one of `keys` and `reviewer` is given."""

    def __init__(
        self,
        *,
        name: IssuerName,
        expected: Expected,
        keys: KeySet | None,
        reviewer: TokenReviewer | None,
        closed_namespaces: frozenset[str],
    ) -> None:
        self.name = name
        self._expected = expected
        self._keys = keys
        self._reviewer = reviewer
        self._closed_namespaces = closed_namespaces

    def may_vouch(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.may_vouch`."""
        return token.claims.get("iss") == self._expected.issuer

    def knows(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.knows`; where only the cluster can tell, nothing is known beforehand."""
        return self._keys is not None and self._keys.knows(token.header.get("kid"))

    async def authenticate(self, token: UnverifiedToken, now: datetime) -> Identity:
        """See `Authenticator.authenticate`."""
        # 1. Offline first: what the keys refuse need not cost the cluster a review.
        if self._keys is not None:
            verify(token, await self._keys.find(token.header.get("kid")), self._expected, now)
        # 2. Then the cluster, which knows whether account, pod and node are still there.
        if self._reviewer is not None:
            await self._review(token, self._reviewer)
        # 3. Only now is what it says believed.
        issued, expires = check_claims(token.claims, self._expected, now)
        claims = _flat(token.claims)
        if claims["namespace"] in self._closed_namespaces:
            # A grant's own account would make chains that outlive a revocation.
            raise TokenRefused(Reason.TOKEN_OWN, f"an account of namespace {claims['namespace']}", verified=True)
        return Identity(
            issuer=self.name,
            subject=token.claims["sub"],
            kind=IdentityKind.WORKLOAD,
            claims=claims,
            issued_at=issued,
            expires_at=expires,
            token_digest=token.presented.digest(),
            unknown_claims=unknown(token.claims, KUBERNETES),
        )

    async def run(self) -> None:
        """See `Authenticator.run`."""
        if self._keys is not None:
            await self._keys.run()

    def unready(self) -> str | None:
        """See `Authenticator.unready`."""
        return self._keys.unready() if self._keys is not None else None

    async def _review(self, token: UnverifiedToken, reviewer: TokenReviewer) -> None:
        review = await reviewer.review(token.presented, (self._expected.audience,))
        if not review.authenticated:
            verified = self._keys is not None
            raise TokenRefused(Reason.TOKEN_NOT_LIVE, f"the cluster says: {review.error or 'no'}", verified=verified)
        # An authenticator of the cluster's that knows nothing of audiences names none: such a token is the cluster's.
        if self._expected.audience not in review.audiences:
            raise TokenRefused(Reason.TOKEN_AUDIENCE, "the cluster knows it for another audience", verified=True)
        account = _object(_object(token.claims, "kubernetes.io"), "serviceaccount")
        if (review.username, review.uid) != (token.claims.get("sub"), account.get("uid")):
            raise TokenRefused(Reason.TOKEN_NOT_LIVE, "the cluster knows another account by it", verified=True)


def _flat(claims: Claims) -> dict[str, Any]:
    """The nested claim of a projected token laid out for policies.

    Raises:
        TokenRefused: it is not one; tokens in Secrets of old have neither audience nor end, and are not wanted.
    """
    nested = _object(claims, "kubernetes.io")
    namespace, account = nested.get("namespace"), _object(nested, "serviceaccount")
    if (
        not isinstance(namespace, str)
        or claims.get("sub") != f"{PREFIX}{namespace}:{account.get('name')}"
        or not isinstance(account.get("uid"), str)
    ):
        raise TokenRefused(Reason.TOKEN_CLAIMS, "sub and kubernetes.io disagree", verified=True)
    if "secret" in nested:
        raise TokenRefused(Reason.TOKEN_CLAIMS, "bound to a Secret: only projected tokens are accepted", verified=True)
    flat = {
        "iss": claims["iss"],
        "sub": claims["sub"],
        "namespace": namespace,
        "service_account": account["name"],
        "service_account_uid": account["uid"],
    }
    for kind in ("pod", "node"):
        if kind in nested:
            bound = _object(nested, kind)
            flat |= {kind: bound.get("name"), f"{kind}_uid": bound.get("uid")}
    return flat


def _object(value: Claims, name: str) -> Claims:
    found = value.get(name)
    if not isinstance(found, dict):
        raise TokenRefused(Reason.TOKEN_CLAIMS, f"{name} is missing or not an object", verified=True)
    return found
