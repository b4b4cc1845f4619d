"""Protobuf messages to the daemon's own values, and back. Messages go no further than this."""

from collections.abc import Sequence, Sized
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from exchanged.errors import MalformedRequest, Reason
from exchanged.model import (
    REMEMBERED_DECISIONS,
    Allowed,
    AuthorizationDetail,
    ClusterTraits,
    Exchanged,
    ExchangeRequest,
    Grant,
    GrantId,
    PresentedToken,
    TokenType,
)
from exchanged.request import DETAIL_VALUES, VALUES
from exchanged.v1 import exchange_pb2 as pb

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
DETAIL_TYPE = "kubernetes"
_ACCESS_TOKEN = TokenType.ACCESS_TOKEN.value
LONGEST_LIFETIME = 9_999_999
"""Seconds that a request may name (115 days): far beyond what is granted, and within what arithmetic bears."""
_SECOND = 1_000_000_000
"""Nanoseconds."""

Message = TypeVar("Message", pb.ExchangeRequest, pb.RevokeRequest, pb.IntrospectRequest)


def read(kind: type[Message], raw: bytes) -> Message | None:
    """The message, or None where the bytes are none. The framework would log a traceback, and answer INTERNAL."""
    try:
        return kind.FromString(raw)
    except (DecodeError, ValueError):
        return None


def request(message: pb.ExchangeRequest | None) -> ExchangeRequest:
    """What a caller asks for.

    Raises:
        MalformedRequest: a field has a value that nothing can be made of, or there is no message at all.
    """
    if message is None:
        raise MalformedRequest(Reason.MALFORMED, "not a message of the contract")
    check_grant_type(message.grant_type or GRANT_TYPE)
    # Refused by their number before anything is made of them: what a request costs before it is refused is small.
    check_count(message.authorization_details, VALUES)
    check_count(message.audience, VALUES, "audience")
    check_count(message.resource, VALUES, "resource")
    return ExchangeRequest(
        subject_token=PresentedToken(text=message.subject_token) if message.subject_token else None,
        subject_token_type=message.subject_token_type,
        actor_token=PresentedToken(text=message.actor_token) if message.actor_token else None,
        actor_token_type=message.actor_token_type or None,
        requested_token_type=message.requested_token_type or None,
        audience=tuple(message.audience),
        resource=tuple(message.resource),
        scope=scopes(message.scope),
        authorization_details=tuple(_detail(each) for each in message.authorization_details),
        intent=message.intent,
        lifetime=_lifetime(message.requested_lifetime) if message.HasField("requested_lifetime") else None,
        replaces=GrantId(message.replaces_grant_id) if message.replaces_grant_id else None,
    )


def token(message: pb.RevokeRequest | pb.IntrospectRequest | None) -> PresentedToken:
    """The token that is given back, or asked about.

    Raises:
        MalformedRequest: there is none.
    """
    if message is None:
        raise MalformedRequest(Reason.MALFORMED, "not a message of the contract")
    if not message.token:
        raise MalformedRequest(Reason.PARAMETER_MISSING, "token: parameter_missing", public={"parameter": "token"})
    return PresentedToken(text=message.token)


def scopes(text: str) -> tuple[str, ...]:
    """The scopes of a space-delimited text; of too many only so many that they are refused for it."""
    return tuple(text.split(maxsplit=VALUES + 1))


def check_count(values: Sized, most: int, parameter: str = "authorization_details") -> None:
    """Refuses more values of a parameter, or of a field of authorization details, than any policy could grant."""
    if len(values) > most:
        raise MalformedRequest(
            Reason.PARAMETER_TOO_LONG, f"{parameter}: more than {most}", public={"parameter": parameter}
        )


def check_grant_type(grant_type: str) -> None:
    """Refuses every grant type but token exchange (RFC 6749 §5.2: unsupported_grant_type)."""
    if grant_type != GRANT_TYPE:
        raise MalformedRequest(
            Reason.UNSUPPORTED_GRANT_TYPE, "not a token exchange", public={"parameter": "grant_type"}
        )


def check_detail_type(detail_type: object) -> None:
    """Refuses authorization details of a type that is not known here (RFC 9396 §5)."""
    if detail_type != DETAIL_TYPE:
        raise MalformedRequest(
            Reason.MALFORMED,
            f"authorization details are of type {DETAIL_TYPE}",
            public={"parameter": "authorization_details"},
        )


def response(exchanged: Exchanged, requested: str | None, now: datetime) -> pb.ExchangeResponse:
    """RFC 8693 §2.2.1."""
    grant = exchanged.grant
    return pb.ExchangeResponse(
        access_token=exchanged.token.text,
        issued_token_type=issued_type(requested),
        token_type="Bearer",  # noqa: S106 - RFC 6750
        expires_in=seconds_left(grant, now),
        scope=scope_of(grant),
        authorization_details=details(grant.allowed),
        grant_id=grant.id,
        expires_at=Timestamp(seconds=int(grant.expires_at.timestamp())),
        cluster=_cluster(exchanged.cluster),
    )


def introspection(grant: Grant, traits: ClusterTraits) -> pb.IntrospectResponse:
    """RFC 7662 §2.2, of a live token."""
    return pb.IntrospectResponse(
        active=True,
        scope=scope_of(grant),
        token_type="Bearer",  # noqa: S106 - RFC 6750
        exp=int(grant.expires_at.timestamp()),
        iat=int(grant.created_at.timestamp()),
        sub=f"{grant.subject.issuer}/{grant.subject.subject}",
        aud=grant.cluster,
        jti=grant.credential_id,
        username=grant.plan.user,
        act=f"{grant.actor.issuer}/{grant.actor.subject}" if grant.actor else "",
        grant_id=grant.id,
        policy=grant.policy,
        owner=grant.allowed.owner,
        authorization_details=details(grant.allowed),
        cluster=_cluster(traits),
        mode=grant.mode.value,
        promise=grant.mode.promise,
    )


@lru_cache(maxsize=REMEMBERED_DECISIONS)
def details(allowed: Allowed) -> Sequence[pb.AuthorizationDetail]:
    """What is granted, a detail for each rule."""
    if allowed.cluster_role:
        return [
            pb.AuthorizationDetail(type=DETAIL_TYPE, namespaces=allowed.namespaces, cluster_role=allowed.cluster_role)
        ]
    return [
        pb.AuthorizationDetail(
            type=DETAIL_TYPE,
            namespaces=allowed.namespaces,
            api_groups=rule.api_groups,
            resources=rule.resources,
            resource_names=rule.resource_names,
            verbs=rule.verbs,
        )
        for rule in allowed.rules
    ]


def issued_type(requested: str | None) -> str:
    """The token is a JWT, and an access token to whoever does not look into it (RFC 8693 §3)."""
    return requested or _ACCESS_TOKEN


def seconds_left(grant: Grant, now: datetime) -> int:
    """Whole seconds until the grant ends."""
    return max(0, int((grant.expires_at - now).total_seconds()))


def scope_of(grant: Grant) -> str:
    """The scope as it could be asked for again."""
    return f"{grant.policy}/{grant.allowed.scope}"


def _detail(message: pb.AuthorizationDetail) -> AuthorizationDetail:
    check_detail_type(message.type)
    if message.cluster_role:
        raise MalformedRequest(
            Reason.MALFORMED, "cluster_role is for replies", public={"parameter": "authorization_details"}
        )
    for values in (
        message.namespaces,
        message.api_groups,
        message.resources,
        message.resource_names,
        message.verbs,
    ):
        check_count(values, DETAIL_VALUES)
    return AuthorizationDetail(
        namespaces=tuple(message.namespaces),
        api_groups=tuple(message.api_groups),
        resources=tuple(message.resources),
        resource_names=tuple(message.resource_names),
        verbs=tuple(message.verbs),
    )


def _lifetime(duration: Duration) -> timedelta:
    """Whatever 96 bits can say, as far as it is a time that could be granted or refused as too long."""
    if not 0 <= duration.seconds <= LONGEST_LIFETIME or not 0 <= duration.nanos < _SECOND:
        raise MalformedRequest(
            Reason.MALFORMED, "requested_lifetime: malformed", public={"parameter": "requested_lifetime"}
        )
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1_000)


def _cluster(traits: ClusterTraits) -> pb.Cluster:
    return pb.Cluster(name=traits.name, server=traits.resource, certificate_authority=traits.certificate_authority)
