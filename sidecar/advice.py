"""What to do about a refusal, by its reason (docs/errors.md has all of it), and about a connection that fails."""

_YOURSELF = {
    "TOKEN_AUDIENCE": "the subject token has to be made out to the daemon's audience, and no other",
    "TOKEN_EXPIRED": "whoever keeps the subject token fresh has stopped; if it is fresh, compare the clocks",
    "TOKEN_NOT_YET_VALID": "compare the clocks",
    "TOKEN_REPLAYED": "a subject token of this kind is good once; use a source that gives a new one each time",
    "TOKEN_OWN": "show the original proof, not a token that came out of an exchange",
    "TOKEN_NOT_LIVE": "the cluster says that this pod or service account is gone",
    "CERTIFICATE_REQUIRED": "the policy wants the workload's own certificate: certificate: true, and the door mtls",
    "CLUSTER_AMBIGUOUS": "name the cluster",
    "SCOPE_AMBIGUOUS": "name the scope as policy/scope",
    "SCOPE_UNKNOWN": "the policy has no such scope",
    "CLUSTER_UNKNOWN": "there is no such cluster",
    "INTENT_REQUIRED": "the policy wants an intent",
    "LIFETIME_EXCEEDS_POLICY": "ask for a shorter lifetime",
    "POLICY_CHANGED": "the policy changed at this very moment; try again",
    "TOO_MANY_LIVE_GRANTS": "give tokens back that are not needed, or wait until some have ended",
    "JOB_EXHAUSTED": "this job had as many grants as it may",
}
_OPERATOR = frozenset({"TOKEN_ISSUER_UNKNOWN", "TOKEN_LIFETIME", "SUBJECT_REVOKED", "CERTIFICATE_INVALID", "INTERNAL"})
_OWNER = frozenset({"NO_POLICY", "ACTOR_NOT_ALLOWED", "CONDITION_FALSE", "CLUSTER_NOT_GRANTED", "NAMESPACE_CLOSED"}) | {
    "DETAILS_EXCEED_POLICY",
    "BREEDING_NOT_ACKNOWLEDGED",
}


def advice(reason: str) -> str:
    """Whom to ask, and for what."""
    if reason in _YOURSELF:
        return _YOURSELF[reason]
    if reason in _OPERATOR:
        return "ask the daemon's operator, with the request's id"
    if reason in _OWNER:
        return "ask the owner of the policy you expected to match, with the request's id"
    return "docs/errors.md says what it means and whom to ask"


_CAUSES = (
    ("CERTIFICATE_VERIFY_FAILED", "nobody trusted here vouches for the daemon's certificate; is it the right ca?"),
    ("Hostname Verification", "the daemon's certificate is for other names; give one of those as server"),
    ("ALPN", "that is no gRPC door; the server is the address of doors.grpc"),
    ("Socket closed", "it hung up: it wants a certificate and got none, knows no authority of it, or is stopping"),
    ("Connection refused", "nothing listens there; does the daemon run, and is server right?"),
    ("hostname lookup", "there is no such host; is server right?"),
)
"""What gRPC says when a connection fails, and what it means."""


def why(error: Exception) -> str:
    """What went wrong, in the system's words where it has some."""
    return str(getattr(error, "strerror", None) or error)


def cause(said: str) -> str:
    """What a failure to connect comes from, or ""."""
    return next((cause for words, cause in _CAUSES if words in said), "")
