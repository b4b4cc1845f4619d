"""SPIFFE trust domains: JWT-SVIDs as tokens, X.509-SVIDs as the certificate of a caller's connection."""

from datetime import datetime

from exchanged.authenticate.bundles import Authorities, Bundle, TrustBundle
from exchanged.authenticate.fetched import FAILURE_PAUSE
from exchanged.authenticate.jwk import VerificationKey
from exchanged.authenticate.jws import Accepted, check_audience, check_signature, check_times
from exchanged.authenticate.keysets import with_id
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.svid import claims_of
from exchanged.authenticate.x509_svid import SvidChain
from exchanged.errors import KeysUnavailable, Reason
from exchanged.model import Identity, IdentityKind, IssuerName, UnverifiedToken
from exchanged.spiffe_id import SpiffeId

_HEADER = frozenset({"alg", "kid", "typ"})
"""All that a JWT-SVID's header may have (JWT-SVID §2)."""
_TYPES = frozenset({"JWT", "JOSE"})
"""JWT-SVID §2.3."""


class SpiffeAuthenticator:
    """Implements `Authenticator`, and `CertificateAuthenticator`, for one trust domain.

    `svids` are the kinds that are accepted: `jwt`, `x509`.
    """

    def __init__(
        self, *, name: IssuerName, trust_domain: str, accepted: Accepted, svids: frozenset[str], bundle: TrustBundle
    ) -> None:
        self.name = name
        self.trust_domain = trust_domain
        self._accepted = accepted
        self._svids = svids
        self._bundle = bundle

    def may_vouch(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.may_vouch`; here by the trust domain of `sub`, for an SVID need not name an issuer."""
        return "jwt" in self._svids and SpiffeId.looks_of(self.trust_domain, token.claims.get("sub"))

    def knows(self, token: UnverifiedToken) -> bool:
        """See `Authenticator.knows`."""
        bundle = self._bundle.last
        return bundle is not None and bool(with_id(bundle.jwt_keys or (), token.header.get("kid")))

    async def authenticate(self, token: UnverifiedToken, now: datetime) -> Identity:
        """See `Authenticator.authenticate` (JWT-SVID §4). `jti` is optional, and a token good for many uses (§7.1)."""
        if strange := token.header.keys() - _HEADER:
            raise TokenRefused(Reason.TOKEN_MALFORMED, f"the header has {', '.join(sorted(strange))[:100]}")
        check_signature(token, await self._jwt_keys(token.header.get("kid")), self._accepted.algorithms, _TYPES)
        spiffe_id = self._own(token.claims.get("sub"))
        check_audience(token.claims.get("aud"), self._accepted)
        issued, expires = check_times(token.claims, self._accepted, now, issue_required=False)
        return Identity(
            issuer=self.name,
            subject=str(spiffe_id),
            kind=IdentityKind.WORKLOAD,
            claims=claims_of(spiffe_id, "jwt", token.claims),
            issued_at=issued,
            expires_at=expires,
            token_digest=token.presented.digest(),
        )

    async def authenticate_certificate(self, chain: SvidChain, now: datetime) -> Identity:
        """See `CertificateAuthenticator.authenticate_certificate`."""
        if "x509" not in self._svids:
            raise TokenRefused(Reason.CERTIFICATE_INVALID, f"issuer {self.name} does not accept X.509-SVIDs")
        bundle = await self._bundle.get()
        try:
            self._check(chain, bundle, now)
        except TokenRefused:
            # Its authority may be newer than what is known here.
            newer = await self._bundle.again()
            if newer is None or newer.authorities is bundle.authorities:
                raise
            self._check(chain, newer, now)
        return Identity(
            issuer=self.name,
            subject=str(chain.spiffe_id),
            kind=IdentityKind.WORKLOAD,
            claims=chain.claims,
            issued_at=chain.leaf.not_valid_before_utc,
            expires_at=chain.leaf.not_valid_after_utc,
            token_digest=chain.digest,
        )

    def roots(self) -> Authorities:
        """Who may have issued the certificates of callers, as far as is known now; the handshake's business."""
        bundle = self._bundle.fresh() if "x509" in self._svids else None
        return bundle.authorities or () if bundle is not None else ()

    async def run(self) -> None:
        """See `Authenticator.run`."""
        await self._bundle.run()

    def unready(self) -> str | None:
        """See `Authenticator.unready`."""
        why = self._bundle.unready()
        if why is None and (bundle := self._bundle.fresh()) is not None and not (bundle.jwt_keys or bundle.authorities):
            return f"the bundle of trust domain {self.trust_domain} is empty"
        return why

    async def _jwt_keys(self, kid: object) -> tuple[VerificationKey, ...]:
        bundle = await self._bundle.get()
        if bundle.jwt_keys is None:
            raise _unavailable(self.trust_domain, "JWT")
        if found := with_id(bundle.jwt_keys, kid):
            return found
        newer = await self._bundle.again()
        return with_id(newer.jwt_keys or (), kid) if newer is not None else ()

    def _check(self, chain: SvidChain, bundle: Bundle, now: datetime) -> None:
        if bundle.authorities is None:
            raise _unavailable(self.trust_domain, "X.509")
        chain.check(bundle.authorities, bundle.revocations, now)

    def _own(self, subject: object) -> SpiffeId:
        """The ID of a workload *of this trust domain*: a key vouches for nobody else's (JWT-SVID §3.1)."""
        try:
            spiffe_id = SpiffeId.parse(subject if isinstance(subject, str) else "")
        except ValueError as error:
            raise TokenRefused(Reason.TOKEN_CLAIMS, "sub is not a SPIFFE ID", verified=True) from error
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise TokenRefused(Reason.TOKEN_CLAIMS, "sub is no workload of this trust domain", verified=True)
        return spiffe_id


def _unavailable(trust_domain: str, kind: str) -> KeysUnavailable:
    detail = f"the {kind} keys of trust domain {trust_domain} are not known now"
    return KeysUnavailable(Reason.KEYS_UNAVAILABLE, detail, retry_after=FAILURE_PAUSE)
