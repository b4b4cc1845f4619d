"""Texts of options as values, or the end of the command with what they should have been."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from exchanged.cli.output import Exit, fail
from exchanged.model import AuthorizationDetail

DETAIL_TYPE = "kubernetes"
_FIELDS = {
    "namespaces": "namespaces",
    "apiGroups": "api_groups",
    "resources": "resources",
    "resourceNames": "resource_names",
    "verbs": "verbs",
}
_UNITS = {"s": 1, "m": 60, "h": 3600}


def lifetime(text: str) -> timedelta | None:
    """A lifetime such as 90s, or None where none is given."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    if match is None:
        fail("--lifetime is a number with s, m or h: 90s, 10m, 1h", Exit.USAGE)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def moment(text: str) -> datetime:
    """A time as RFC 3339 has it, now where none is given; without an offset it is UTC."""
    if not text:
        return datetime.now(UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        fail("--time is a date and time as in 2026-11-25T06:30:00Z", Exit.USAGE)
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def json_value(text: str, option: str) -> Any:
    """The JSON that a text is, or a file holds (@FILE)."""
    try:
        return json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except OSError as error:
        fail(f"{option}: {text[1:]} cannot be read: {error.strerror}", Exit.USAGE)
    except (ValueError, RecursionError) as error:
        fail(f"{option} is no JSON: {error}", Exit.USAGE)


def details(text: str) -> tuple[AuthorizationDetail, ...]:
    """RFC 9396 authorization details: a JSON array of objects of type `kubernetes`, each field a list of texts."""
    listed = json_value(text, "--authorization-details") if text else []
    if not isinstance(listed, list):
        _no_details("is a JSON array: [{…}]")
    return tuple(_detail(each) for each in listed)


def _detail(value: Any) -> AuthorizationDetail:
    if not isinstance(value, dict):
        _no_details("holds objects: [{…}]")
    if value.get("type") != DETAIL_TYPE:
        _no_details(f'holds objects with "type": "{DETAIL_TYPE}"')
    for name, values in value.items():
        if name != "type" and name not in _FIELDS:
            # What is not understood might have been meant to narrow.
            _no_details(f"knows no {name!r}; there are {', '.join(_FIELDS)}")
        if name != "type" and not (isinstance(values, list) and all(isinstance(each, str) for each in values)):
            _no_details(f'wants a list of texts for {name}: "{name}": ["…"]')
    return AuthorizationDetail(**{ours: tuple(value.get(theirs, ())) for theirs, ours in _FIELDS.items()})


def _no_details(what: str) -> NoReturn:
    fail(f"--authorization-details {what}", Exit.USAGE)
