"""Patterns for the path of a SPIFFE ID: whole segments, never a part of one.

`/ns/web` is the beginning of `/ns/website` as text, and another workload's.
"""

import re

from exchanged.spiffe_id import SEGMENT

MAX_SEGMENTS = 32
"""Of a pattern; each may be part of the index. Workloads have four or five."""
_ONE = rf"(?!\.\.?(?:/|$))(?:{SEGMENT}|\*)"
FORM = rf"^(?:/{_ONE}){{0,{MAX_SEGMENTS - 1}}}/(?:{_ONE}|\*\*)$"


def checked(pattern: str) -> str:
    """The pattern.

    Raises:
        ValueError: it is none; the message says what one is.
    """
    if re.fullmatch(FORM, pattern) is None:
        raise ValueError(
            "only whole segments match: /a/b, each of letters, digits, '.', '_' and '-' (not '.' or '..'), or * for "
            f"exactly one, or at the end ** for one or more; {MAX_SEGMENTS} at most"
        )
    return pattern


def places(pattern: str) -> dict[int, str]:
    """What a path must hold, by place as `value_at` counts; how many segments is asked first."""
    segments = pattern.split("/")[1:]
    found = {-len(segments): ""} if segments[-1] == "**" else {0: str(len(segments))}
    return found | {number: segment for number, segment in enumerate(segments, 1) if "*" not in segment}


def value_at(place: int, segments: object) -> str | None:
    """What segments hold at a place; None where they do not reach it, or are no list of texts.

    Place 0 holds their number, k the k-th, and -k "" if there are k at least.
    """
    if not isinstance(segments, list):
        return None
    if place > 0:
        return segments[place - 1] if place <= len(segments) else None
    if not all(isinstance(each, str) for each in segments):
        return None
    if place == 0:
        return str(len(segments))
    return "" if len(segments) >= -place else None
