"""RFC 8693 §2.1 as a form: application/x-www-form-urlencoded to the daemon's own values."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from exchanged.doors.messages import (
    GRANT_TYPE,
    LONGEST_LIFETIME,
    check_count,
    check_detail_type,
    check_grant_type,
    scopes,
)
from exchanged.errors import MalformedRequest, Reason
from exchanged.model import AuthorizationDetail, ExchangeRequest, GrantId, PresentedToken, TokenType
from exchanged.request import DETAIL_VALUES, VALUES

MAX_FIELDS = 100
"""Parameters of one request; there are fourteen, of which two may come often."""
MAX_ESCAPES = 4_096
"""Characters of a body that are written as %XX: each costs more time than many that are not. Details of 32 rules have
about 2,000."""
REPEATABLE = frozenset({"audience", "resource"})
"""RFC 8693 §2.1; every other parameter comes at most once (RFC 6749 §3.2)."""
_DETAIL_FIELDS = {
    "namespaces": "namespaces",
    "apiGroups": "api_groups",
    "resources": "resources",
    "resourceNames": "resource_names",
    "verbs": "verbs",
}
_USUAL = {quote_plus(each): each for each in (GRANT_TYPE, *TokenType)}
"""Values that most requests have, by the form in which they come: each takes as long to unescape as all that does not
have to be."""

Form = Mapping[str, list[str]]


def parse(body: bytes) -> Form:
    """The parameters that have a value; one without, with or without its "=", is taken as left out (RFC 6749 §3.2).

    Raises:
        MalformedRequest: not a form, or a parameter is repeated.
    """
    if not body:
        return {}
    if body.count(b"&") >= MAX_FIELDS:
        raise MalformedRequest(Reason.MALFORMED, f"more than {MAX_FIELDS} parameters")
    if body.count(b"%") > MAX_ESCAPES:
        raise MalformedRequest(Reason.PARAMETER_TOO_LONG, f"more than {MAX_ESCAPES} escaped characters")
    form: dict[str, list[str]] = {}
    try:
        for field in body.decode("ascii").split("&"):
            name, _, value = field.partition("=")
            name, value = _unescaped(name), _unescaped(value)
            if name in form and name not in REPEATABLE:
                raise _malformed(Reason.PARAMETER_REPEATED, name)
            if value:
                form.setdefault(name, []).append(value)
    except ValueError as error:
        raise MalformedRequest(Reason.MALFORMED, "the body is not a form") from error
    return form


def _unescaped(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    return _USUAL.get(text) or unquote_plus(text, errors="strict")


def one(form: Form, name: str) -> str | None:
    """The value of a parameter, or None."""
    values = form.get(name)
    return values[0] if values else None


def required(form: Form, name: str) -> str:
    """The value of a parameter that must be there."""
    value = one(form, name)
    if value is None:
        raise _malformed(Reason.PARAMETER_MISSING, name)
    return value


def token(form: Form) -> PresentedToken:
    """The token that is given back, or asked about.

    Raises:
        MalformedRequest: there is none.
    """
    return PresentedToken(text=required(form, "token"))


def request(form: Form) -> ExchangeRequest:
    """What a caller asks for. Parameters that nobody knows are ignored (RFC 6749 §3.2).

    Raises:
        MalformedRequest: a parameter is missing, or nothing can be made of it.
    """
    check_grant_type(required(form, "grant_type"))
    actor_token, replaces = one(form, "actor_token"), one(form, "replaces_grant_id")
    return ExchangeRequest(
        subject_token=PresentedToken(text=required(form, "subject_token")),
        subject_token_type=required(form, "subject_token_type"),
        actor_token=PresentedToken(text=actor_token) if actor_token is not None else None,
        actor_token_type=one(form, "actor_token_type"),
        requested_token_type=one(form, "requested_token_type"),
        audience=tuple(form.get("audience", ())),
        resource=tuple(form.get("resource", ())),
        scope=scopes(one(form, "scope") or ""),
        authorization_details=_details(one(form, "authorization_details")),
        intent=one(form, "intent") or "",
        lifetime=_lifetime(one(form, "requested_lifetime")),
        replaces=GrantId(replaces) if replaces is not None else None,
    )


def _lifetime(text: str | None) -> timedelta | None:
    """Seconds, as in `expires_in`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LONGEST_LIFETIME))):
        raise _malformed(Reason.MALFORMED, "requested_lifetime")
    return timedelta(seconds=int(text))


def _details(text: str | None) -> tuple[AuthorizationDetail, ...]:
    """RFC 9396 §2: a JSON array of objects with a type."""
    if text is None:
        return ()
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(Reason.MALFORMED, "authorization_details") from error
    if not isinstance(listed, list):
        raise _malformed(Reason.MALFORMED, "authorization_details")
    check_count(listed, VALUES)
    return tuple(_detail(each) for each in listed)


def _detail(value: Any) -> AuthorizationDetail:
    if not isinstance(value, dict):
        raise _malformed(Reason.MALFORMED, "authorization_details")
    check_detail_type(value.get("type"))
    if value.keys() - _DETAIL_FIELDS.keys() - {"type"}:
        # What is not understood might have been meant to narrow.
        raise _malformed(Reason.MALFORMED, "authorization_details")
    fields = {ours: value.get(theirs, []) for theirs, ours in _DETAIL_FIELDS.items()}
    for values in fields.values():
        if not isinstance(values, list):
            raise _malformed(Reason.MALFORMED, "authorization_details")
        check_count(values, DETAIL_VALUES)
        if not all(isinstance(each, str) for each in values):
            raise _malformed(Reason.MALFORMED, "authorization_details")
    return AuthorizationDetail(**{name: tuple(values) for name, values in fields.items()})


def _malformed(reason: Reason, parameter: str) -> MalformedRequest:
    return MalformedRequest(reason, f"{parameter}: {reason.value.lower()}", public={"parameter": parameter[:64]})
