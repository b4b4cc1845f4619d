"""The first step of an exchange: is the request one that can be answered at all (RFC 8693 §2.1)?"""

from datetime import timedelta

from exchanged.errors import MalformedRequest, Reason
from exchanged.model import ExchangeRequest, RequestContext, TokenType

SUBJECT_TOKEN_TYPES = frozenset({TokenType.JWT.value, TokenType.ID_TOKEN.value})
"""What an authenticator may be asked to verify; access tokens of others are opaque to everybody but them."""
REQUESTED_TOKEN_TYPES = frozenset({TokenType.JWT.value, TokenType.ACCESS_TOKEN.value})
INTENT_LENGTH = 500
"""Characters: a line that a person reads in the record."""
VALUES = 32
"""Values of one parameter: more targets or details than this name nothing a policy could grant."""
DETAIL_VALUES = 256
"""Values within one authorization detail, for the same reason."""
VALUE_LENGTH = 512
"""Characters of one value; Kubernetes' own names end at 253, URLs of API servers are shorter."""


def check(request: ExchangeRequest, context: RequestContext) -> None:
    """Refuses what no decision could answer.

    Raises:
        MalformedRequest: with the parameter's name in `public`.
    """
    _check_subject(request, context)
    _check_actor(request)
    if request.requested_token_type and request.requested_token_type not in REQUESTED_TOKEN_TYPES:
        raise _malformed(Reason.UNSUPPORTED_TOKEN_TYPE, "requested_token_type")
    for name, values in (("audience", request.audience), ("resource", request.resource), ("scope", request.scope)):
        _check_values(name, values, VALUES)
    if len(request.authorization_details) > VALUES:
        raise _malformed(Reason.PARAMETER_TOO_LONG, "authorization_details")
    for detail in request.authorization_details:
        for field in (detail.namespaces, detail.api_groups, detail.resources, detail.resource_names, detail.verbs):
            _check_values("authorization_details", field, DETAIL_VALUES)
    if len(request.intent) > INTENT_LENGTH:
        raise _malformed(Reason.PARAMETER_TOO_LONG, "intent")
    if not request.intent.isprintable():
        raise _malformed(Reason.MALFORMED, "intent")
    if request.lifetime is not None and request.lifetime <= timedelta(0):
        raise _malformed(Reason.MALFORMED, "requested_lifetime")
    if request.replaces is not None:
        _check_values("replaces_grant_id", (request.replaces,), 1)


def _check_subject(request: ExchangeRequest, context: RequestContext) -> None:
    if request.subject_token is None or not request.subject_token.text:
        if request.subject_token is not None or context.certificate is None:
            raise _malformed(Reason.PARAMETER_MISSING, "subject_token")
        # The certificate of the connection is the subject's proof.
        if request.subject_token_type:
            raise _malformed(Reason.PARAMETER_CONFLICT, "subject_token_type")
        return
    if not request.subject_token_type:
        raise _malformed(Reason.PARAMETER_MISSING, "subject_token_type")
    if request.subject_token_type not in SUBJECT_TOKEN_TYPES:
        raise _malformed(Reason.UNSUPPORTED_TOKEN_TYPE, "subject_token_type")


def _check_actor(request: ExchangeRequest) -> None:
    if request.actor_token is None:
        if request.actor_token_type:
            raise _malformed(Reason.PARAMETER_CONFLICT, "actor_token_type")
        return
    if not request.actor_token.text:
        raise _malformed(Reason.PARAMETER_MISSING, "actor_token")
    if not request.actor_token_type:
        raise _malformed(Reason.PARAMETER_MISSING, "actor_token_type")
    if request.actor_token_type not in SUBJECT_TOKEN_TYPES:
        raise _malformed(Reason.UNSUPPORTED_TOKEN_TYPE, "actor_token_type")


def _check_values(name: str, values: tuple[str, ...], most: int) -> None:
    if len(values) > most:
        raise _malformed(Reason.PARAMETER_TOO_LONG, name)
    for value in values:
        if len(value) > VALUE_LENGTH:
            raise _malformed(Reason.PARAMETER_TOO_LONG, name)
        if not value.isprintable():
            raise _malformed(Reason.MALFORMED, name)


def _malformed(reason: Reason, parameter: str) -> MalformedRequest:
    return MalformedRequest(reason, f"{parameter}: {reason.value.lower()}", public={"parameter": parameter})
