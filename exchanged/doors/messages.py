"""Protobuf messages to the daemon's own values, and back. Messages go no further than this."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from exchanged.errors import MalformedRequest, Reason
from exchanged.model import (
    AuthorizationDetail,
    ClusterTraits,
    Exchanged,
    ExchangeRequest,
    Grant,
    GrantId,
    PresentedToken,
    TokenType,
)
from exchanged.v1 import exchange_pb2 as pb

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
DETAIL_TYPE = "kubernetes"


def request(message: pb.ExchangeRequest) -> ExchangeRequest:
    """What a caller asks for.

    Raises:
        MalformedRequest: a field has a value that nothing can be made of.
    """
    check_grant_type(message.grant_type or GRANT_TYPE)
    return ExchangeRequest(
        subject_token=PresentedToken(text=message.subject_token),
        subject_token_type=message.subject_token_type,
        actor_token=PresentedToken(text=message.actor_token) if message.actor_token else None,
        actor_token_type=message.actor_token_type or None,
        requested_token_type=message.requested_token_type or None,
        audience=tuple(message.audience),
        resource=tuple(message.resource),
        scope=tuple(message.scope.split()),
        authorization_details=tuple(_detail(each) for each in message.authorization_details),
        intent=message.intent,
        lifetime=message.requested_lifetime.ToTimedelta() if message.HasField("requested_lifetime") else None,
        replaces=GrantId(message.replaces_grant_id) if message.replaces_grant_id else None,
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
        authorization_details=details(grant),
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
        authorization_details=details(grant),
        cluster=_cluster(traits),
        mode=grant.mode.value,
        promise=grant.mode.promise,
    )


def details(grant: Grant) -> list[pb.AuthorizationDetail]:
    """What is granted, a detail for each rule."""
    allowed = grant.allowed
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
    return requested or TokenType.ACCESS_TOKEN.value


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
    return AuthorizationDetail(
        namespaces=tuple(message.namespaces),
        api_groups=tuple(message.api_groups),
        resources=tuple(message.resources),
        resource_names=tuple(message.resource_names),
        verbs=tuple(message.verbs),
    )


def _cluster(traits: ClusterTraits) -> pb.Cluster:
    return pb.Cluster(name=traits.name, server=traits.resource, certificate_authority=traits.certificate_authority)
