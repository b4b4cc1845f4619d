"""What a sidecar is told, from flags or from a file."""

import grp
import os
import pwd
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar import strict
from sidecar.model import Ask
from sidecar.sources import SourceSettings

CHECK_SECONDS = 30
"""How often the daemon is asked whether a token lives."""
MODE = 0o440
_LARGEST_ID = 2**32 - 2
"""The one beyond means "leave as it is" (chown(2))."""
_DETAILS = {"apiGroups": "api_groups", "resourceNames": "resource_names"} | {
    name: name for name in ("namespaces", "resources", "verbs")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """Where a workload finds its files, and who may read them; None is whoever runs the sidecar.

    Attributes:
        namespace: what the file of this name says; "" is what was granted.
    """

    directory: Path
    namespace: str = ""
    mode: int = MODE
    owner: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSettings:
    """What to do on a change: one of a signal, a command, an HTTP call."""

    command: tuple[str, ...] = ()
    url: str = ""
    signal: int = 0
    process: str = ""
    pid_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """One token."""

    name: str
    server: str
    ca: Path | None
    ask: Ask
    source: SourceSettings
    files: FileSettings | None
    hooks: tuple[HookSettings, ...] = ()
    check: int = CHECK_SECONDS
    give_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSettings:
    """A Unix socket, and who may ask on it besides our own user."""

    path: Path
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it."""

    tokens: tuple[TokenSettings, ...]
    health: tuple[str, int] | None = None
    socket: SocketSettings | None = None


def authorities(file: Path) -> bytes:
    """Who vouches for a server, PEM.

    Raises:
        OSError, ValueError: the file cannot be used.
    """
    pem = file.read_bytes()
    if b"BEGIN CERTIFICATE" not in pem:
        raise ValueError(f"{file} holds no certificate (PEM)")
    return pem


def contradictions(made: Settings) -> list[str]:
    """What cannot be meant."""
    found = [] if made.tokens else ["tokens: there is none"]
    names = [token.name for token in made.tokens]
    folders = [os.path.realpath(token.files.directory) for token in made.tokens if token.files]
    found += [f"tokens: two are called {name}" for name in sorted({each for each in names if names.count(each) > 1})]
    found += [f"tokens: two write to {each}" for each in sorted({each for each in folders if folders.count(each) > 1})]
    if made.socket is None:
        found += [
            f"token {token.name}: nobody would have it; give it files (a directory), or the sidecar a socket"
            for token in made.tokens
            if token.files is None
        ]
    return found


def user(value: Any) -> int:
    """A user id, by number or name."""
    return _id(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group(value: Any) -> int:
    """A group id, by number or name."""
    return _id(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def hook(command: tuple[str, ...], url: str, signals: str, process: str, pid_file: Path | None) -> HookSettings:
    """What to do on a change.

    Raises:
        ValueError: it is not one of them, or not whole.
    """
    if (bool(command), bool(url), bool(signals)).count(True) != 1:
        raise ValueError("is one of command, url and signal")
    if bool(signals) != bool(process or pid_file) or (process and pid_file):
        raise ValueError("a signal goes to a process or to what a pidFile says; nothing else has those")
    if command and not command[0].strip():
        raise ValueError("a command begins with a program")
    if url and not _is_callable(url):
        raise ValueError("url is http://HOST[:PORT]/PATH, for somebody in the same pod; with no user or password in it")
    number = 0
    if signals:
        name = f"SIG{signals.upper().removeprefix('SIG')}"
        if name not in signal.Signals.__members__:
            raise ValueError(f"{signals} is no signal; HUP and USR1 are")
        number = signal.Signals[name]
    return HookSettings(command=command, url=url, signal=number, process=process, pid_file=pid_file)


def detail(value: Any) -> dict[str, object]:
    """An RFC 9396 authorization detail of type `kubernetes`, as the contract has it.

    Raises:
        ValueError: it has something that is not understood, and might have been meant to narrow.
    """
    if not isinstance(value, dict) or value.get("type") != "kubernetes":
        raise ValueError("is a mapping with type: kubernetes")
    for name, listed in value.items():
        if name != "type" and name not in _DETAILS:
            raise ValueError(f"knows no {name!r}; there are {', '.join(_DETAILS)}")
        if name != "type" and not (isinstance(listed, list) and all(isinstance(each, str) for each in listed)):
            raise ValueError(f"wants a list of texts for {name}")
    return {"type": "kubernetes"} | {_DETAILS[name]: listed for name, listed in value.items() if name != "type"}


def _is_callable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        return bool(host) and parts.scheme == "http" and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        # A port beyond 65535, a name with an empty label, a bracket that stays open.
        return False


def _id(value: Any, what: str, of_name: Callable[[str], int]) -> int:
    told = strict.text(value)
    if told.isascii() and told.isdigit():
        if len(told) > len(str(_LARGEST_ID)) or int(told) > _LARGEST_ID:
            raise ValueError(f"a {what} is at most {_LARGEST_ID}")
        return int(told)
    try:
        return of_name(told)
    except KeyError:
        raise ValueError(f"there is no {what} {told!r} here; a number works too") from None
