"""Messages of the contract to the client's own values, and back (exchanged.v1)."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from exchanged.client.errors import ExchangeFailed, Reason, Refused, Unavailable
from exchanged.client.model import Certificate, Detail, Grant, Introspection
from exchanged.v1 import exchange_pb2 as pb

SECONDS = 20.0
"""For one call; the daemon gives an exchange 15."""
PATIENCE = 10.0
"""Seconds in which it is tried again."""
CLOSING_SECONDS = 5.0
"""For all renewals that are under way at the end, and again for giving all tokens back; they end by themselves too."""
CLOSED = "this client is closed"
OPTIONS = (
    # Out of the box gRPC waits for up to two minutes before it connects to a daemon that was away.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A connection that a network forgot is noticed by the call that waits on it, and not by the kernel much later.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # The one that counts: pings of any kind have a minute by default.
    ("grpc.http2.ping_timeout_ms", 5_000),
    # A new certificate has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
)
_JWT = "urn:ietf:params:oauth:token-type:jwt"
_KUBERNETES = "kubernetes"
_DETAILS = "grpc-status-details-bin"
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)
_PASSING = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
)


def exchange(
    subject_token: str,
    actor_token: str,
    *,
    cluster: str = "",
    scope: str = "",
    lifetime: timedelta | None = None,
    details: Sequence[Detail] = (),
    intent: str = "",
) -> pb.ExchangeRequest:
    """A request for a token (RFC 8693 §2.1). Without a subject token, the connection's certificate is the proof."""
    request = pb.ExchangeRequest(
        audience=[cluster] if cluster else [],
        scope=scope,
        subject_token=subject_token,
        subject_token_type=_JWT if subject_token else "",
        actor_token=actor_token,
        actor_token_type=_JWT if actor_token else "",
        authorization_details=[
            pb.AuthorizationDetail(
                type=_KUBERNETES,
                namespaces=each.namespaces,
                api_groups=each.api_groups,
                resources=each.resources,
                resource_names=each.resource_names,
                verbs=each.verbs,
            )
            for each in details
        ],
        intent=intent,
    )
    if lifetime is not None:
        request.requested_lifetime.FromTimedelta(lifetime)
    return request


def renewable(token: Any) -> Any:
    """A proof that can be had again for each renewal, or "" for the connection's certificate."""
    if isinstance(token, str) and token:
        raise TypeError("a credential is renewed, and needs a fresh proof each time: give a callable, not a text")
    return token or ""


def answered(reply: Any) -> Any:
    """An answer: where its bytes are none, gRPC's coroutines have None, and its threads an RpcError.

    Raises:
        Unavailable: it cannot be read.
    """
    if reply is None:
        raise Unavailable("the daemon's answer cannot be read; is it the daemon?")
    return reply


def granted(reply: pb.ExchangeResponse) -> Grant:
    """What came out (RFC 8693 §2.2.1).

    Raises:
        Unavailable: it is no token that lives.
    """
    try:
        expires_at = reply.expires_at.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise Unavailable(f"the daemon's answer has no time for an end: {error}") from error
    if not reply.access_token or reply.expires_in <= 0:
        raise Unavailable("the daemon's answer has no token that lives; is it the daemon?")
    return Grant(
        token=reply.access_token,
        grant_id=reply.grant_id,
        expires_at=expires_at,
        expires_in=float(reply.expires_in),
        cluster=reply.cluster.name,
        scope=reply.scope,
        server=reply.cluster.server,
        certificate_authority=reply.cluster.certificate_authority,
        details=_details(reply.authorization_details),
    )


def introspected(reply: pb.IntrospectResponse) -> Introspection:
    """What a token stands for (RFC 7662 §2.2).

    Raises:
        Unavailable: its times are none.
    """
    return Introspection(
        active=reply.active,
        scope=reply.scope,
        subject=reply.sub,
        cluster=reply.aud,
        username=reply.username,
        actor=reply.act,
        grant_id=reply.grant_id,
        policy=reply.policy,
        owner=reply.owner,
        mode=reply.mode,
        promise=reply.promise,
        issued_at=_time(reply.iat),
        expires_at=_time(reply.exp),
        details=_details(reply.authorization_details),
    )


def credentials(roots: bytes | None, certificate: Certificate | None) -> grpc.ChannelCredentials:
    """What a connection is opened with; public roots vouch where nobody else does."""
    if certificate is None:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(roots or certificate.roots or None, certificate.key, certificate.chain)


def failed(error: Any) -> ExchangeFailed:
    """What a gRPC error says."""
    info, retry_after = ErrorInfo(), None
    found = (value for name, value in error.trailing_metadata() or () if name == _DETAILS)
    with suppress(DecodeError):  # a proxy may write there what is no status
        for detail in (detail for value in found for detail in Status.FromString(value).details):
            delay = RetryInfo()
            if detail.Is(ErrorInfo.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Unpack(delay):
                retry_after = max(0.0, delay.retry_delay.seconds + delay.retry_delay.nanos / 1e9)
    more = {key: text for key, text in info.metadata.items() if key != "request_id"}
    request_id = info.metadata.get("request_id", "")
    told = "".join(f"; {key}: {text}" for key, text in more.items() if key != "oauth_error")
    message = f"{error.details()} [{info.reason or error.code().name}{request_id and ', request ' + request_id}]{told}"
    # A policy that changed in this very moment is no refusal: the new one has not been asked.
    said_no = info.reason not in {"", Reason.POLICY_CHANGED} and error.code() in _REFUSALS
    return (Refused if said_no else Unavailable)(message, info.reason, request_id, more, retry_after)


def may_pass(error: Any, failure: ExchangeFailed) -> bool:
    """Whether waiting may help."""
    return isinstance(failure, Unavailable) and (error.code() in _PASSING or failure.reason == Reason.POLICY_CHANGED)


def _time(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError) as error:
        raise Unavailable(f"the daemon's answer has a time that is none: {error}") from error


def _details(messages: Iterable[pb.AuthorizationDetail]) -> tuple[Detail, ...]:
    return tuple(
        Detail(
            namespaces=tuple(each.namespaces),
            api_groups=tuple(each.api_groups),
            resources=tuple(each.resources),
            resource_names=tuple(each.resource_names),
            verbs=tuple(each.verbs),
            cluster_role=each.cluster_role,
        )
        for each in messages
    )
