"""The values that pass between the rooms of the daemon: no I/O, no protobuf, no Kubernetes types."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NewType

IssuerName = NewType("IssuerName", str)
"""The name an issuer has in the configuration; never its `iss`."""
ClusterName = NewType("ClusterName", str)
"""The name of a target cluster; RFC 8693 `audience`."""
GrantId = NewType("GrantId", str)
RequestId = NewType("RequestId", str)
TokenDigest = NewType("TokenDigest", bytes)
"""SHA-256 of a token's text: 32 bytes."""

Clock = Callable[[], datetime]
"""Aware UTC now."""

Claims = Mapping[str, Any]
"""Verified claims: JSON values by claim name."""


def token_digest(text: str) -> TokenDigest:
    """The SHA-256 of a token's text."""
    return TokenDigest(hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedToken:
    """A token that somebody shows and nobody has verified; its text stays out of `repr`."""

    text: str = field(repr=False)

    def digest(self) -> TokenDigest:
        """The SHA-256 of the token's text."""
        return token_digest(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCertificate:
    """The certificate chain with which a caller opened its connection: PEM, the leaf first, nobody's word yet."""

    chain_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedToken:
    """What a token says of itself. Good for choosing whom to ask about it, and for nothing else.

    Attributes:
        message: what the signature is over, and `signature` what is said to be it (RFC 7515 §5.2).
    """

    presented: PresentedToken
    header: Claims
    claims: Claims = field(repr=False)
    message: bytes = field(repr=False)
    signature: bytes = field(repr=False)


class TokenType(StrEnum):
    """Token type identifiers (RFC 8693 §3; SPIFFE's JWT-SVIDs are `jwt`)."""

    ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a URN
    ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - a URN
    JWT = "urn:ietf:params:oauth:token-type:jwt"


class IdentityKind(StrEnum):
    """Whether an identity is a program or a human being."""

    WORKLOAD = "workload"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a valid token, or certificate, speaks for; built by authenticators alone.

    Attributes:
        claims: the verified claims that policies may match on.
        single_use: the key under which the token may be used once, or None where its issuer shows it again.
        job: the issuer's own id of the job that holds the token, where it has one.
        job_uses: how many grants one job may get in all; 0 without a bound.
        may_act: the subject token's `may_act` claim (RFC 8693 §4.4), or None.
        unknown_claims: claims of the token that nothing here verified, used or knowingly ignored.
    """

    issuer: IssuerName
    subject: str
    kind: IdentityKind
    claims: Claims
    issued_at: datetime
    expires_at: datetime
    token_digest: TokenDigest
    single_use: str | None = None
    job: str | None = None
    job_uses: int = 0
    may_act: Claims | None = None
    unknown_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may be done to what: the shape of a Kubernetes RBAC rule. Empty resource_names means every name."""

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    resource_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationDetail:
    """One RFC 9396 authorization detail of type `kubernetes`; an empty field does not narrow."""

    namespaces: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRequest:
    """What a caller asks for (RFC 8693 §2.1), as a door read it.

    Attributes:
        subject_token: None where the caller's certificate says who it is for.
    """

    subject_token: PresentedToken | None
    subject_token_type: str
    actor_token: PresentedToken | None = None
    actor_token_type: str | None = None
    requested_token_type: str | None = None
    audience: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    authorization_details: tuple[AuthorizationDetail, ...] = ()
    intent: str = ""
    lifetime: timedelta | None = None
    replaces: GrantId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """How and when a request came in.

    Attributes:
        source: the peer's address.
        door: `grpc`, `mtls` or `http`.
        certificate: what the peer opened its connection with; None at doors that ask for none.
        peer: the SPIFFE ID of that certificate once it is verified, else "".
    """

    request_id: RequestId
    time: datetime
    source: str
    door: str
    certificate: PresentedCertificate | None = None
    peer: str = ""


class Mode(StrEnum):
    """How a cluster comes to honour a grant."""

    AUTHORIZER = "authorizer"
    BINDINGS = "bindings"

    @property
    def promise(self) -> str:
        """What holds when a grant of this mode ends."""
        return _PROMISES[self]


_PROMISES = {
    Mode.AUTHORIZER: (
        "Ends to the second, and on the next request when revoked. With the daemon down every request is denied."
    ),
    Mode.BINDINGS: (
        "Rights end within milliseconds of the withdrawal, the token within 10 s of it. With the daemon down or the "
        "cluster out of reach the rights last until the token's own end: at least 600 s, and up to 70 s more."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTraits:
    """What a decision has to know of a cluster, and its clients.

    Attributes:
        resource: the API server's URL; RFC 8693 `resource`.
        max_lifetime: no grant for this cluster lives longer.
        certificate_authority: PEM that vouches for the API server; "" where public roots do.
        fenced_roles: mode `bindings` may make roles of its own, so that rules and narrowing work.
        breeding: the classes of rules that this cluster allows at all.
        closed_namespaces: namespaces that no rule may reach: the daemon's own and that of the grants.
    """

    name: ClusterName
    mode: Mode
    resource: str
    max_lifetime: timedelta
    certificate_authority: str = ""
    fenced_roles: bool = False
    breeding: frozenset[str] = frozenset()
    closed_namespaces: frozenset[str] = frozenset()


REMEMBERED_DECISIONS = 1_024
"""What follows from a decision alone is worked out once for so many: most requests come to one that was made before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """A decision to allow, with the one policy and scope that made it.

    Attributes:
        namespaces: where the rules hold; empty only if cluster_scoped.
        rules: exactly what is granted; empty where the policy names a cluster role.
        cluster_role: the role to bind, or "".
        acknowledged: classes of breeding rules that the policy's author owned up to.
        workload_accounts: service accounts that pod templates written under the grant may name.
    """

    policy: str
    scope: str
    policy_digest: str
    owner: str
    function: str
    cluster: ClusterName
    namespaces: tuple[str, ...]
    cluster_scoped: bool
    rules: tuple[Rule, ...]
    cluster_role: str
    acknowledged: tuple[str, ...]
    workload_accounts: tuple[str, ...]
    lifetime: timedelta

    def __hash__(self) -> int:
        """Of what can differ; the rest follows from the policy. By less, all narrowings of a scope would collide."""
        return hash((self.policy_digest, self.scope, self.cluster, self.lifetime, self.namespaces, self.rules))


class GrantState(StrEnum):
    """Where a grant stands: intended, issued, one of four ends, and withdrawn from its cluster."""

    INTENDED = "intended"
    ISSUED = "issued"
    FAILED = "failed"
    REVOKED = "revoked"
    EXPIRED = "expired"
    RETURNED = "returned"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A subject or an actor, as a grant remembers them."""

    issuer: IssuerName
    subject: str
    kind: IdentityKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterObject:
    """An object made at a cluster for a grant; `uid` is "" until the cluster has answered."""

    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a mode is about to make for a grant; recorded before it is made.

    Attributes:
        user: the user name that the cluster will see.
        credential_id: the token's id (`jti`) where it is known beforehand, else "".
        objects: what will be made at the cluster, named beforehand.
        role_digest: SHA-256 of the rules of the bound cluster role as they stand, or "".
    """

    user: str
    credential_id: str = ""
    objects: tuple[ClusterObject, ...] = ()
    role_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One decision to allow, and all that was ever decided about it.

    Attributes:
        expires_at: when the right ends. In mode `bindings` the token itself may be valid longer.
        ended: why and how it ended, in words; "" while it lives.
        token_digest: SHA-256 of the issued token; None before it is issued.
    """

    id: GrantId
    state: GrantState
    mode: Mode
    allowed: Allowed
    plan: Plan
    subject: Party
    actor: Party | None
    job: str
    stated_intent: str
    request_id: RequestId
    source: str
    created_at: datetime
    expires_at: datetime
    credential_id: str = ""
    token_digest: TokenDigest | None = None
    objects: tuple[ClusterObject, ...] = ()
    ended: str = ""

    @property
    def policy(self) -> str:
        """The policy that authored the grant."""
        return self.allowed.policy

    @property
    def cluster(self) -> ClusterName:
        """The cluster it is for."""
        return self.allowed.cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token that a cluster will honour, and what was made for it."""

    text: str = field(repr=False)
    credential_id: str
    token_type: TokenType = TokenType.JWT
    objects: tuple[ClusterObject, ...] = ()
    digest: TokenDigest = field(init=False)
    """The SHA-256 of the token's text."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", token_digest(self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What an exchange came to: the token, the grant behind it as it was intended, and where it is good."""

    token: IssuedToken
    grant: Grant
    cluster: ClusterTraits
