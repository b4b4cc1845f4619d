import json
import random
import re
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchanged.errors import ExchangeError
from exchanged.model import Allowed, AuthorizationDetail, ExchangeRequest, Identity, Rule
from exchanged.policy.classes import ALL, breeding
from exchanged.policy.compiled import Compiler, encode
from exchanged.policy.conditions import ConditionError
from exchanged.policy.decide import decide
from exchanged.policy.load import load_text
from exchanged.policy.narrow import covers
from exchanged.strict_yaml import Faulty
from tests.grants import PROD, context, identity, request, traits
from tests.policies import policy, workload
from tests.world import Policies

COMPILER = Compiler()
CLUSTERS = {PROD: traits(breeding=ALL)}
GROUPS, RESOURCES, VERBS, NAMES = (
    ["", "apps"],
    ["pods", "pods/log", "deployments"],
    ["get", "list", "watch"],
    ["a", "b"],
)
SPACES = ["n1", "n2"]


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    """Some of these, at least one."""
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


rules = st.fixed_dictionaries(
    {"apiGroups": some(GROUPS), "resources": some([*RESOURCES, "*/log"]), "verbs": some(VERBS)},
    optional={"resourceNames": some(NAMES)},
)
claims = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), min_size=1)
scopes = st.fixed_dictionaries({"rules": st.lists(rules, min_size=1, max_size=3), "namespaces": some(SPACES)})
policies = st.lists(st.tuples(claims, scopes, st.sampled_from(["s", "t"])), min_size=1, max_size=6)
details = st.lists(
    st.builds(
        AuthorizationDetail,
        namespaces=st.lists(st.sampled_from(SPACES), max_size=2, unique=True).map(tuple),
        api_groups=st.lists(st.sampled_from(GROUPS), max_size=2, unique=True).map(tuple),
        resources=st.lists(st.sampled_from(RESOURCES), max_size=2, unique=True).map(tuple),
        resource_names=st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
        verbs=st.lists(st.sampled_from(VERBS), max_size=2, unique=True).map(tuple),
    ),
    max_size=2,
)
Made = list[tuple[dict[str, str], dict[str, Any], str]]


def _live(made: Made, order: list[int] | None = None) -> Policies:
    live = Policies()
    for number in order if order is not None else range(len(made)):
        wanted, scope, name = made[number]
        subjects = [{"issuer": "github", "claims": wanted}]
        held = breeding(
            Rule(api_groups=tuple(rule["apiGroups"]), resources=tuple(rule["resources"]), verbs=tuple(rule["verbs"]))
            for rule in scope["rules"]
        )
        text = policy(
            f"p{number}", subjects=subjects, name=name, acknowledge=sorted(held) or None, workloads=None, **scope
        )
        live.put(text)
    return live


def _decided(live: Policies, who: Identity, asked: ExchangeRequest) -> Allowed | str:
    try:
        return decide(live.current, CLUSTERS, who, None, asked, context())
    except ExchangeError as error:
        return error.reason.value


def _asked(scope: str, narrowing: list[AuthorizationDetail]) -> ExchangeRequest:
    return request(scope=(scope,) if scope else (), authorization_details=tuple(narrowing))


quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
askable = st.sampled_from(["s", "t", "p0/s", "p1/t", ""])


@quick
@given(policies, claims, askable, details)
def test_a_decision_exceeds_neither_its_rule_nor_its_request(
    made: Made, held: dict[str, str], scope: str, narrowing: list[AuthorizationDetail]
) -> None:
    """Everything that a granted rule covers is covered by a rule of the policy, and by a detail if there are any."""
    live, asked = _live(made), _asked(scope, narrowing)
    allowed = _decided(live, identity(claims=held), asked)
    if isinstance(allowed, str):
        return
    author = live.current.named(allowed.policy)
    assert author is not None
    granted = author.scopes[0]
    assert set(allowed.namespaces) <= set(granted.namespaces)
    for group in GROUPS:
        for resource in RESOURCES:
            for name in (*NAMES, "c", ""):
                for verb in VERBS:
                    request_ = (group, resource, name, verb)
                    if any(covers(rule, *request_) for rule in allowed.rules):
                        assert any(covers(rule, *request_) for rule in granted.rules)
                        assert not narrowing or any(_within(detail, *request_) for detail in narrowing)


def _within(detail: AuthorizationDetail, group: str, resource: str, name: str, verb: str) -> bool:
    return (
        (not detail.api_groups or group in detail.api_groups)
        and (not detail.resources or resource in detail.resources)
        and (not detail.resource_names or name in detail.resource_names)
        and (not detail.verbs or verb in detail.verbs)
    )


@quick
@given(policies, claims, askable, details)
def test_narrowing_never_gives_less_than_asked(
    made: Made, held: dict[str, str], scope: str, narrowing: list[AuthorizationDetail]
) -> None:
    """Where it is granted, every combination that a detail names is covered."""
    allowed = _decided(_live(made), identity(claims=held), _asked(scope, narrowing))
    if isinstance(allowed, str):
        return
    for detail in narrowing:
        for group in detail.api_groups or (None,):
            for resource in detail.resources or (None,):
                for name in detail.resource_names or (None,):
                    for verb in detail.verbs or (None,):
                        assert any(
                            covers(
                                rule,
                                rule.api_groups[0] if group is None else group,
                                rule.resources[0] if resource is None else resource,
                                (rule.resource_names or ("",))[0] if name is None else name,
                                rule.verbs[0] if verb is None else verb,
                            )
                            for rule in allowed.rules
                        )


@quick
@given(policies, claims, askable, st.randoms())
def test_order_changes_nothing(made: Made, held: dict[str, str], scope: str, chance: random.Random) -> None:
    """In whatever order policies were loaded, the decision is the same."""
    order = list(range(len(made)))
    chance.shuffle(order)
    who, asked = identity(claims=held), _asked(scope, [])
    assert _decided(_live(made), who, asked) == _decided(_live(made, order), who, asked)


@quick
@given(policies, claims, askable)
def test_removing_a_policy_allows_only_what_another_allows_by_itself(
    made: Made, held: dict[str, str], scope: str
) -> None:
    """What is allowed after a removal is what its author alone allows."""
    live, who, asked = _live(made), identity(claims=held), _asked(scope, [])
    live.current.remove("p0")
    allowed = _decided(live, who, asked)
    if not isinstance(allowed, str):
        alone = _live(made, [int(allowed.policy[1:])])
        assert _decided(alone, who, asked) == allowed


@quick
@given(policies, claims, st.sampled_from(["s", "t", None]))
def test_the_index_finds_what_a_scan_finds(made: Made, held: dict[str, str], scope: str | None) -> None:
    """Indexed candidates are those that reading every policy would find."""
    live, who = _live(made), identity(claims=held)
    found = {each.name for each, _ in live.current.matching(who, scope)}
    scanned = {
        f"p{number}"
        for number, (wanted, _, name) in enumerate(made)
        if all(held.get(key) == value for key, value in wanted.items()) and scope in {None, name}
    }
    assert found == scanned


LITERALS = ["a", "ab"]
parts = st.sampled_from([*LITERALS, *LITERALS, "*", "**", "a*", ".", ""])
patterns = st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=6)
ids = st.lists(st.sampled_from(LITERALS), min_size=1, max_size=5)


def _is_pattern(pattern: list[str]) -> bool:
    usual = [part in {*LITERALS, "*"} for part in pattern]
    return (all(usual) or (all(usual[:-1]) and pattern[-1] == "**")) and not {*LITERALS}.isdisjoint(pattern)


def _fits(pattern: list[str], segments: list[str]) -> bool:
    """One segment after the other."""
    if not pattern or not segments:
        return pattern == segments
    first, *others = pattern
    return first == "**" or (first in {"*", segments[0]} and _fits(others, segments[1:]))


@settings(quick, max_examples=400)
@given(patterns, ids)
def test_paths_match_as_segments_read_one_after_the_other(made: list[list[str]], segments: list[str]) -> None:
    """Of many patterns those load that are some, and the index finds exactly the ones that fit an ID."""
    live = Policies()
    for number, pattern in enumerate(made):
        text = policy(f"p{number}", subjects=[{"issuer": "workloads", "path": "".join(f"/{part}" for part in pattern)}])
        with nullcontext() if _is_pattern(pattern) else pytest.raises(Faulty):
            live.put(text)
    found = {each.name for each, _ in live.current.matching(workload("".join(f"/{each}" for each in segments)), None)}
    fitting = {f"p{n}" for n, pattern in enumerate(made) if _is_pattern(pattern) and _fits(pattern, segments)}
    assert found == fitting


@quick
@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: raw.decode(errors="replace")))
def test_any_text_is_policies_or_a_fault(text: str) -> None:
    """Whatever a file holds, loading it ends in policies or in faults that name the file."""
    try:
        load_text(text, "f.yaml", Compiler())
    except Faulty as faulty:
        told = faulty.faults
    else:
        return
    assert told
    assert all(fault.file == "f.yaml" and fault.line >= 1 for fault in told)


HOLES = [
    ("subjects", 0, "issuer"),
    ("subjects", 0, "claims"),
    ("subjects", 0, "claims", "ref"),
    ("subjects", 0, "claims", "ref", "matches"),
    ("subjects", 0, "path"),
    ("subjects", 0, "when"),
    ("scopes", 0, "when"),
    ("scopes", 0, "clusters"),
    ("scopes", 0, "namespaces", 0),
    ("scopes", 0, "rules", 0, "verbs"),
    ("scopes", 0, "rules", 0, "resources", 0),
    ("scopes", 0, "lifetime", "max"),
    ("scopes", 0, "acknowledge"),
    ("owner",),
]
CEL = [
    "claims",
    "ref",
    ".",
    "all",
    "exists",
    "(",
    ")",
    "x",
    ",",
    "==",
    "&&",
    "//",
    "\n",
    '"',
    "[",
    "]",
    "1",
    "true",
    " ",
]
words = (
    st.text(max_size=40)
    | st.text("^$|()\\[]*+?{}aQE\U0001f600", max_size=12).map(lambda text: f"^{text}$")
    | st.lists(st.sampled_from(CEL), max_size=25).map("".join)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


def _filled(hole: tuple[str | int, ...], value: object) -> str:
    claims = {"repository_id": "4711", "ref": {"matches": "^a$"}}
    document = json.loads(policy("p", subjects=[{"issuer": "github", "claims": claims}]))
    *way, last = ("spec", *hole)
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(document, ensure_ascii=False)


@settings(quick, max_examples=400)
@given(st.sampled_from(HOLES), words | values)
def test_any_value_anywhere_is_a_policy_that_decides_or_a_fault(hole: tuple[str | int, ...], value: object) -> None:
    """One value of a policy replaced by anything: a fault, or a policy that allows or refuses as every other."""
    live = Policies()
    with suppress(Faulty):
        live.put(_filled(hole, value))
    _decided(live, identity(claims={"repository_id": "4711", "ref": "a"}), _asked("", []))


plain = st.text("ab)(|$^\\", max_size=8)


@quick
@given(plain, st.text("ab\n|", max_size=4))
def test_a_pattern_that_loads_matches_whole_values_only(inner: str, value: str) -> None:
    """What passes a pattern is a whole match of what stands between its anchors, as another engine reads it."""
    try:
        expected = re.compile(inner)
    except re.error:
        expected = None
    claims = {"repository_id": "4711", "ref": {"matches": f"^{inner}$"}}
    live = Policies()
    try:
        live.put(policy("p", subjects=[{"issuer": "github", "claims": claims}]))
    except Faulty:
        return
    assert expected is not None, "a pattern that is none was loaded"
    decided = _decided(live, identity(claims={"repository_id": "4711", "ref": value}), _asked("", []))
    assert isinstance(decided, Allowed) <= (expected.fullmatch(value) is not None)


simple = st.text(max_size=6) | st.integers() | st.booleans() | st.sampled_from(["\0True", "\x001", True, 1])


@quick
@given(simple, simple)
def test_two_values_are_one_only_if_they_are_of_one_type(first: str | int, second: str | int) -> None:
    """The index tells apart whatever differs in type or value."""
    assert (encode(first) == encode(second)) == (type(first) is type(second) and first == second)


loops = st.lists(st.sampled_from([" ", "\n", "//", "// (\n", "//all\n", "\t"]), max_size=4).map("".join)


@quick
@given(loops, loops, loops, st.sampled_from(["", '"all//" == "" || ', '"//" == "" || ']))
def test_a_second_loop_is_never_hidden(one: str, two: str, three: str, before: str) -> None:
    """However spaces, comments and strings are put between, two loops are one too many."""
    text = f"{before}claims.a.{one}\nall{two}\n(x, claims.b.exists{three}\n(y, x == y))"
    with pytest.raises(ConditionError, match="more than 1 loop"):
        COMPILER.conditions.compile(text)
