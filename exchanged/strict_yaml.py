"""YAML that says what it means: every fault at once, each with its file and line.

A small YAML: unquoted words are strings, except true, false, null and plain decimal numbers. So `no` is a word and not
false, a date is a word and not a time. No tags, no anchors, no repeated keys.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_CHARACTERS = 512 * 1024
"""Of one text. The longest sensible policy file is a hundredth of it."""
MAX_DEPTH = 32
"""Levels of nesting; what is read here has less than ten."""

ModelT = TypeVar("ModelT", bound=BaseModel)
Path = tuple[str | int, ...]

_STRING_TAG = "tag:yaml.org,2002:str"
_TAGS = frozenset({_STRING_TAG, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"})
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong. `where` is the path of keys, `line` counts from 1."""

    file: str
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: "
        return place + (f"{self.where}: {self.what}" if self.where else self.what)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class Faulty(Exception):
    """A text that cannot be used, with every fault that was found."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


@dataclass(slots=True)
class Document:
    """One YAML document: plain values, and the line of each."""

    file: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def fault(self, path: Path, what: str) -> Fault:
        """A fault at this path, or at its nearest ancestor with a line."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Fault(file=self.file, line=self.lines.get(known, 1), where=_dotted(path), what=what)


def parse(text: str, file: str) -> Document:
    """The one document of a text.

    Raises:
        Faulty: bad syntax, a repeated key, more or less than one document, something this YAML leaves out.
    """
    documents = parse_all(text, file)
    if len(documents) != 1:
        raise Faulty(Fault(file=file, line=1, where="", what=f"one document expected, {len(documents)} found"))
    return documents[0]


def parse_all(text: str, file: str) -> list[Document]:
    """The documents of a text; empty ones are left out.

    Raises:
        Faulty: as `parse`.
    """
    if len(text) > MAX_CHARACTERS:
        raise Faulty(Fault(file=file, line=1, where="", what=f"longer than {MAX_CHARACTERS} characters"))
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.CBaseLoader))
    except yaml.YAMLError as error:
        raise Faulty(_syntax_fault(error, file)) from error
    documents = []
    faults: list[Fault] = []
    for node in nodes:
        reader = _Reader(Document(file))
        reader.document.value = reader.read(node, ())
        faults += reader.faults
        if reader.document.value is not None:
            documents.append(reader.document)
    if faults:
        raise Faulty(*faults)
    return documents


def validate(document: Document, model: type[ModelT], also: Iterable[Fault] = ()) -> ModelT:
    """The document as a model; `also` is what else is known to be wrong with it.

    Raises:
        Faulty: with every fault at once.
    """
    faults = list(also)
    try:
        made = model.model_validate(document.value)
    except ValidationError as error:
        keys = _keys(model.model_json_schema())
        errors = [each for each in error.errors() if not _follows_from_another(each, error)]
        raise _in_order([*faults, *(_fault(each, document, keys) for each in errors)]) from error
    if faults:
        raise _in_order(faults)
    return made


def _in_order(faults: Iterable[Fault]) -> Faulty:
    return Faulty(*sorted(dict.fromkeys(faults), key=lambda fault: fault.line))


@dataclass(slots=True)
class _Reader:
    """Nodes to plain values, noting lines and faults on the way."""

    document: Document
    faults: list[Fault] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self.seen:
            return self._refuse(path, "anchors and aliases are not supported")
        self.seen.add(id(node))
        if node.tag not in _TAGS:
            return self._refuse(path, "tags are not supported")
        if len(path) > MAX_DEPTH:
            return self._refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode):
            return dict(self._entries(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(node.value, quoted=bool(getattr(node, "style", None)))

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        keys: set[str] = set()
        for key_node, value_node in node.value:
            self.document.lines[path] = min(self.document.lines[path], key_node.start_mark.line + 1)
            if id(key_node) in self.seen:
                self._refuse(path, "anchors and aliases are not supported")
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _STRING_TAG:
                self._refuse(path, "a key must be a plain word")
                continue
            key = key_node.value
            self.document.lines[*path, key] = key_node.start_mark.line + 1
            if key in keys:
                self._refuse((*path, key), "repeated key")
            keys.add(key)
            yield key, self.read(value_node, (*path, key))

    def _refuse(self, path: Path, what: str) -> None:
        self.faults.append(self.document.fault(path, what))


def _scalar(text: str, *, quoted: bool) -> Any:
    if quoted:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _syntax_fault(error: yaml.YAMLError, file: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return Fault(file=file, line=mark.line + 1 if mark else 1, where="", what=str(what))


_WORDINGS = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must not be empty",
}


def _fault(error: ErrorDetails, document: Document, keys: frozenset[str]) -> Fault:
    path, kind = _existing(error["loc"], document), error["type"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), keys, n=1)
        return document.fault(path, "unknown key" + (f"; did you mean {close[0]!r}?" if close else ""))
    return document.fault(path, _WORDINGS.get(kind) or error["msg"].removeprefix("Value error, "))


def _follows_from_another(error: ErrorDetails, whole: ValidationError) -> bool:
    """A list whose items are faulty counts as too short; that is no news."""
    place = error["loc"]
    return error["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in whole.errors()
    )


def _keys(schema: Any) -> frozenset[str]:
    """Every property that a JSON Schema names, at any level."""
    found: set[str] = set()
    if isinstance(schema, dict):
        found.update(schema.get("properties", {}))
        for value in schema.values():
            found |= _keys(value)
    elif isinstance(schema, list):
        for value in schema:
            found |= _keys(value)
    return frozenset(found)


def _existing(location: tuple[int | str, ...], document: Document) -> Path:
    """The location without what pydantic puts between keys (the names of union members)."""
    path: Path = ()
    for index, step in enumerate(location):
        is_last = index == len(location) - 1
        if (*path, step) in document.lines or is_last:
            path = (*path, step)
    return path


def _dotted(path: Path) -> str:
    dotted = ""
    for step in path:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else step
    return dotted
