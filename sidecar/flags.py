"""The flags of `sidecar run`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def parser() -> argparse.ArgumentParser:
    """What reads them."""
    made = argparse.ArgumentParser(
        prog="sidecar run",
        description="Fetches cluster tokens, keeps them fresh, and hands them out as files or on a socket.",
        epilog=_EXAMPLES,
        # With a width it does not import what knows the terminal's.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=110),
        allow_abbrev=False,
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="several tokens; in place of all flags but the last")
    asked = made.add_argument_group("what is asked for")
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
    _add_source(made)
    files = made.add_argument_group("who gets it")
    files.add_argument("--directory", type=Path, metavar="DIR", help="where token, ca.crt, namespace and kubeconfig go")
    files.add_argument("--namespace", metavar="NAME", help="what the file namespace says; what was granted without")
    files.add_argument("--mode", type=_read("mode"), help="of the files; 0440 without")
    files.add_argument("--owner", type=_read("user"), metavar="USER", help="of the files; whoever runs this without")
    files.add_argument("--group", type=_read("group"), help="of the files; the folder's or ours without")
    files.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket: GET /token/default; for our own user"
    )
    files.add_argument("--hook", action="append", default=[], metavar="WHAT", help=_HOOK)
    running = made.add_argument_group("how it runs")
    running.add_argument(
        "--check", type=_read("seconds"), metavar="TIME", help="look for revocation so often; 30s, 0 never"
    )
    running.add_argument("--give-back", action="store_true", help="at the end the grant ends too")
    running.add_argument(
        "--health-listen", type=_read("address"), metavar="[HOST]:PORT", help="/healthz, /readyz, /metrics"
    )
    always = made.add_argument_group("also with --config")
    always.add_argument("--once", action="store_true", help="have each token once, and exit: for init containers")
    always.add_argument("--wait", type=_read("seconds"), default=WAIT_SECONDS, metavar="TIME", help=_WAIT)
    always.add_argument("--log-format", choices=("text", "json"), default="text")
    always.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return made


_HOOK = "on a change: an http:// URL, HUP:NAME (a signal to a process), or a command; may be given several times"
_WAIT = f"with --once: try for so long while nobody answers; {WAIT_SECONDS}s without"


def _add_source(made: argparse.ArgumentParser) -> None:
    kinds = ("file", "jwt-svid", "x509-svid", "github", "gitlab", "command")
    group = made.add_argument_group("who asks")
    group.add_argument("--source", choices=kinds, help="where the subject token comes from; file without")
    group.add_argument(
        "--subject-token-file", type=Path, metavar="FILE", help="read anew each time; the projected token without"
    )
    group.add_argument("--subject-token-command", metavar="LINE", help="prints a token; no shell reads the line")
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
