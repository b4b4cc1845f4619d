"""The values that pass between the rooms of the sidecar."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for (RFC 8693 §2.1): once for each token of a configuration.

    Attributes:
        cluster: RFC 8693 `audience`; "" while the policy has only one.
        scope: `policy/scope`, or the scope alone while one policy matches.
        details: RFC 9396 authorization details of type `kubernetes`, as JSON objects; they narrow.
        lifetime: seconds; None takes the policy's default.
    """

    cluster: str = ""
    scope: str = ""
    details: tuple[dict[str, object], ...] = ()
    lifetime: int | None = None
    intent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The proof of who asks: a token, or a certificate for the connection, or both."""

    token: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    roots: bytes = b""
    """Who vouches for the daemon, where the proof's own trust domain does; PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A granted token, and where it is good.

    Attributes:
        expires_at: when the grant ends, aware UTC, by the daemon's clock.
        seconds: for how long it was good when it came.
        server: the API server's URL.
        certificate_authority: PEM that vouches for it; "" where public roots do.
        namespace: the only one that it is good in; "" where there are several, or all.
    """

    token: str = field(repr=False)
    grant_id: str
    expires_at: datetime
    seconds: float
    cluster: str
    scope: str
    server: str
    certificate_authority: str
    namespace: str = ""


class ExchangeFailed(Exception):
    """The daemon gave no token.

    Args:
        reason: stable, for machines (google.rpc.ErrorInfo.reason); "" where nobody answered.
        message: for people, with the request's id where there is one.
        retry_after: seconds, where the daemon says.
    """

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Refused(ExchangeFailed):
    """The daemon says no, and would again: what there is must not be used any more."""


class Fault(ExchangeFailed):
    """Nobody said no: it may be tried again, and what there is holds until it ends."""
