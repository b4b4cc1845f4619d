from cel_expr_python import cel
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exchanged.cluster.fenced_roles import holds
from exchanged.model import Rule
from exchanged.policy.classes import ALL, TABLE, WILDCARD, breeding
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
RESOURCES = sorted(
    {resource for _, _, resource, _ in CONCRETE}
    | {"harmless", "*", "*/*", "*/exec", "*/token", "userextras/scopes", "*/scopes"}
)
VERBS = sorted({verb for _, _, _, verb in CONCRETE} | {"list", "*", "impersonate:user-info", "run-as"})
_CEL = cel.NewEnv(variables={"r": cel.Type.DYN})
_HOLDS = {name: _CEL.compile(holds(name)) for name in ALL}


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


@settings(max_examples=400, deadline=None)
@given(st.builds(Rule, api_groups=_some(GROUPS), resources=_some(RESOURCES), verbs=_some(VERBS)))
@example(Rule(api_groups=("authentication.k8s.io",), resources=("userextras/scopes",), verbs=("*",)))
@example(Rule(api_groups=("authentication.k8s.io",), resources=("*/scopes",), verbs=("*",)))
@example(Rule(api_groups=("",), resources=("*/proxy",), verbs=("get",)))
def test_the_fence_says_what_the_classes_say(rule: Rule) -> None:
    """What admission refuses in the roles that the daemon makes is what it refuses in policies, class by class."""
    fields = {"apiGroups": list(rule.api_groups), "resources": list(rule.resources), "verbs": list(rule.verbs)}
    activation = _CEL.Activation({"r": fields})
    assert {name for name, program in _HOLDS.items() if program.eval(activation).value() is True} == breeding([rule])
