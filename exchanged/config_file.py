"""The configuration as a file: read, held against the schema and against itself, every fault at once with its line."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from exchanged import strict_yaml
from exchanged.config import Configuration, Settings
from exchanged.contradictions import contradictions
from exchanged.strict_yaml import Document, Fault

SettingsT = TypeVar("SettingsT", bound=Settings)


def load(path: Path) -> Configuration:
    """The configuration in a file; relative paths in it are relative to the file's folder.

    Raises:
        strict_yaml.Faulty: with every fault of the file, by line.
        OSError, UnicodeError: the file cannot be read.
    """
    return settled(read(path), path.resolve().parent)


def read(path: Path) -> Document:
    """The file as plain values with their lines.

    Raises:
        strict_yaml.Faulty: it is not YAML, or not of the strict kind.
        OSError, UnicodeError: it cannot be read.
    """
    return strict_yaml.parse(path.read_text(encoding="utf-8"), str(path))


def settled(document: Document, folder: Path, also: Iterable[Fault] = ()) -> Configuration:
    """The document as a configuration whose paths are absolute; `also` is what else is known to be wrong with it.

    Raises:
        strict_yaml.Faulty: with every fault, by line.
    """
    faults = [document.fault(place, what) for place, what in contradictions(document.value)]
    return _anchored(strict_yaml.validate(document, Configuration, [*faults, *also]), folder)


def _anchored(settings: SettingsT, folder: Path) -> SettingsT:
    """The same settings with every path absolute."""
    return settings.model_copy(update={name: _anchor(value, folder) for name, value in settings})


def _anchor(value: object, folder: Path) -> object:
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, Settings):
        return _anchored(value, folder)
    if isinstance(value, dict):
        return {key: _anchor(item, folder) for key, item in value.items()}
    return value
