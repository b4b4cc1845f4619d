"""JSON Schemas for editors, made of the classes that read the files."""

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

SITE = "https://exchanged.dev/v1alpha1"
"""What the schemas are called; a name, not a place to fetch them from."""
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a model's file."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"{SITE}/{model.__name__.lower()}.json",
        **model.model_json_schema(by_alias=True, schema_generator=_AsWritten),
    }


class _AsWritten(GenerateJsonSchema):
    """Defaults as a file would have them; no titles that only repeat a key."""

    def encode_default(self, dft: Any) -> Any:
        """The default as a file has it."""
        if isinstance(dft, timedelta):
            return _duration(dft)
        if isinstance(dft, BaseModel):
            names = {name: field.alias or name for name, field in type(dft).model_fields.items()}
            return {names[name]: self.encode_default(value) for name, value in dft if value is not None}
        return super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No: an editor shows the key."""
        del schema
        return False


def _duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    unit, length = next((unit, length) for unit, length in _UNITS.items() if seconds % length == 0)
    return f"{seconds // length}{unit}"
