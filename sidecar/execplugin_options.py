"""The options of `sidecar exec-credential`, which a kubeconfig holds."""

import argparse
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sidecar import strict
from sidecar.model import Ask
from sidecar.settings import authorities, detail
from sidecar.sources import GITLAB_VARIABLE, KINDS, PROJECTED, SOCKET_VARIABLE, SourceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Whom to ask, for what, and with which proof."""

    server: str
    roots: bytes | None
    ask: Ask
    source: SourceSettings
    cached: bool

    @property
    def proof(self) -> str:
        """The file that the proof is in, or ""."""
        return str(self.source.path) if self.source.kind == "file" else ""


def options(arguments: list[str]) -> Options:
    """What the arguments say; ends the command with 2 and a sentence where they are wrong."""
    parser = _parser()
    told = parser.parse_args(arguments)
    try:
        source = _source(told)
        return Options(
            server=told.server,
            roots=_roots(told.ca, source),
            ask=Ask(
                cluster=told.cluster,
                scope=told.scope,
                details=_details(told.authorization_details),
                lifetime=strict.seconds(told.lifetime) if told.lifetime else None,
                intent=told.intent,
            ),
            source=source,
            cached=not told.no_cache,
        )
    except OSError as error:
        _wrong(parser, f"{error.filename} cannot be read: {error.strerror}")
    except ValueError as error:
        _wrong(parser, str(error))


def _wrong(parser: argparse.ArgumentParser, what: str) -> NoReturn:
    parser.error(what)


_CA = "who vouches for it: a file (PEM), or spiffe with a certificate: its trust domain; public roots without"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar exec-credential",
        description="A credential plugin (client.authentication.k8s.io/v1): exchanges a proof of identity for a "
        "cluster token, keeps it in the user's cache folder, and prints it as client-go wants it. "
        "`exchanged kubeconfig` writes a kubeconfig that uses it.",
        epilog="Exit codes: 0 a token, 1 refused, 2 wrong usage, 3 something is out of reach.",
        allow_abbrev=False,
    )
    environment = os.environ.get
    add = parser.add_argument
    add("--server", default=environment("EXCHANGED_SERVER", "127.0.0.1:8443"), help="the daemon's gRPC door, host:port")
    add("--ca", default=environment("EXCHANGED_CA", ""), help=_CA)
    add("--cluster", "--audience", default="", help="the cluster's name")
    add("--scope", default="", help="policy/scope, or the scope alone while one policy matches")
    add("--source", default="auto", choices=["auto", *KINDS], help="where the subject token comes from")
    add("--subject-token-file", default="", help=f"for source file; {PROJECTED} without")
    add("--subject-token-command", default="", help="for source command: prints the token; no shell reads the line")
    add(
        "--issuer-audience", default=environment("EXCHANGED_AUDIENCE", ""), help="what the token is asked for, if it is"
    )
    add("--spiffe-id", default="", help="which SVID, where there are several")
    add("--certificate", action="store_true", help="a JWT-SVID goes over the workload's own certificate")
    add("--authorization-details", default="", help="ask for less than the policy has: RFC 9396 JSON, or @FILE")
    add("--intent", default="", help="what it is for; recorded as stated")
    add("--lifetime", default="", help="such as 90s or 10m; the policy's default without")
    add("--no-cache", action="store_true", help="exchange anew, and keep nothing")
    return parser


def _source(told: argparse.Namespace) -> SourceSettings:
    kind = told.source if told.source != "auto" else _found(told)
    if kind == "command" and not told.subject_token_command:
        raise ValueError("source command: which? Add --subject-token-command")
    if told.certificate and kind not in {"jwt-svid", "x509-svid"}:
        raise ValueError(f"--certificate goes with --source jwt-svid, not with {kind}")
    return SourceSettings(
        kind=kind,
        path=Path(told.subject_token_file) if told.subject_token_file else PROJECTED,
        command=tuple(shlex.split(told.subject_token_command)),
        audience=told.issuer_audience,
        spiffe_id=told.spiffe_id,
        certificate=told.certificate,
    )


def _found(told: argparse.Namespace) -> str:
    """What there is, in the order of `exchanged token get`."""
    if told.subject_token_file:
        return "file"
    if told.subject_token_command:
        return "command"
    if "ACTIONS_ID_TOKEN_REQUEST_URL" in os.environ:
        return "github"
    if GITLAB_VARIABLE in os.environ:
        return "gitlab"
    if PROJECTED.exists() or SOCKET_VARIABLE not in os.environ:
        return "file"
    return "jwt-svid"


def _roots(ca: str, source: SourceSettings) -> bytes | None:
    if not ca:
        return None
    if ca == "spiffe":
        if not source.certified:
            raise ValueError("--ca spiffe goes with --certificate or --source x509-svid; else it is a file (PEM)")
        return None  # the bundle comes with the certificate
    try:
        return authorities(Path(ca))
    except ValueError as error:
        raise ValueError(f"--ca {error}") from error


def _details(text: str) -> tuple[dict[str, object], ...]:
    """RFC 9396 details as the daemon's messages have them."""
    if not text:
        return ()
    told = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    try:
        return tuple(detail(each) for each in (told if isinstance(told, list) else [told]))
    except ValueError as error:
        raise ValueError(f"--authorization-details: each {error}") from error
