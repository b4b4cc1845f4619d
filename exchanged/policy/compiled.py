"""Policies as decisions use them: small, immutable, with everything computed that does not depend on the request."""

import hashlib
import itertools
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from exchanged.model import Claims, ClusterName, IssuerName, Rule
from exchanged.policy import paths, schema
from exchanged.policy.classes import breeding
from exchanged.policy.conditions import Condition, ConditionError, Conditions

MAX_KEYS = 64
"""Index entries of one subject: lists of values multiply. What is beyond is matched after the look-up instead."""

MAX_SHARED = 500_000
"""Values remembered for sharing, so that years of changes do not add up."""

Place = str | int
"""A claim by its name, or a place of the SPIFFE ID's path as `paths.value_at` counts."""
Key = tuple[str, ...]
"""What stands at a shape's places; claims are encoded by `encode`."""


@dataclass(frozen=True, slots=True)
class CompiledParty:
    """Whom an entry of `subjects` or `actors` matches.

    Attributes:
        shape: the places of the index key: claims, sorted, and then those of the path.
        keys: the values there that match.
        others: sets that were too many for the index.
    """

    issuer: IssuerName
    shape: tuple[Place, ...]
    keys: frozenset[Key]
    others: tuple[tuple[str, frozenset[str]], ...]
    condition: Condition | None

    def claims_match(self, claims: Claims) -> bool:
        """Whether the listed claims, and the path, are these; the condition is another matter."""
        key = key_of(self.shape, claims)
        return key in self.keys and self.others_match(claims)

    def others_match(self, claims: Claims) -> bool:
        """Whether the claims that are not in the index match too."""
        return all(encode(claims.get(name)) in values for name, values in self.others)


@dataclass(frozen=True, slots=True)
class CompiledScope:
    """What a scope grants."""

    name: str
    clusters: tuple[ClusterName, ...]
    namespaces: tuple[str, ...]
    cluster_scoped: bool
    rules: tuple[Rule, ...]
    cluster_role: str
    classes: frozenset[str]
    acknowledged: tuple[str, ...]
    workload_accounts: tuple[str, ...]
    default_lifetime: timedelta
    max_lifetime: timedelta
    condition: Condition | None


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy. `digest` is the SHA-256 of its canonical content, in hex."""

    name: str
    digest: str
    owner: str
    function: str
    subjects: tuple[CompiledParty, ...]
    actors: tuple[CompiledParty, ...]
    actor_required: bool
    requires_intent: bool
    requires_certificate: bool
    scopes: tuple[CompiledScope, ...]

    def __hash__(self) -> int:
        return hash(self.digest)

    def scope(self, name: str) -> CompiledScope | None:
        """The scope of this name."""
        return next((scope for scope in self.scopes if scope.name == name), None)


class Compiler:
    """Makes compiled policies; equal texts and rules are shared between them."""

    def __init__(self) -> None:
        self.conditions = Conditions()
        self._shared: dict[Any, Any] = {}

    def compile(self, policy: schema.Policy) -> CompiledPolicy:
        """The policy as decisions use it.

        Raises:
            Unusable: with the place and the reason of each fault.
        """
        spec, faults = policy.spec, list[tuple[tuple[str | int, ...], str]]()
        compiled = CompiledPolicy(
            name=policy.metadata.name,
            digest=digest(policy),
            owner=self._share(spec.owner),
            function=self._share(spec.function),
            subjects=self._parties("subjects", spec.subjects, faults),
            actors=self._parties("actors", spec.actors or (), faults),
            actor_required=spec.actor_required,
            requires_intent=spec.require_intent,
            requires_certificate=spec.require_certificate,
            scopes=tuple(self._scope(index, scope, faults) for index, scope in enumerate(spec.scopes)),
        )
        if faults:
            raise Unusable(faults)
        return compiled

    def _parties(
        self, kind: str, parties: tuple[schema.Party, ...], faults: list[tuple[tuple[str | int, ...], str]]
    ) -> tuple[CompiledParty, ...]:
        compiled = []
        for index, party in enumerate(parties):
            try:
                compiled.append(self._party(party))
            except ConditionError as error:
                faults.append((("spec", kind, index), str(error)))
        return tuple(compiled)

    def _party(self, party: schema.Party) -> CompiledParty:
        indexed: dict[str, tuple[str, ...]] = {}
        others: list[tuple[str, frozenset[str]]] = []
        texts = []
        keys = 1
        for name, value in sorted((party.claims or {}).items(), key=lambda item: isinstance(item[1], tuple)):
            if isinstance(value, schema.Matches):
                texts.append(self.conditions.matches(name, value.matches))
                continue
            values = tuple(dict.fromkeys(_encoded(each) for each in (value if isinstance(value, tuple) else (value,))))
            if keys * len(values) <= MAX_KEYS or not indexed:
                indexed[name] = values
                keys *= len(values)
            else:
                others.append((name, frozenset(values)))
        if party.when is not None:
            texts.append(party.when)
        names, path = sorted(indexed), paths.places(party.path) if party.path is not None else {}
        for text in texts:
            self.conditions.compile(text)
        return CompiledParty(
            issuer=IssuerName(party.issuer),
            shape=self._share((*names, *path)),
            keys=frozenset((*key, *path.values()) for key in itertools.product(*(indexed[name] for name in names))),
            others=tuple(others),
            condition=self.conditions.compile(" && ".join(map(_bracketed, texts))) if texts else None,
        )

    def _scope(
        self, index: int, scope: schema.ScopeSpec, faults: list[tuple[tuple[str | int, ...], str]]
    ) -> CompiledScope:
        condition = None
        try:
            condition = self.conditions.compile(scope.when) if scope.when is not None else None
        except ConditionError as error:
            faults.append((("spec", "scopes", index, "when"), str(error)))
        rules = self._share(tuple(self._share(each.rule()) for each in scope.rules or ()))
        compiled = CompiledScope(
            name=self._share(scope.name),
            clusters=self._share(tuple(ClusterName(name) for name in scope.clusters)),
            namespaces=self._share(scope.namespaces or ()),
            cluster_scoped=scope.cluster_scoped,
            rules=rules,
            cluster_role=scope.cluster_role or "",
            classes=self._share(breeding(rules)),
            acknowledged=self._share(tuple(sorted(scope.acknowledge or ()))),
            workload_accounts=self._share(scope.workloads.service_accounts if scope.workloads else ()),
            default_lifetime=scope.lifetime.default,
            max_lifetime=scope.lifetime.max,
            condition=condition,
        )
        shared: CompiledScope = self._share(compiled)
        return shared

    def _share(self, value: Any) -> Any:
        if len(self._shared) > MAX_SHARED:
            self._shared.clear()
        return self._shared.setdefault(value, value)


class Unusable(Exception):
    """A policy whose conditions cannot be used: (path, what) of each."""

    def __init__(self, faults: list[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__("; ".join(what for _, what in faults))
        self.faults = tuple(faults)


def digest(policy: schema.Policy) -> str:
    """SHA-256 over the canonical JSON of everything that a decision or a record takes from a policy, in hex."""
    content = policy.model_dump(mode="json", by_alias=True, exclude_none=True)
    content["metadata"] = {"name": policy.metadata.name}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(shape: tuple[Place, ...], claims: Claims) -> Key | None:
    """The index key of these claims in this shape; None where a claim is missing or not a simple value."""
    key = []
    for place in shape:
        value = encode(claims.get(place)) if isinstance(place, str) else paths.value_at(place, claims.get("segments"))
        if value is None:
            return None
        key.append(value)
    return tuple(key)


def encode(value: object) -> str | None:
    """A simple value as text that no value of another type has: 1, true and "1" stay three things."""
    if isinstance(value, str) and not value.startswith("\0"):
        return value
    # A text with this mark of its own is written in quotes, so that nobody spells a number or a truth value.
    if isinstance(value, str | bool | int):
        return f"\0{value!r}"
    return None


def _bracketed(text: str) -> str:
    """A condition beside others; a comment at its end does not reach the bracket."""
    return f"({text}\n)" if "//" in text else f"({text})"


def _encoded(value: str | int) -> str:
    text = encode(value)
    assert text is not None, "the schema admits nothing else"  # noqa: S101
    return text
