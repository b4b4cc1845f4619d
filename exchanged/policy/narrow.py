"""Narrowing by RFC 9396 authorization details: granted is exactly what is asked, where the policy allows all of it."""

import itertools
import math
from collections.abc import Iterable

from exchanged.errors import Reason, ScopeDenied
from exchanged.model import AuthorizationDetail, Rule
from exchanged.policy.compiled import CompiledScope

MAX_COMBINATIONS = 4_096
"""Combinations of group, resource, name and verb that a request may name: they are checked one by one."""

ANY = ("",)
"""In place of a dimension that a detail leaves open."""


def narrow(scope: CompiledScope, details: tuple[AuthorizationDetail, ...]) -> tuple[tuple[str, ...], tuple[Rule, ...]]:
    """The namespaces and rules that the details leave of a scope; each rule is within one of the scope's.

    Raises:
        ScopeDenied: a detail asks for more than the scope has, or for a form of narrowing that it cannot give.
    """
    if not details:
        return scope.namespaces, scope.rules
    details = tuple(_distinct(detail) for detail in details)
    namespaces = _namespaces(scope, details)
    if scope.cluster_role:
        if any(_names_rules(detail) for detail in details):
            raise ScopeDenied(
                Reason.DETAILS_CANNOT_NARROW, f"scope {scope.name} grants a cluster role: only namespaces narrow it"
            )
        return namespaces, ()
    _check_size(details)
    rules = dict.fromkeys(rule for detail in details for rule in _rules(scope, detail))
    return namespaces, tuple(rules)


def covers(rule: Rule, api_group: str, resource: str, name: str, verb: str) -> bool:
    """Whether a rule allows this, as Kubernetes RBAC reads it; "" as name is every name."""
    return (
        _in(api_group, rule.api_groups)
        and _resource_in(resource, rule.resources)
        and (not rule.resource_names or name in rule.resource_names)
        and _in(verb, rule.verbs)
    )


def _namespaces(scope: CompiledScope, details: tuple[AuthorizationDetail, ...]) -> tuple[str, ...]:
    asked = {frozenset(detail.namespaces or scope.namespaces) for detail in details}
    if len(asked) > 1:
        raise ScopeDenied(Reason.DETAILS_UNSUPPORTED, "all authorization details must name the same namespaces")
    (namespaces,) = asked
    beyond = namespaces.difference(scope.namespaces)
    if beyond:
        raise ScopeDenied(Reason.DETAILS_EXCEED_POLICY, f"namespaces beyond the policy: {_listed(beyond)}")
    return tuple(name for name in scope.namespaces if name in namespaces)


def _names_rules(detail: AuthorizationDetail) -> bool:
    return bool(detail.api_groups or detail.resources or detail.resource_names or detail.verbs)


def _distinct(detail: AuthorizationDetail) -> AuthorizationDetail:
    """The same, with each value once."""
    return AuthorizationDetail(
        namespaces=tuple(dict.fromkeys(detail.namespaces)),
        api_groups=tuple(dict.fromkeys(detail.api_groups)),
        resources=tuple(dict.fromkeys(detail.resources)),
        resource_names=tuple(dict.fromkeys(detail.resource_names)),
        verbs=tuple(dict.fromkeys(detail.verbs)),
    )


def _check_size(details: tuple[AuthorizationDetail, ...]) -> None:
    """A request holds up everybody else for a bounded time only."""
    count = sum(math.prod(len(values) or 1 for values in _dimensions(detail)) for detail in details)
    if count > MAX_COMBINATIONS:
        raise ScopeDenied(Reason.DETAILS_UNSUPPORTED, f"{count} combinations asked for; {MAX_COMBINATIONS} at most")


def _dimensions(detail: AuthorizationDetail) -> tuple[tuple[str, ...], ...]:
    return detail.api_groups, detail.resources, detail.resource_names, detail.verbs


def _rules(scope: CompiledScope, detail: AuthorizationDetail) -> Iterable[Rule]:
    if not _names_rules(detail):
        return scope.rules
    parts = [part for rule in scope.rules if (part := _part(rule, detail)) is not None]
    _check_complete(parts, detail)
    return parts


def _part(rule: Rule, detail: AuthorizationDetail) -> Rule | None:
    """What a detail leaves of one rule, or None."""
    names: tuple[str, ...] | None
    if not detail.resource_names:
        names = rule.resource_names
    else:
        names = tuple(n for n in detail.resource_names if not rule.resource_names or n in rule.resource_names) or None
    api_groups = _narrowed(rule.api_groups, detail.api_groups)
    verbs = _narrowed(rule.verbs, detail.verbs)
    resources = rule.resources
    if detail.resources:
        resources = tuple(each for each in detail.resources if _resource_in(each, rule.resources))
    if names is None or not (api_groups and verbs and resources):
        return None
    return Rule(api_groups=api_groups, resources=resources, verbs=verbs, resource_names=names)


def _check_complete(parts: list[Rule], detail: AuthorizationDetail) -> None:
    """Never silently less: every combination that the detail names is in one of the parts."""
    covered: set[tuple[str, ...]] = set()
    for part in parts:
        granted = (part.api_groups, part.resources, part.resource_names, part.verbs)
        # A part has of each dimension that the detail names a choice of its values, and of the others anything.
        named = (values if asked else ANY for values, asked in zip(granted, _dimensions(detail), strict=True))
        covered.update(itertools.product(*named))
    for combination in itertools.product(*(values or ANY for values in _dimensions(detail))):
        if combination not in covered:
            raise ScopeDenied(
                Reason.DETAILS_EXCEED_POLICY, "beyond the policy: " + " ".join(value or "*" for value in combination)
            )


def _narrowed(granted: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value for value in asked if _in(value, granted)) if asked else granted


def _in(value: str, granted: tuple[str, ...]) -> bool:
    return value in granted or "*" in granted


def _resource_in(resource: str, granted: tuple[str, ...]) -> bool:
    if resource in granted or "*" in granted:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in granted


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
