"""`sidecar run`: its flags."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.settings import HookSettings, Settings, TokenSettings
    from sidecar.sources import SourceSettings

USAGE, UNAVAILABLE = 2, 3
WAIT_SECONDS = 60
_EXAMPLES = """\
examples:
  Beside a workload, in place of its service account's folder; the pod mounts a projected token for exchanged:
    sidecar run --server exchanged.example:443 --scope read-pods/pods --directory /var/run/secrets/cluster

  Before a workload (an init container), for as long as one token lives:
    sidecar run --once --server exchanged.example:443 --scope read-pods/pods --directory /var/run/secrets/cluster

  Several tokens and clusters, hooks, health and a socket (docs/sidecar.md):
    sidecar run --config /etc/exchanged/sidecar.yaml

exit codes: 0 done, or stopped by SIGTERM; 2 these flags or the file are wrong; with --once 1 refused, 3 out of reach
"""


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    _import_asyncio_without_tls()
    parser = _parser()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar run",
        description="Fetches cluster tokens, keeps them fresh, and hands them out as files or on a socket.",
        epilog=_EXAMPLES,
        # With a width it does not import what knows the terminal's.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=110),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="several tokens; in place of all flags but the last"
    )
    asked = parser.add_argument_group("what is asked for")
    asked.add_argument("--server", help="the daemon's gRPC door, HOST:PORT (EXCHANGED_SERVER)")
    asked.add_argument(
        "--ca", type=Path, metavar="FILE", help="who vouches for it; public roots without (EXCHANGED_CA)"
    )
    asked.add_argument("--cluster", help="the cluster's name, where the policy has several")
    asked.add_argument("--scope", help="policy/scope, or the scope alone while one policy matches")
    asked.add_argument(
        "--lifetime", type=_read("seconds"), metavar="TIME", help="90s, 10m; the policy's default without"
    )
    asked.add_argument("--intent", metavar="TEXT", help="what you are about to do; recorded as stated")
    asked.add_argument("--authorization-details", metavar="JSON", help="ask for less than the policy has (RFC 9396)")
    _add_source(parser)
    files = parser.add_argument_group("who gets it")
    files.add_argument("--directory", type=Path, metavar="DIR", help="where token, ca.crt, namespace and kubeconfig go")
    files.add_argument("--namespace", metavar="NAME", help="what the file namespace says; what was granted without")
    files.add_argument("--mode", type=_read("mode"), help="of the files; 0440 without")
    files.add_argument("--owner", type=_read("user"), metavar="USER", help="of the files; whoever runs this without")
    files.add_argument("--group", type=_read("group"), help="of the files; the folder's or ours without")
    files.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket: GET /token/default; for our own user"
    )
    files.add_argument("--hook", action="append", default=[], metavar="WHAT", help=_HOOK)
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--check", type=_read("seconds"), metavar="TIME", help="look for revocation so often; 30s, 0 never"
    )
    running.add_argument("--give-back", action="store_true", help="at the end the grant ends too")
    running.add_argument(
        "--health-listen", type=_read("address"), metavar="[HOST]:PORT", help="/healthz, /readyz, /metrics"
    )
    always = parser.add_argument_group("also with --config")
    always.add_argument("--once", action="store_true", help="have each token once, and exit: for init containers")
    always.add_argument("--wait", type=_read("seconds"), default=WAIT_SECONDS, metavar="TIME", help=_WAIT)
    always.add_argument("--log-format", choices=("text", "json"), default="text")
    always.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


_HOOK = "on a change: an http:// URL, HUP:NAME (a signal to a process), or a command; may be given several times"
_WAIT = f"with --once: try for so long while nobody answers; {WAIT_SECONDS}s without"


def _add_source(parser: argparse.ArgumentParser) -> None:
    kinds = ("file", "jwt-svid", "x509-svid", "github", "gitlab", "command")
    group = parser.add_argument_group("who asks")
    group.add_argument(
        "--source", choices=kinds, help="where the subject token comes from; file, or command with --command"
    )
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="read anew each time; the projected token without"
    )
    group.add_argument("--command", metavar="LINE", help="prints a token; quoted as for a shell, but none runs it")
    group.add_argument("--issuer-audience", metavar="AUD", help="whom a token is made out to (EXCHANGED_AUDIENCE)")
    group.add_argument("--certificate", action="store_true", help="send a JWT-SVID over the X.509-SVID's connection")
    group.add_argument("--spiffe-id", metavar="ID", help="which SVID, where there are several")


def _read(name: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        from sidecar import settings, strict  # noqa: PLC0415 - see main

        reader = getattr(strict, name, None) or getattr(settings, name)
        try:
            return reader(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


_ALWAYS = frozenset({"config", "once", "wait", "log_format", "log_level"})


def _settings(parser: argparse.ArgumentParser, told: argparse.Namespace) -> "Settings":
    """What the flags or the file say.

    Raises:
        Faulty: with everything that is wrong.
    """
    from sidecar.settings import Settings, SocketSettings, contradictions  # noqa: PLC0415 - see main
    from sidecar.strict import Faulty  # noqa: PLC0415 - as above

    if told.config:
        from sidecar.settings_file import load  # noqa: PLC0415 - most have no file

        beside = [
            name for name, value in vars(told).items() if name not in _ALWAYS and value != parser.get_default(name)
        ]
        if beside:
            parser.error(f"--{beside[0].replace('_', '-')} is for one token; with --config it belongs into the file")
        return load(told.config, dict(os.environ))
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
    import shlex  # noqa: PLC0415 - as the rest

    from sidecar.sources import PROJECTED, SourceSettings  # noqa: PLC0415 - see main

    kind = told.source or ("command" if told.command else "file")
    if (kind == "command") != bool(told.command):
        parser.error("--command goes with --source command, and only with it")
    if told.token_file and kind != "file":
        parser.error("--token-file goes with --source file, and only with it")
    return SourceSettings(
        kind=kind,
        path=told.token_file or PROJECTED,
        command=tuple(shlex.split(told.command or "")),
        audience=told.issuer_audience or os.environ.get("EXCHANGED_AUDIENCE", ""),
        spiffe_id=told.spiffe_id or "",
        certificate=told.certificate,
    )


def _hook(parser: argparse.ArgumentParser, text: str) -> "HookSettings":
    import shlex  # noqa: PLC0415 - as the rest

    from sidecar.settings import hook  # noqa: PLC0415 - see main

    signal_name, colon, process = text.partition(":")
    try:
        if text.startswith("http:"):
            return hook((), text, "", "", None)
        if colon and signal_name.isupper() and signal_name.isalnum():
            return hook((), "", signal_name, process, None)
        return hook(tuple(shlex.split(text)), "", "", "", None)
    except ValueError as error:
        parser.error(f"--hook {text}: {error}")


def _details(parser: argparse.ArgumentParser, text: str | None) -> tuple[dict[str, object], ...]:
    import json  # noqa: PLC0415 - as the rest

    from sidecar.settings import detail  # noqa: PLC0415 - see main

    try:
        listed = json.loads(text) if text else []
        return tuple(detail(each) for each in listed)
    except (ValueError, TypeError) as error:
        parser.error(f"--authorization-details is a JSON array of objects with type kubernetes: {error}")
