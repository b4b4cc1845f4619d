"""How an exchange fails: somebody said no, or nobody could say anything. What to do about each: docs/errors.md."""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """The daemon's reasons (google.rpc.ErrorInfo.reason). A newer daemon may have others: they come as plain texts."""

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


class ExchangeFailed(Exception):
    """There is no token. Its text is for people and says why, with the request's id.

    Attributes:
        reason: one of `Reason`, or "" where no daemon answered.
        request_id: finds the record; the operator wants it. "" where no daemon answered.
        metadata: what else may be told, such as `parameter` and `oauth_error` (RFC 6749 §5.2).
        retry_after: seconds that the daemon asks to wait for, 0 or more, as many as it says; or None.
    """

    def __init__(
        self,
        message: str,
        reason: str = "",
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class Refused(ExchangeFailed):
    """The daemon says no, and would again: mend what `reason` names."""


class Unavailable(ExchangeFailed):
    """Nobody said no: nothing was granted, or nobody knows. It may be tried again, with a fresh subject token."""
