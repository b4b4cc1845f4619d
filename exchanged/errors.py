"""Everything a caller can cause, in one family, and the one table of what they are told.

Free of gRPC and HTTP: a door looks its answer up in the class's `answer`. The caller gets the class's constant message,
a stable reason and what `public` holds; `detail` goes to the record alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why a request was refused: stable, machine-readable, safe to tell (google.rpc.ErrorInfo.reason)."""

    MALFORMED = "MALFORMED"
    PARAMETER_MISSING = "PARAMETER_MISSING"
    PARAMETER_REPEATED = "PARAMETER_REPEATED"
    PARAMETER_CONFLICT = "PARAMETER_CONFLICT"
    PARAMETER_TOO_LONG = "PARAMETER_TOO_LONG"
    UNSUPPORTED_GRANT_TYPE = "UNSUPPORTED_GRANT_TYPE"
    UNSUPPORTED_TOKEN_TYPE = "UNSUPPORTED_TOKEN_TYPE"  # noqa: S105 - a reason
    TOKEN_MALFORMED = "TOKEN_MALFORMED"  # noqa: S105 - a reason
    TOKEN_SIGNATURE = "TOKEN_SIGNATURE"  # noqa: S105 - a reason
    TOKEN_ALGORITHM = "TOKEN_ALGORITHM"  # noqa: S105 - a reason
    TOKEN_ISSUER_UNKNOWN = "TOKEN_ISSUER_UNKNOWN"  # noqa: S105 - a reason
    TOKEN_AUDIENCE = "TOKEN_AUDIENCE"  # noqa: S105 - a reason
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a reason
    TOKEN_NOT_YET_VALID = "TOKEN_NOT_YET_VALID"  # noqa: S105 - a reason
    TOKEN_LIFETIME = "TOKEN_LIFETIME"  # noqa: S105 - a reason
    TOKEN_CLAIMS = "TOKEN_CLAIMS"  # noqa: S105 - a reason
    TOKEN_REPLAYED = "TOKEN_REPLAYED"  # noqa: S105 - a reason
    TOKEN_NOT_LIVE = "TOKEN_NOT_LIVE"  # noqa: S105 - a reason
    TOKEN_OWN = "TOKEN_OWN"  # noqa: S105 - a reason
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"
    CERTIFICATE_REQUIRED = "CERTIFICATE_REQUIRED"
    SUBJECT_REVOKED = "SUBJECT_REVOKED"
    NO_POLICY = "NO_POLICY"
    ACTOR_NOT_ALLOWED = "ACTOR_NOT_ALLOWED"
    CONDITION_FALSE = "CONDITION_FALSE"
    INTENT_REQUIRED = "INTENT_REQUIRED"
    CLUSTER_UNKNOWN = "CLUSTER_UNKNOWN"
    CLUSTER_NOT_GRANTED = "CLUSTER_NOT_GRANTED"
    CLUSTER_AMBIGUOUS = "CLUSTER_AMBIGUOUS"
    SCOPE_UNKNOWN = "SCOPE_UNKNOWN"
    SCOPE_AMBIGUOUS = "SCOPE_AMBIGUOUS"
    NAMESPACE_CLOSED = "NAMESPACE_CLOSED"
    DETAILS_EXCEED_POLICY = "DETAILS_EXCEED_POLICY"
    DETAILS_CANNOT_NARROW = "DETAILS_CANNOT_NARROW"
    DETAILS_UNSUPPORTED = "DETAILS_UNSUPPORTED"
    LIFETIME_EXCEEDS_POLICY = "LIFETIME_EXCEEDS_POLICY"
    BREEDING_NOT_ACKNOWLEDGED = "BREEDING_NOT_ACKNOWLEDGED"
    POLICY_CHANGED = "POLICY_CHANGED"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    TOO_MANY_LIVE_GRANTS = "TOO_MANY_LIVE_GRANTS"
    JOB_EXHAUSTED = "JOB_EXHAUSTED"
    RATE_LIMITED = "RATE_LIMITED"
    OVERLOADED = "OVERLOADED"
    LOG_UNAVAILABLE = "LOG_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CLUSTER_UNAVAILABLE = "CLUSTER_UNAVAILABLE"
    KEYS_UNAVAILABLE = "KEYS_UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller is told of a class of errors: gRPC code by name, OAuth error code, HTTP status, message."""

    grpc: str
    oauth: str
    http: int
    message: str


class ExchangeError(Exception):
    """The root of what a caller can cause.

    Args:
        reason: why, for machines.
        detail: what happened, for the record alone; never a token, not even cut short.
        public: facts that help the caller and tell nothing they may not know.
        retry_after: when it may be tried again, if that can help.
        verified: an issuer vouches for the caller, though the request is refused; such a refusal is on record.
    """

    answer: ClassVar[Answer]
    reason: Reason
    detail: str
    public: Mapping[str, str]
    retry_after: timedelta | None
    verified: bool

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        public: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        verified: bool = False,
    ) -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail
        self.public = dict(public or {})
        self.retry_after = retry_after
        self.verified = verified

    @property
    def oauth_error(self) -> str:
        """The OAuth error code (RFC 6749 §5.2, RFC 8693 §2.2.2, RFC 9396 §5)."""
        return self.answer.oauth


class MalformedRequest(ExchangeError):
    """A parameter is missing, repeated, in conflict or of an unsupported type."""

    answer = Answer(
        grpc="INVALID_ARGUMENT", oauth="invalid_request", http=400, message="The request is not a valid token exchange."
    )

    @property
    def oauth_error(self) -> str:
        """`unsupported_grant_type` has a code of its own (RFC 6749 §5.2)."""
        return "unsupported_grant_type" if self.reason is Reason.UNSUPPORTED_GRANT_TYPE else self.answer.oauth


class SubjectTokenRejected(ExchangeError):
    """The subject token is not valid here (RFC 8693 §2.2.2: invalid_request)."""

    answer = Answer(
        grpc="UNAUTHENTICATED", oauth="invalid_request", http=400, message="The subject token was not accepted."
    )


class ActorTokenRejected(ExchangeError):
    """The actor token is not valid here (RFC 8693 §2.2.2: invalid_request)."""

    answer = Answer(
        grpc="UNAUTHENTICATED", oauth="invalid_request", http=400, message="The actor token was not accepted."
    )


class PolicyDenied(ExchangeError):
    """No policy allows this subject what it asks for (RFC 8693 §2.2.2: invalid_request)."""

    answer = Answer(
        grpc="PERMISSION_DENIED", oauth="invalid_request", http=400, message="No policy allows this request."
    )


class TargetDenied(ExchangeError):
    """The cluster is unknown or not granted (RFC 8693 §2.2.2: invalid_target)."""

    answer = Answer(
        grpc="PERMISSION_DENIED", oauth="invalid_target", http=400, message="The requested cluster is not granted."
    )


class ScopeDenied(ExchangeError):
    """The scope or the authorization details are outside of the policy."""

    answer = Answer(
        grpc="PERMISSION_DENIED", oauth="invalid_scope", http=400, message="The requested scope is not granted."
    )

    @property
    def oauth_error(self) -> str:
        """Authorization details have a code of their own (RFC 9396 §5)."""
        return "invalid_authorization_details" if self.reason.value.startswith("DETAILS_") else self.answer.oauth


class ApprovalRequired(ExchangeError):
    """Somebody has to agree first."""

    answer = Answer(
        grpc="FAILED_PRECONDITION", oauth="authorization_pending", http=400, message="The request waits for approval."
    )


class TooManyRequests(ExchangeError):
    """A bound was reached; carries when to try again."""

    answer = Answer(grpc="RESOURCE_EXHAUSTED", oauth="slow_down", http=429, message="A limit was reached; slow down.")


class Unavailable(ExchangeError):
    """Something needed is out of reach, so nothing was granted; may be tried again."""

    answer = Answer(
        grpc="UNAVAILABLE",
        oauth="temporarily_unavailable",
        http=503,
        message="The service cannot answer now; try again.",
    )


class LogUnavailable(Unavailable):
    """The record could not be written."""


class StoreUnavailable(Unavailable):
    """The store could not be read or written."""


class ClusterUnavailable(Unavailable):
    """The target cluster did not answer."""


class KeysUnavailable(Unavailable):
    """An issuer's keys could not be had."""


class InternalError(ExchangeError):
    """A bug: constant text for the caller, the traceback for the daemon's own log."""

    answer = Answer(grpc="INTERNAL", oauth="server_error", http=500, message="Internal error.")
