"""What to do about a refusal, by its reason: one line that a person can act on."""

_ADVICE = {
    "TOKEN_AUDIENCE": "Ask your issuer for a token with this daemon's audience, and no other.",
    "TOKEN_EXPIRED": "Fetch a fresh token; if it was fresh, compare the clocks.",
    "TOKEN_NOT_YET_VALID": "Compare the clocks.",
    "TOKEN_LIFETIME": "The operator accepts shorter-lived tokens only.",
    "TOKEN_ISSUER_UNKNOWN": "The operator has to configure this issuer.",
    "TOKEN_REPLAYED": "This token was used. Fetch a fresh one for each exchange.",
    "TOKEN_OWN": "A token that came out of an exchange does not go into one. Show the original proof.",
    "TOKEN_NOT_LIVE": "The cluster says that this pod or service account is gone.",
    "CERTIFICATE_INVALID": "The certificate of this connection is no valid X.509-SVID of a configured trust domain.",
    "CERTIFICATE_EXPIRED": "The certificate of this connection has expired. Connect anew with the current one.",
    "CERTIFICATE_REQUIRED": "The policy wants the token to come over the workload's own certificate (doors.mtls).",
    "SUBJECT_REVOKED": "Tokens of this subject were revoked. Ask the operator.",
    "NO_POLICY": "No policy lists this subject. `exchanged policy explain` tells what each one misses.",
    "ACTOR_NOT_ALLOWED": "No policy says that this actor may act for this subject.",
    "CONDITION_FALSE": "A policy matches, but its condition does not hold now. Ask its owner, or the records.",
    "INTENT_REQUIRED": "The policy wants to know what you are about to do: --intent '…'.",
    "CLUSTER_UNKNOWN": "No cluster has this name or URL.",
    "CLUSTER_NOT_GRANTED": "The policy does not grant this cluster.",
    "CLUSTER_AMBIGUOUS": "Name one of the clusters: --cluster NAME.",
    "SCOPE_UNKNOWN": "The policy has no such scope.",
    "SCOPE_AMBIGUOUS": "Name the policy too: --scope policy/scope.",
    "DETAILS_EXCEED_POLICY": "The authorization details ask for more than the policy grants.",
    "DETAILS_CANNOT_NARROW": "This scope grants a cluster role; only namespaces can be narrowed.",
    "LIFETIME_EXCEEDS_POLICY": "Ask for a shorter lifetime.",
    "TOO_MANY_LIVE_GRANTS": "Give tokens back when done (`exchanged token revoke`), or wait for them to end.",
    "JOB_EXHAUSTED": "This job had as many grants as it may.",
    "POLICY_CHANGED": "The policy changed at this very moment. Try again.",
    "KEYS_UNAVAILABLE": "The issuer's keys cannot be had now. Try again.",
    "CLUSTER_UNAVAILABLE": "The cluster does not answer now. Try again.",
    "STORE_UNAVAILABLE": "The daemon cannot record now, so it grants nothing. Ask the operator.",
    "LOG_UNAVAILABLE": "The daemon cannot record now, so it grants nothing. Ask the operator.",
}


def advice(reason: str) -> str:
    """What to do, or "" where the message says it all."""
    return _ADVICE.get(reason, "")
