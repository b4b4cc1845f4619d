"""The policy file: Kubernetes-shaped, strict. The same classes are the JSON Schema for editors."""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel

from exchanged.config import GRANT_CEILING, BreedingClass, Duration, Name, Namespace
from exchanged.json_schema import schema_of
from exchanged.model import Rule
from exchanged.policy import paths
from exchanged.policy.classes import WORKLOADS, breeding, reaches_everywhere
from exchanged.spiffe_id import MAX_LENGTH

SHORTEST_LIFETIME = timedelta(seconds=10)
"""A grant that ends before a client has used it helps nobody."""
MAX_EXPRESSION = 1_000
"""Characters of a condition: what does not fit is a program, not a condition."""
MAX_PATTERN = 200
"""Characters of a pattern."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
Strings = Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)]
ApiGroups = Annotated[tuple[Annotated[str, StringConstraints(max_length=253)], ...], Field(min_length=1, max_length=64)]
Exact = Annotated[str, StringConstraints(min_length=1, max_length=512)] | StrictBool | StrictInt


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, alias_generator=to_camel)


class Matches(_Strict):
    """A pattern (RE2) for the whole value: it begins with ^ and ends with $."""

    matches: Annotated[str, StringConstraints(max_length=MAX_PATTERN, pattern=r"^\^.*\$$")]


Claim = Annotated[Exact | tuple[Exact, ...] | Matches, Field(union_mode="left_to_right")]
PathPattern = Annotated[
    str,
    StringConstraints(max_length=MAX_LENGTH),
    AfterValidator(paths.checked),
    Field(json_schema_extra={"pattern": paths.FORM}),
]


class Party(_Strict):
    """Who: an issuer by name, claims that must hold, the path of the SPIFFE ID, and a condition on the rest."""

    issuer: Name
    claims: Annotated[dict[Text, Claim], Field(min_length=1, max_length=32)] | None = None
    path: PathPattern | None = None
    when: Expression | None = None

    @model_validator(mode="after")
    def _has_something_exact(self) -> Self:
        values = (self.claims or {}).values()
        if any(value == () for value in values):
            raise ValueError("an empty list matches nobody")
        exact_segment = self.path is not None and any(place > 0 for place in paths.places(self.path))
        if not exact_segment and all(isinstance(value, Matches) for value in values):
            raise ValueError("at least one claim must be exact, or a segment of path; patterns alone are not")
        return self


class RuleSpec(_Strict):
    """A rule as Kubernetes RBAC has it. Everything is listed; an empty list is an error, not "all"."""

    api_groups: ApiGroups
    resources: Strings
    verbs: Strings
    resource_names: Strings | None = None

    def rule(self) -> Rule:
        """The same as a value."""
        return Rule(
            api_groups=self.api_groups,
            resources=self.resources,
            verbs=self.verbs,
            resource_names=self.resource_names or (),
        )


class Lifetime(_Strict):
    """How long a grant lives: without being asked, and at most."""

    default: Duration
    max: Duration

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not SHORTEST_LIFETIME <= self.default <= self.max:
            raise ValueError("default must be at least 10s and at most max")
        if self.max > GRANT_CEILING:
            raise ValueError("max is over the ceiling of 12h")
        return self


class Workloads(_Strict):
    """As which service accounts pod templates that are written under a grant may run."""

    service_accounts: Strings


class ScopeSpec(_Strict):
    """What may be had, where, and for how long."""

    name: Name
    clusters: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256)]
    namespaces: Annotated[tuple[Namespace, ...], Field(min_length=1, max_length=256)] | None = None
    cluster_scoped: StrictBool = False
    rules: Annotated[tuple[RuleSpec, ...], Field(min_length=1, max_length=64)] | None = None
    cluster_role: Text | None = None
    acknowledge: Annotated[tuple[BreedingClass, ...], Field(min_length=1)] | None = None
    workloads: Workloads | None = None
    lifetime: Lifetime
    when: Expression | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if (self.namespaces is None) == (not self.cluster_scoped):
            raise ValueError("give either namespaces or clusterScoped: true")
        twice = {name for names in (self.clusters, self.namespaces or ()) for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{_listed(frozenset(twice))} is listed twice")
        if (self.rules is None) == (self.cluster_role is None):
            raise ValueError("give either rules or clusterRole")
        acknowledged = frozenset(self.acknowledge or ())
        rules = tuple(each.rule() for each in self.rules or ())
        missing = breeding(rules) - acknowledged
        if missing:
            raise ValueError(f"these rules hold {_listed(missing)}: say so under acknowledge")
        if self.cluster_scoped and reaches_everywhere(rules):
            raise ValueError(f"not in all namespaces at once: {_listed(reaches_everywhere(rules))}")
        if (WORKLOADS in acknowledged) != (self.workloads is not None):
            raise ValueError("acknowledge: [workloads] and workloads.serviceAccounts go together")
        return self


Function = Literal["deploy", "read", "secrets", "policy", "admin"]


class PolicySpec(_Strict):
    """Who may have what, and who answers for it."""

    owner: Text
    function: Function
    description: str | None = None
    subjects: Annotated[tuple[Party, ...], Field(min_length=1, max_length=64)]
    actors: Annotated[tuple[Party, ...], Field(min_length=1, max_length=64)] | None = None
    actor_required: StrictBool = False
    require_intent: StrictBool = False
    # Left out of the digest where it says nothing: policies that are older than this key keep theirs.
    require_certificate: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    scopes: Annotated[tuple[ScopeSpec, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        names = [scope.name for scope in self.scopes]
        if len(set(names)) != len(names):
            raise ValueError("two scopes have the same name")
        if self.actor_required and not self.actors:
            raise ValueError("actorRequired needs actors")
        return self


class Metadata(_Strict):
    """The policy's name: part of grants' names at clusters, and of what is asked for (`policy/scope`)."""

    name: Name
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Policy(_Strict):
    """One policy."""

    api_version: Literal["exchanged.dev/v1alpha1"]
    kind: Literal["Policy"]
    metadata: Metadata
    spec: PolicySpec


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    return schema_of(Policy)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
