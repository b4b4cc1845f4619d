from hypothesis import example, given, settings
from hypothesis import strategies as st

from exchanged.model import Rule
from exchanged.policy.classes import TABLE, WILDCARD, breeding
from exchanged.policy.narrow import covers

CONCRETE = [
    (name, group, resource, verb)
    for name, groups, resources, verbs in TABLE
    for group in groups or {"any.example"}
    for resource in resources or {"anything"}
    for verb in verbs or {"get"}
]
"""Requests that are of a class, one by one."""

GROUPS = sorted({group for _, group, _, _ in CONCRETE} | {"harmless.example", "*"})
RESOURCES = sorted({resource for _, _, resource, _ in CONCRETE} | {"harmless", "*", "*/*", "*/exec", "*/token"})
VERBS = sorted({verb for _, _, _, verb in CONCRETE} | {"list", "*"})


def _some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


@settings(max_examples=400, deadline=None)
@given(st.builds(Rule, api_groups=_some(GROUPS), resources=_some(RESOURCES), verbs=_some(VERBS)))
@example(Rule(api_groups=("*",), resources=("*",), verbs=("*",)))
def test_no_breeding_request_goes_unclassed(rule: Rule) -> None:
    """Whatever request of a class a rule covers, as RBAC reads rules, the rule is of that class."""
    classes = breeding([rule])
    for name, group, resource, verb in CONCRETE:
        if covers(rule, group, resource, "", verb):
            assert name in classes
    assert (WILDCARD in classes) == any("*" in text for text in (*rule.api_groups, *rule.resources, *rule.verbs))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.builds(Rule, api_groups=_some(GROUPS), resources=_some(RESOURCES), verbs=_some(VERBS)), max_size=4))
def test_rules_are_of_all_their_classes(rules: list[Rule]) -> None:
    """Rules together hold what each holds, and no more."""
    assert breeding(rules) == frozenset().union(*(breeding([rule]) for rule in rules))
