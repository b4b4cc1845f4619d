"""Values as somebody wrote them, read key by key: what is wrong is noted with its place, all at once."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_UNITS = {"s": 1, "m": 60, "h": 3600}


class Faulty(Exception):
    """What cannot be used, a line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Keys:
    """A mapping of which each key is taken once; `close` notes the keys that nobody took."""

    def __init__(self, value: Any, where: str, faults: list[str]) -> None:
        self._where = where
        self._faults = faults
        self._known: list[str] = []
        if not isinstance(value, Mapping):
            faults.append(f"{where or 'the file'}: must be a mapping")
            value = {}
        self._values: Mapping[str, Any] = value

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._values

    def take(self, key: str, read: Callable[[Any], T], default: T) -> T:
        """The value as `read` has it; the default where there is none, or none that can be used."""
        self._known.append(key)
        if key not in self._values:
            return default
        try:
            return read(self._values[key])
        except ValueError as error:
            self.fault(key, str(error))
            return default

    def inner(self, key: str) -> "Keys | None":
        """A mapping in it, if it is there."""
        self._known.append(key)
        return Keys(self._values[key], self.place(key), self._faults) if key in self._values else None

    def inners(self, key: str) -> "list[Keys]":
        """A list of mappings in it."""
        self._known.append(key)
        listed = self._values.get(key, [])
        if not isinstance(listed, list):
            self.fault(key, "must be a list")
            return []
        return [Keys(value, f"{self.place(key)}[{index}]", self._faults) for index, value in enumerate(listed)]

    def fault(self, key: str, what: str) -> None:
        """Notes a fault of a key."""
        self._faults.append(f"{self.place(key)}: {what}")

    def close(self) -> None:
        """All keys have been asked for."""
        for key in self._values:
            if key not in self._known:
                self.fault(key, f"unknown key; there are {', '.join(dict.fromkeys(self._known))}")

    def place(self, key: str) -> str:
        """Where a key is, from the top."""
        return f"{self._where}.{key}" if self._where else key


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts, not empty."""
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def flag(value: Any) -> bool:
    """Whether, or not."""
    if value not in ("true", "false"):  # no set: it may be a list
        raise ValueError("must be true or false")
    return bool(value == "true")


def seconds(value: Any) -> int:
    """A duration: 90s, 10m, 1h; 0 for none."""
    match = re.fullmatch(r"([0-9]{1,6})([smh])", value) if isinstance(value, str) else None
    if match:
        return int(match[1]) * _UNITS[match[2]]
    if value == "0":
        return 0
    raise ValueError("must be a number with s, m or h: 90s, 10m, 1h")


def mode(value: Any) -> int:
    """Permissions of a file, octal."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError("must be permissions as chmod has them: 0440")
    found = int(value, 8)
    if found & 0o022:
        raise ValueError("must not let others write: 0440, 0400, 0444")
    if not found & 0o400:
        raise ValueError("must let the owner read: 0440, 0400, 0444")
    return found


def address(value: Any) -> tuple[str, int]:
    """Where to listen: HOST:PORT, or :PORT for all addresses."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - ports end there
        raise ValueError("must be HOST:PORT, or :PORT for all addresses")
    return host.strip("[]"), int(port)


def yaml_file(file: str, read: str) -> Any:
    """The one document of a YAML text, with every scalar as the text that it was.

    Raises:
        Faulty: it is no YAML, or a key is there twice.
    """
    import yaml  # noqa: PLC0415 - most have no file

    repeated: list[str] = []

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - theirs
            made = super().construct_mapping(node, deep)
            if len(made) < len(node.value):
                repeated.append(f"{file}:{node.start_mark.line + 1}: a key is there twice in this mapping")
            return made

    try:
        value = yaml.load(read, Loader)  # noqa: S506 - texts, lists and mappings are all it makes
    except yaml.YAMLError as error:
        raise Faulty([f"{file} is no YAML: {error}"]) from error
    if repeated:
        raise Faulty(repeated)
    return value
