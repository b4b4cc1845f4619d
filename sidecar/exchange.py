"""Calls to the daemon: a token for a proof of identity, whether a token lives, and giving one back (exchanged.v1)."""

import contextlib
from collections.abc import Callable
from datetime import UTC
from typing import Any

import grpc

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from sidecar.model import Ask, Credential, ExchangeFailed, Fault, Refused, Subject

SECONDS = 20.0
"""For one call; the daemon gives an exchange 15."""
_JWT = "urn:ietf:params:oauth:token-type:jwt"
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
    }
)
"""The daemon said no. With any other code nobody did."""
_DETAILS = "grpc-status-details-bin"


_OPTIONS = (
    # A connection opened anew is tried at once: it does not sit out the pauses of the one before.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own pauses grow to two minutes; when to try is the schedule's to say.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A connection that the network forgot is noticed by the call that waits on it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)


class Daemon:
    """The daemon at `server` (host:port).

    `roots` vouch for it, PEM; where they may change, what reads them (OSError if it cannot). None takes public ones.
    """

    def __init__(self, server: str, roots: bytes | Callable[[], bytes] | None) -> None:
        self._server = server
        self._roots = roots
        self._opened: tuple[bytes, grpc.aio.Channel] | None = None

    async def exchange(self, ask: Ask, subject: Subject) -> Credential:
        """A token (RFC 8693 §2).

        Raises:
            Refused: the daemon says no.
            Fault: nobody did; it may be tried again.
        """
        request = pb.ExchangeRequest(
            audience=[ask.cluster] if ask.cluster else [],
            scope=ask.scope,
            subject_token=subject.token,
            subject_token_type=_JWT if subject.token else "",
            authorization_details=[pb.AuthorizationDetail(**detail) for detail in ask.details],  # type: ignore[arg-type] # checked where it is read
            intent=ask.intent,
        )
        if ask.lifetime is not None:
            request.requested_lifetime.seconds = ask.lifetime
        return _credential(await self._call("Exchange", request, subject))

    async def lives(self, token: str, subject: Subject) -> bool:
        """Whether a token still stands for something (RFC 7662 §2).

        Raises:
            Refused, Fault: it cannot be told.
        """
        reply = await self._call("Introspect", pb.IntrospectRequest(token=token), subject)
        return bool(reply.active)

    async def give_back(self, token: str, subject: Subject) -> None:
        """Its grant ends at once; an unknown token is no error (RFC 7009 §2.2).

        Raises:
            Refused, Fault: it may live still.
        """
        await self._call("Revoke", pb.RevokeRequest(token=token), subject)

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._opened is not None:
            await self._opened[1].close()
            self._opened = None

    async def _call(self, method: str, request: Any, subject: Subject) -> Any:
        stub: Any = exchange_pb2_grpc.TokenExchangeStub(self._channel(subject))  # type: ignore[no-untyped-call] # generated
        try:
            reply = await getattr(stub, method)(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            failed = _failed(error)
            if not failed.reason:
                # Nobody answered; nor would anybody soon on this connection, were it the connection's fault.
                self._opened = None
            raise failed from error
        if reply is None:  # so gRPC says that it could not read it
            raise Fault("", "the daemon's answer is no message; is it the daemon?")
        return reply

    def _channel(self, subject: Subject) -> grpc.aio.Channel:
        """The connection; a new one where the certificate that opened it is not the subject's any more.

        An old one is let go of and not closed: other calls may be on it, and end with it otherwise.
        """
        if self._opened is not None and self._opened[0] == subject.certificate:
            return self._opened[1]
        try:
            roots = self._roots() if callable(self._roots) else self._roots
        except OSError as error:
            raise Fault("", f"who vouches for the daemon cannot be read: {error}") from error
        credentials = grpc.ssl_channel_credentials(
            roots or subject.roots or None, subject.key or None, subject.certificate or None
        )
        self._opened = (subject.certificate, grpc.aio.secure_channel(self._server, credentials, _OPTIONS))
        return self._opened[1]


def _credential(reply: Any) -> Credential:
    try:
        expires_at = reply.expires_at.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise Fault("", f"the daemon's answer has no time for an end: {error}") from error
    if not reply.access_token or reply.expires_in <= 0:
        raise Fault("", "the daemon's answer has no token that lives; is it the daemon?")
    return Credential(
        token=reply.access_token,
        grant_id=reply.grant_id,
        expires_at=expires_at,
        seconds=float(reply.expires_in),
        cluster=reply.cluster.name,
        scope=reply.scope,
        server=reply.cluster.server,
        certificate_authority=reply.cluster.certificate_authority,
        namespace=_only_namespace(reply.authorization_details),
    )


def _only_namespace(details: Any) -> str:
    found = {name for detail in details for name in detail.namespaces or ("",)}
    return str(found.pop()) if len(found) == 1 else ""


def _failed(error: grpc.aio.AioRpcError) -> ExchangeFailed:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - for those who are refused alone
    from google.rpc import error_details_pb2, status_pb2  # noqa: PLC0415 - as above

    reason, request_id, retry_after, more = "", "", None, ""
    found = (value for name, value in error.trailing_metadata() or () if name == _DETAILS and isinstance(value, bytes))
    with contextlib.suppress(DecodeError):  # somebody between us may write there what is no status
        for detail in (detail for value in found for detail in status_pb2.Status.FromString(value).details):
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason, request_id = info.reason, info.metadata["request_id"]
                told = {key: text for key, text in info.metadata.items() if key not in {"request_id", "oauth_error"}}
                more = "".join(f"; {key}: {text}" for key, text in told.items())
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    message = (
        f"{error.details()} [{reason or error.code().name}{', request ' + request_id if request_id else ''}]{more}"
    )
    kind = Refused if reason and error.code() in _REFUSALS else Fault
    return kind(reason, message, retry_after=retry_after)
