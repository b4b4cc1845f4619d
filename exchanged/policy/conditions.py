"""Conditions: CEL, type-checked when a policy is loaded, on bounded input. One that goes wrong does not hold."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from cel_expr_python import cel

from exchanged.model import Claims, ClusterName, ExchangeRequest, Identity, RequestContext

_COMPREHENSION = re.compile(r"\b(?:all|exists|exists_one|map|filter)\b(?=(?:\s|//[^\n]*+)*+\()")
"""A loop's name and its bracket; comments between them hide nothing, and nothing in between is used up."""
MAX_COMPREHENSIONS = 1
"""Loops in one condition. A token is bounded, so one loop over its claims is; loops within loops are not."""

_CLAIM = re.compile(r"""\bclaims(?:\.(\w++)(?!\s*\()|\["([^"\\\s]+)"\])""")
"""A claim by its name, and no call of a macro or a method."""
_CLAIMS = re.compile(r"\bclaims\b")
REMEMBERED = 10_000
"""Answers kept: a CI system's conditions are asked about the same few branches and events again and again."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "claims": ("map(string, dyn)", "verified claims of the subject; in actors[].when of the actor"),
    "issuer": ("string", "the configured name of whose claims they are"),
    "subject": ("string", "the `sub` of whose claims they are"),
    "actor": ("map(string, dyn)", "issuer, subject and claims of the actor; empty without one"),
    "request.time": ("timestamp", "now"),
    "request.hour": ("int", "hour of the day, UTC"),
    "request.weekday": ("int", "Monday is 1, UTC"),
    "request.source": ("string", "the peer's address"),
    "request.door": ("string", "grpc, mtls or http"),
    "request.peer": ("string", "the SPIFFE ID of the caller's certificate, verified; empty without one"),
    "request.cluster": ("string", 'the cluster\'s name; "" in subjects[].when'),
    "request.scope": ("string", "the scope as asked for"),
    "stated.intent": ("string", "what the caller says it is about to do; nobody vouches for it"),
}

Key = tuple["Condition", tuple[str | None, ...]]
"""A condition, and the values of the claims that it depends on."""


class ConditionError(ValueError):
    """A condition that cannot be loaded; the message says why."""


class Condition:
    """A compiled condition.

    Attributes:
        variables: those that it may read.
        depends_on: the claims, by name, that its value depends on alone; () where it may depend on more.
    """

    __slots__ = ("__weakref__", "_program", "depends_on", "text", "variables")

    def __init__(self, text: str, program: cel.Expression) -> None:
        self.text = text
        self.variables = tuple(name for name in VARIABLES if name.rpartition(".")[2] in text)
        self.depends_on = _claims_read(text) if self.variables == ("claims",) else ()
        self._program = program

    def why_not(self, activation: cel.Activation) -> str | None:
        """None if it holds; else why it does not."""
        value = self._program.eval(activation)
        if value.type() == cel.Type.BOOL:
            return None if value.value() is True else f"{self.text}: false"
        return f"{self.text}: {value.value()}"


class Conditions:
    """Compiles conditions, each text once."""

    def __init__(self) -> None:
        types = {
            "string": cel.Type.STRING,
            "int": cel.Type.INT,
            "timestamp": cel.Type.TIMESTAMP,
            "map(string, dyn)": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
        }
        self._environment = cel.NewEnv(variables={name: types[kind] for name, (kind, _) in VARIABLES.items()})
        self._compiled: WeakValueDictionary[str, Condition] = WeakValueDictionary()
        self._remembered: dict[Key, str | None] = {}

    def compile(self, text: str) -> Condition:
        """The condition of this text.

        Raises:
            ConditionError: it does not parse, does not type-check, is not a bool, or costs too much.
        """
        known = self._compiled.get(text)
        if known is not None:
            return known
        if len(_COMPREHENSION.findall(text)) > MAX_COMPREHENSIONS:
            raise ConditionError(f"more than {MAX_COMPREHENSIONS} loop (all, exists, exists_one, map, filter)")
        try:
            program = self._environment.compile(text)
        except RuntimeError as error:
            raise ConditionError(_readable(str(error))) from error
        if program.return_type() != cel.Type.BOOL:
            raise ConditionError(f"a condition must be a bool, this is {program.return_type().name()}")
        condition = self._compiled[text] = Condition(text, program)
        return condition

    def matches(self, claim: str, pattern: str) -> str:
        r"""The text of a condition that this pattern matches the whole of a claim.

        `^a|b$` has its anchors and yet matches more than it seems to: within \A(?:…)\z it does not.

        Raises:
            ConditionError: it is not a pattern.
        """
        whole = _literal(rf"\A(?:{pattern[1:-1]})\z")
        # By itself too: `^a)|(?:b$` would close the brackets around it and shed its anchors.
        for text in (_literal(pattern[1:-1]), whole):
            if self._environment.compile(f'"".matches({text})').eval(data={}).type() != cel.Type.BOOL:
                raise ConditionError(f"not a pattern (RE2): {pattern}")
        return f"claims[{_literal(claim)}].matches({whole})"

    def why_not(
        self,
        condition: Condition,
        who: Identity,
        actor: Identity | None,
        request: ExchangeRequest,
        context: RequestContext,
        cluster: ClusterName | None,
    ) -> str | None:
        """None if the condition holds of this decision; else why it does not."""
        key = _key(condition, who.claims)
        if key is not None and key in self._remembered:
            return self._remembered[key]
        values = _Values(who, actor, request, context, cluster)
        try:
            activation = self._environment.Activation({name: _READ[name](values) for name in condition.variables})
            answer = condition.why_not(activation)
        except RuntimeError as error:  # text that UTF-8 cannot hold: a JSON string may have half of a surrogate pair
            return f"{condition.text}: {error}"
        if key is not None:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = answer
        return answer


@dataclass(frozen=True, slots=True)
class _Values:
    who: Identity
    actor: Identity | None
    request: ExchangeRequest
    context: RequestContext
    cluster: ClusterName | None


_READ: Mapping[str, Callable[[_Values], Any]] = {
    "claims": lambda values: values.who.claims,
    "issuer": lambda values: values.who.issuer,
    "subject": lambda values: values.who.subject,
    "actor": lambda values: _party(values.actor),
    "request.time": lambda values: values.context.time,
    "request.hour": lambda values: values.context.time.hour,
    "request.weekday": lambda values: values.context.time.isoweekday(),
    "request.source": lambda values: values.context.source,
    "request.door": lambda values: values.context.door,
    "request.peer": lambda values: values.context.peer,
    "request.cluster": lambda values: values.cluster or "",
    "request.scope": lambda values: " ".join(values.request.scope),
    "stated.intent": lambda values: values.request.intent,
}


def _claims_read(text: str) -> tuple[str, ...]:
    """The names of the claims that a text reads, or () where it does anything else with them."""
    found = [match[1] or match[2] for match in _CLAIM.finditer(text)]
    return tuple(dict.fromkeys(found)) if len(found) == len(_CLAIMS.findall(text)) and "//" not in text else ()


def _key(condition: Condition, claims: Claims) -> Key | None:
    """What an answer for these claims can be remembered under, or None."""
    if not condition.depends_on:
        return None
    values = []
    for name in condition.depends_on:
        value = claims.get(name)
        # 1, 1.0 and true would be one key, null and nothing too; text, and nothing, are surely told apart.
        if type(value) is not str and (value is not None or name in claims):
            return None
        values.append(value)
    return condition, tuple(values)


def _party(actor: Identity | None) -> dict[str, Any]:
    if actor is None:
        return {}
    return {"issuer": actor.issuer, "subject": actor.subject, "claims": actor.claims}


def _literal(text: str) -> str:
    """A CEL string. JSON's escapes are CEL's, but for the pairs in which JSON writes what is beyond 16 bits."""
    return json.dumps(text, ensure_ascii=False)


def _readable(error: str) -> str:
    """The compiler's own words, without its frame."""
    first = error.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: <input>:").splitlines()[0]
    return f"at {first}"
