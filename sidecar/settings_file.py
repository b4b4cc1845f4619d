"""The sidecar's file (kind: Sidecar), for several tokens and clusters in one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar import strict
from sidecar.advice import why
from sidecar.model import Ask
from sidecar.settings import (
    CHECK_SECONDS,
    MODE,
    FileSettings,
    HookSettings,
    Settings,
    SocketSettings,
    TokenSettings,
    contradictions,
    detail,
    group,
    hook,
    user,
)
from sidecar.sources import KINDS, PROJECTED, SourceSettings
from sidecar.strict import Faulty, Keys

_HEADER = {"apiVersion": "exchanged.dev/v1alpha1", "kind": "Sidecar"}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_NO_TEXTS: tuple[str, ...] = ()


def load(path: Path, environment: dict[str, str]) -> Settings:
    """The settings of a file.

    Raises:
        Faulty: with everything that is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise Faulty([f"{path} cannot be read: {why(error)}"]) from error
    return read(strict.yaml_file(str(path), text), environment)


def read(value: Any, environment: dict[str, str]) -> Settings:
    """The settings that a document says; who the daemon is may stand in the environment.

    Raises:
        Faulty: with everything that is wrong with it.
    """
    faults: list[str] = []
    top = Keys(value, "", faults)
    for key, wanted in _HEADER.items():
        if top.take(key, strict.text, "") != wanted:
            top.fault(key, f"must be {wanted}")
    usual_server = top.take("server", strict.text, environment.get("EXCHANGED_SERVER", ""))
    usual_ca = top.take(
        "certificateAuthority", _path, Path(told) if (told := environment.get("EXCHANGED_CA")) else None
    )
    inner = top.inner("source")
    usual_source = _source(inner, environment) if inner else None
    tokens = []
    for keys in top.inners("tokens"):
        server = keys.take("server", strict.text, usual_server)
        if not server:
            keys.fault("server", "the daemon's gRPC door, HOST:PORT, is missing, here and at the top")
        own = keys.inner("source")
        source = _source(own, environment) if own else usual_source or SourceSettings(audience=_audience(environment))
        tokens.append(_token(keys, server, keys.take("certificateAuthority", _path, usual_ca), source))
        keys.close()
    made = Settings(tokens=tuple(tokens), health=_health(top), socket=_socket(top))
    top.close()
    faults += contradictions(made)
    if faults:
        raise Faulty(faults)
    return made


def _token(keys: Keys, server: str, ca: Path | None, source: SourceSettings) -> TokenSettings:
    name = keys.take("name", _name, "")
    if not name:
        keys.fault("name", "a token has a name of small letters, digits and -")
    ask = Ask(
        cluster=keys.take("cluster", strict.text, ""),
        scope=keys.take("scope", strict.text, ""),
        details=keys.take("details", _details, ()),
        lifetime=keys.take("lifetime", strict.seconds, 0) or None,
        intent=keys.take("intent", strict.text, ""),
    )
    inner = keys.inner("files")
    return TokenSettings(
        name=name,
        server=server,
        ca=ca,
        ask=ask,
        source=source,
        files=_files(inner) if inner else None,
        hooks=tuple(made for each in keys.inners("onChange") if (made := _hook(each))),
        check=keys.take("check", strict.seconds, CHECK_SECONDS),
        give_back=keys.take("giveBack", strict.flag, default=False),
    )


def _files(keys: Keys) -> FileSettings:
    if not keys.has("directory"):
        keys.fault("directory", "is required")
    nobody: int | None = None
    made = FileSettings(
        directory=keys.take("directory", _path, None) or Path(),
        namespace=keys.take("namespace", strict.text, ""),
        mode=keys.take("mode", strict.mode, MODE),
        owner=keys.take("owner", user, nobody),
        group=keys.take("group", group, nobody),
    )
    keys.close()
    return made


def _source(keys: Keys, environment: dict[str, str]) -> SourceSettings:
    made = SourceSettings(
        kind=keys.take("type", _kind, "file"),
        path=keys.take("path", _path, None) or PROJECTED,
        command=keys.take("command", strict.texts, _NO_TEXTS),
        audience=keys.take("audience", strict.text, _audience(environment)),
        spiffe_id=keys.take("spiffeId", strict.text, ""),
        certificate=keys.take("certificate", strict.flag, default=False),
    )
    if (made.kind == "command") != bool(made.command):
        keys.fault("command", "is there with type: command, and only then")
    if made.command and not made.command[0].strip():
        keys.fault("command", "begins with a program")
    keys.close()
    return made


def _hook(keys: Keys) -> HookSettings | None:
    told: list[Any] = [
        keys.take("command", strict.texts, _NO_TEXTS),
        keys.take("url", strict.text, ""),
        keys.take("signal", strict.text, ""),
        keys.take("process", strict.text, ""),
        keys.take("pidFile", _path, None),
    ]
    keys.close()
    try:
        return hook(*told)
    except ValueError as error:
        keys.fault("onChange", str(error))
        return None


def _health(top: Keys) -> tuple[str, int] | None:
    keys = top.inner("health")
    if keys is None:
        return None
    made = keys.take("listen", strict.address, None)
    if made is None:
        keys.fault("listen", "is required")
    keys.close()
    return made


def _socket(top: Keys) -> SocketSettings | None:
    keys = top.inner("socket")
    if keys is None:
        return None
    path = keys.take("path", _path, None)
    if path is None:
        keys.fault("path", "is required")
    nobody: frozenset[int] = frozenset()
    uids, gids = keys.take("users", _each(user), nobody), keys.take("groups", _each(group), nobody)
    keys.close()
    return SocketSettings(path=path or Path(), uids=uids, gids=gids)


def _audience(environment: dict[str, str]) -> str:
    return environment.get("EXCHANGED_AUDIENCE", "")


def _path(value: Any) -> Path | None:
    return Path(strict.text(value))


def _name(value: Any) -> str:
    if not set(strict.text(value)) <= _NAME:
        raise ValueError("a token has a name of small letters, digits and -")
    return str(value)


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return str(value)


def _details(value: Any) -> tuple[dict[str, object], ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list")  # noqa: TRY004 - it is about what somebody wrote
    return tuple(detail(each) for each in value)


def _each(read_one: Callable[[Any], int]) -> Callable[[Any], frozenset[int]]:
    return lambda value: frozenset(read_one(each) for each in strict.texts(value))
