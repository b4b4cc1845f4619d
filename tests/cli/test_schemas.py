import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import run

SCHEMAS = Path("docs/schemas")
NAMES = (("config", "configuration"), ("policy", "policy"))


@pytest.mark.parametrize(("group", "name"), NAMES)
def test_the_published_schema_is_the_one_of_the_program(group: str, name: str) -> None:
    """What editors read in docs/schemas is what the command prints; `exchanged GROUP schema` writes it anew."""
    published = json.loads((SCHEMAS / f"{name}.json").read_text())
    assert run(group, "schema").json == published
    assert run(group, "schema", "-o", "json").json == published
    assert published["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert published["$id"] == f"https://exchanged.dev/v1alpha1/{name}.json"


@pytest.mark.parametrize(("group", "name"), NAMES)
def test_defaults_are_as_a_file_would_have_them(group: str, name: str) -> None:
    """What the schema says of a key holds of the key's default too: an editor may fill it in."""
    del group
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    defaults = list(_defaults(schema))
    assert [(default, part) for default, part in defaults if not _fits(default, part, schema)] == []
    assert ("10m" in [default for default, _ in defaults]) == (name == "configuration")


def test_the_walk_finds_a_default_that_does_not_fit() -> None:
    """A duration as ISO 8601 has it would be seen."""
    assert not _fits("PT10M", {"type": "string", "pattern": "^[0-9]{1,6}[smhd]$"}, {})


def _defaults(schema: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    for model in (schema, *schema["$defs"].values()):
        for part in model.get("properties", {}).values():
            if "default" in part:
                yield part["default"], part


TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "object": dict, "null": type(None)}


def _fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value is what a schema says, in the words that ours use."""
    if "$ref" in schema:
        return _fits(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(_fits(value, each, root) for each in schema["anyOf"])
    properties = schema.get("properties", {})
    return (
        ("type" not in schema or isinstance(value, TYPES[schema["type"]]))
        and (not isinstance(value, str) or re.search(schema.get("pattern", ""), value) is not None)
        and ("enum" not in schema or value in schema["enum"])
        and ("const" not in schema or value == schema["const"])
        and (not isinstance(value, list) or all(_fits(each, schema["items"], root) for each in value))
        and (not isinstance(value, dict) or all(_fits(each, properties[key], root) for key, each in value.items()))
    )
