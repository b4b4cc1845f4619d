"""`sidecar run`: what its flags or its file say, and its exit code."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import flags

if TYPE_CHECKING:
    from sidecar.settings import HookSettings, Settings, TokenSettings
    from sidecar.sources import SourceSettings

USAGE, UNAVAILABLE = 2, 3
_ALWAYS = frozenset({"config", "once", "wait", "log_format", "log_level"})
_WHILE_IT_RUNS = ("socket", "hook", "check", "give_back", "health_listen")


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    _import_asyncio_without_tls()
    parser = flags.parser()
    told = parser.parse_args(arguments)
    # Told to stop before there is anything that could be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(UNAVAILABLE if told.once else 0))
    # gRPC says what is wrong in its errors; and nobody forks here but to run another program.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import asyncio  # noqa: PLC0415 - see above

    from sidecar.log import set_up  # noqa: PLC0415 - as above
    from sidecar.run import run  # noqa: PLC0415 - as above
    from sidecar.strict import Faulty  # noqa: PLC0415 - as above

    set_up(told.log_format, told.log_level)
    try:
        return asyncio.run(run(_settings(parser, told), once=told.once, patience=told.wait))
    except Faulty as faulty:
        for fault in faulty.faults:
            print(f"sidecar: {fault}", file=sys.stderr)  # noqa: T201 - a command prints
        return USAGE


def _import_asyncio_without_tls() -> None:
    """Saves a tenth of the memory: TLS is gRPC's, asyncio's own is for nobody here (it can do without)."""
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # as importlib has it: not to be found
    try:
        import asyncio  # noqa: F401, PLC0415 - so that it has looked
    finally:
        del sys.modules["ssl"]


def _settings(parser: argparse.ArgumentParser, told: argparse.Namespace) -> "Settings":
    """What the flags or the file say.

    Raises:
        Faulty: with everything that is wrong.
    """
    from sidecar.settings import Settings, SocketSettings, contradictions  # noqa: PLC0415 - see main
    from sidecar.strict import Faulty  # noqa: PLC0415 - as above

    given = [name for name, value in vars(told).items() if value != parser.get_default(name)]
    if told.once and (vain := [name for name in given if name in _WHILE_IT_RUNS]):
        parser.error(
            f"{_flag(vain[0])} is for a sidecar that goes on running; with --once it ends when the token is there"
        )
    if told.config:
        from sidecar.settings_file import load  # noqa: PLC0415 - most have no file

        if beside := [name for name in given if name not in _ALWAYS]:
            parser.error(f"{_flag(beside[0])} is for one token; with --config it belongs into the file")
        return _once_usable(load(told.config, dict(os.environ)), told)
    if told.directory is None and told.socket is None:
        parser.error("nobody would have the token: give --directory, or --socket, or --config")
    made = Settings(
        tokens=(_token(parser, told),),
        health=told.health_listen,
        socket=SocketSettings(path=told.socket) if told.socket else None,
    )
    if faults := contradictions(made):
        raise Faulty(faults)
    return made


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _once_usable(made: "Settings", told: argparse.Namespace) -> "Settings":
    """The settings of a file, which may serve an init container and a sidecar: what is for the latter is left alone."""
    from sidecar.strict import Faulty  # noqa: PLC0415 - see main

    unheld = [token.name for token in made.tokens if token.files is None]
    if told.once and unheld:
        raise Faulty(
            [f"token {name}: with --once nobody would have it; give it files (a directory)" for name in unheld]
        )
    return made


def _token(parser: argparse.ArgumentParser, told: argparse.Namespace) -> "TokenSettings":
    from sidecar.model import Ask  # noqa: PLC0415 - see main
    from sidecar.settings import CHECK_SECONDS, MODE, FileSettings, TokenSettings  # noqa: PLC0415 - as above

    server = told.server or os.environ.get("EXCHANGED_SERVER", "")
    if not server:
        parser.error("where is the daemon? give --server HOST:PORT (its gRPC door), or EXCHANGED_SERVER")
    ca = os.environ.get("EXCHANGED_CA")
    ask = Ask(
        cluster=told.cluster or "",
        scope=told.scope or "",
        details=_details(parser, told.authorization_details),
        lifetime=told.lifetime or None,
        intent=told.intent or "",
    )
    files = told.directory and FileSettings(
        directory=told.directory,
        namespace=told.namespace or "",
        mode=MODE if told.mode is None else told.mode,
        owner=told.owner,
        group=told.group,
    )
    return TokenSettings(
        name="default",
        server=server,
        ca=told.ca or (Path(ca) if ca else None),
        ask=ask,
        source=_source(parser, told),
        files=files,
        hooks=tuple(_hook(parser, each) for each in told.hook),
        check=CHECK_SECONDS if told.check is None else told.check,
        give_back=told.give_back,
    )


def _source(parser: argparse.ArgumentParser, told: argparse.Namespace) -> "SourceSettings":
    from sidecar.sources import PROJECTED, SourceSettings  # noqa: PLC0415 - see main

    line = told.subject_token_command
    kind = told.source or ("file" if line is None else "command")
    if (kind == "command") != (line is not None):
        parser.error("--subject-token-command goes with --source command, and only with it")
    if told.subject_token_file and kind != "file":
        parser.error("--subject-token-file goes with --source file, and only with it")
    return SourceSettings(
        kind=kind,
        path=told.subject_token_file or PROJECTED,
        command=_words(parser, line) if line is not None else (),
        audience=told.issuer_audience or os.environ.get("EXCHANGED_AUDIENCE", ""),
        spiffe_id=told.spiffe_id or "",
        certificate=told.certificate,
    )


def _words(parser: argparse.ArgumentParser, line: str) -> tuple[str, ...]:
    import shlex  # noqa: PLC0415 - as the rest

    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        parser.error(f"--subject-token-command: {error}")
    if not words or not words[0].strip():
        parser.error("--subject-token-command begins with a program")
    return words


def _hook(parser: argparse.ArgumentParser, text: str) -> "HookSettings":
    import shlex  # noqa: PLC0415 - as the rest

    from sidecar.settings import hook  # noqa: PLC0415 - see main

    signal_name, colon, process = text.partition(":")
    try:
        if text.startswith(("http:", "https:")):
            return hook((), text, "", "", None)
        if colon and signal_name.isupper() and signal_name.isalnum():
            return hook((), "", signal_name, process, None)
        return hook(tuple(shlex.split(text)), "", "", "", None)
    except ValueError as error:
        # What stands before an @ may be a password.
        parser.error(f"--hook {text.rpartition('@')[2]}: {error}")


def _details(parser: argparse.ArgumentParser, text: str | None) -> tuple[dict[str, object], ...]:
    import json  # noqa: PLC0415 - as the rest

    from sidecar.settings import detail  # noqa: PLC0415 - see main

    try:
        listed = json.loads(text) if text else []
        return tuple(detail(each) for each in listed)
    except (ValueError, TypeError) as error:
        parser.error(f"--authorization-details is a JSON array of objects with type kubernetes: {error}")
