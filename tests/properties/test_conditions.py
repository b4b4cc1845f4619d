"""An answer that is remembered is the one that would be given."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanged.policy.conditions import Conditions
from tests.grants import context, identity, request

TERMS = (
    'claims.ref == "refs/heads/main"',
    'claims["ref"] != "x"',
    "has(claims.event) && claims.event in ['push', 'dispatch']",
    'claims.ref.startsWith("refs/") || claims["event"].matches("^p.*$")',
    "size(claims.ref) > 3",
    "claims.number == 1",
    "type(claims.ref) == type(true)",
)
VALUES = st.one_of(
    st.sampled_from(["refs/heads/main", "push", "x", ""]), st.booleans(), st.none(), st.sampled_from([0, 1, 1.0])
)


@given(
    st.lists(st.sampled_from(TERMS), min_size=1, max_size=3),
    st.lists(st.dictionaries(st.sampled_from(["ref", "event", "number"]), VALUES), min_size=1, max_size=6),
)
def test_what_is_remembered_is_right(terms: list[str], asked: list[dict[str, Any]]) -> None:
    """Whatever was asked before, a condition answers as one that has forgotten everything."""
    remembering, when = Conditions(), context(time=datetime.now(UTC))
    condition = remembering.compile(" && ".join(f"({term})" for term in terms))
    for claims in (*asked, *asked):
        forgetful = Conditions()
        arguments = (identity(claims=claims), None, request(), when, None)
        expected = forgetful.why_not(forgetful.compile(condition.text), *arguments)
        assert remembering.why_not(condition, *arguments) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('claims.ref == "a" && claims["event"] == "b"', ("ref", "event")),
        ('claims.ref.startsWith("a")', ("ref",)),
        ('has(claims.ref) && claims.ref != "claims.event"', ("ref", "event")),
        ("claims.exists(name, name == 'x')", ()),
        ("claims.exists (name, name == 'x')", ()),
        ("'ref' in claims", ()),
        ("claims == claims", ()),
        ("size(claims) > 1", ()),
        ('claims.ref // claims\n == "a"', ()),
        ('claims["r" + "ef"] == "a"', ()),
        ('claims.ref == "a" && issuer == "b"', ()),
        ('claims.ref == "a" && request.hour > 6', ()),
        ('claims.ref == "claims"', ()),
    ],
)
def test_what_a_condition_depends_on(text: str, names: tuple[str, ...]) -> None:
    """Only where nothing but claims named in the text can matter is an answer remembered."""
    assert Conditions().compile(text).depends_on == names


def test_no_more_is_remembered_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers' claims do not fill the memory."""
    monkeypatch.setattr("exchanged.policy.conditions.REMEMBERED", 10)
    conditions, when = Conditions(), context(time=datetime.now(UTC))
    condition = conditions.compile('claims.ref == "7"')
    for number in range(100):
        why_not = conditions.why_not(condition, identity(claims={"ref": str(number)}), None, request(), when, None)
        assert (why_not is None) == (number == 7)
        assert len(conditions._remembered) <= 10
