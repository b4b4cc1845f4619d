"""`exchanged kubeconfig`: what kubectl and every client-go program need to ask for their tokens by themselves."""

import os
import shlex
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchanged.cli import token as exchange
from exchanged.cli.output import Exit, fail, show_json
from exchanged.cli.source import Source, SourceError, default_audience, found, subject_token
from exchanged.keys.files import write_private

if TYPE_CHECKING:
    from exchanged.cli.svid import X509

SECONDS = 20
"""For a command that prints a token."""
SPIFFE = "spiffe"
"""As --ca: the bundle of the trust domain vouches for the daemon."""
HINT = "The command `sidecar` is not on the PATH. It comes with the Python package `exchanged`."
"""What kubectl says where the plugin is not installed."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a kubeconfig is for: names as the daemon has them, and where the API server is."""

    cluster: str
    scope: str
    server: str
    certificate_authority: str
    namespace: str = ""


def kubeconfig(
    server: exchange.Server = "127.0.0.1:8443",
    ca: exchange.Ca = None,
    cluster: Annotated[str, typer.Option("--cluster", "--audience", help="The cluster's name.")] = "",
    scope: Annotated[str, typer.Option(help="policy/scope, or the scope alone while one policy matches.")] = "",
    source: Annotated[
        Source, typer.Option(help="Where the plugin will have its subject token from; as for `token get`, less stdin.")
    ] = Source.AUTO,
    subject_token_file: Annotated[Path | None, typer.Option(help="A file with the subject token.")] = None,
    subject_token_command: Annotated[
        str, typer.Option(help="A command that prints the subject token each time it is run; no shell reads it.")
    ] = "",
    audience_of_subject: Annotated[
        str,
        typer.Option(
            "--issuer-audience",
            envvar="EXCHANGED_AUDIENCE",
            help="What GitHub or the Workload API is asked a token for: the daemon's `audience`.",
        ),
    ] = "",
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Open the connection with the X.509-SVID.")
    ] = False,
    spiffe_id: Annotated[str, typer.Option(help="Which SVID, where the Workload API has several.")] = "",
    details: Annotated[
        str, typer.Option("--authorization-details", help="Ask for less than the policy has: RFC 9396 JSON, or @FILE.")
    ] = "",
    intent: Annotated[str, typer.Option(help="What it is for; recorded as stated.")] = "",
    lifetime: Annotated[str, typer.Option(help="Such as 90s or 10m; the policy's default without.")] = "",
    namespace: Annotated[
        str,
        typer.Option("--namespace", "-n", help="Of the context; without it the one that was granted, if it is one."),
    ] = "",
    api_server: Annotated[
        str, typer.Option(help="The API server's URL. With it nothing is exchanged to learn it; needs --cluster.")
    ] = "",
    certificate_authority: Annotated[
        Path | None, typer.Option(help="Who vouches for that API server (PEM); public roots without.")
    ] = None,
    command: Annotated[str, typer.Option(help="The plugin, by its name on the PATH or its path.")] = "sidecar",
    output_file: Annotated[
        Path | None, typer.Option(help="Write it there, readable by you alone, instead of to standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in --output-file; it is not merged.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="yaml or json.")] = "yaml",
) -> None:
    """Write a kubeconfig whose user is the credential plugin `sidecar exec-credential`. It holds no secret.

    The API server's URL and CA, and the names of cluster and scope, are those that the daemon tells with a token;
    the token is given back at once.

    exchanged kubeconfig --server exchanged.example:443 --cluster prod --scope read-pods/pods --output-file kubeconfig

    kubectl --kubeconfig kubeconfig get pods
    """
    from exchanged.cli.svid import x509_svid

    if output not in {"yaml", "json"}:
        fail("--output is yaml or json", Exit.USAGE)
    if output_file is not None:
        _check_file(output_file, force=force)
    kind = "command" if subject_token_command else "file" if subject_token_file else source.value
    _check_plugin(kind, ca, certificate=certificate)
    if api_server and not cluster:
        fail("--api-server is of which cluster? Add --cluster NAME", Exit.USAGE)
    request = exchange.asked_for(cluster, scope, details, intent, lifetime)
    if api_server:
        pem = exchange.roots(certificate_authority, "--certificate-authority") or b""
        told = _Target(cluster, scope, api_server, pem.decode())
    else:
        try:
            audience = audience_of_subject or default_audience(server)
            if subject_token_command:
                request.subject_token = _printed(subject_token_command)
            else:
                if source is Source.AUTO:
                    _check_plugin(found(subject_token_file).value, ca, certificate=certificate)
                request.subject_token = subject_token(source, subject_token_file, audience, spiffe_id)
            own = x509_svid(spiffe_id) if certificate or source is Source.X509_SVID else None
        except SourceError as error:
            fail(str(error), Exit.USAGE)
        told = _told(server, ca, request, own)
    options = {
        "--server": server,
        "--ca": SPIFFE if ca == Path(SPIFFE) else _absolute(ca),
        "--cluster": told.cluster,
        "--scope": told.scope,
        "--source": "command" if subject_token_command else source.value,
        "--subject-token-file": _absolute(subject_token_file),
        "--subject-token-command": subject_token_command,
        "--issuer-audience": audience_of_subject,
        "--spiffe-id": spiffe_id,
        "--authorization-details": f"@{_absolute(Path(details[1:]))}" if details.startswith("@") else details,
        "--intent": intent,
        "--lifetime": lifetime,
    }
    plugin = _plugin(options, flags=["--certificate"] if certificate else [], command=command)
    _show(_kubeconfig(told, plugin, namespace or told.namespace), output, output_file)


def _told(server: str, ca: Path | None, request: Any, own: "X509 | None") -> _Target:
    """Where the cluster is, as a grant of it says. The grant ends before this returns."""
    from exchanged.v1 import exchange_pb2 as pb

    request.subject_token_type = exchange.JWT if request.subject_token else ""
    reply = exchange.called(server, ca, "Exchange", request, own)
    exchange.called(server, ca, "Revoke", pb.RevokeRequest(token=reply.access_token), own)
    granted = {name for detail in reply.authorization_details for name in detail.namespaces or ("",)}
    cluster = reply.cluster
    namespace = granted.pop() if len(granted) == 1 else ""
    return _Target(cluster.name, reply.scope, cluster.server, cluster.certificate_authority, namespace)


def _printed(command: str) -> str:
    """The proof that a command prints.

    Raises:
        SourceError: it prints none.
    """
    import subprocess

    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise SourceError(f"{command} gives no token: {error}") from error
    return done.stdout.strip()


def _plugin(options: dict[str, str], *, flags: list[str], command: str) -> dict[str, Any]:
    """The user's `exec` (client.authentication.k8s.io/v1)."""
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command,
        "args": ["exec-credential", *(f"{name}={value}" for name, value in options.items() if value), *flags],
        "interactiveMode": "Never",
        "provideClusterInfo": True,
        "installHint": HINT,
    }


def _kubeconfig(told: _Target, plugin: dict[str, Any], namespace: str) -> dict[str, Any]:
    cluster = {"server": told.server}
    if told.certificate_authority:
        cluster["certificate-authority-data"] = b64encode(told.certificate_authority.encode()).decode()
    name = told.cluster
    context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"exec": plugin}}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }


def _show(config: dict[str, Any], output: str, file: Path | None) -> None:
    import json

    import yaml

    if file is None and output == "json":
        show_json(config)
        return
    text = json.dumps(config, indent=2) + "\n" if output == "json" else yaml.safe_dump(config, sort_keys=False)
    if file is None:
        print(text, end="")
        return
    try:
        write_private(file.resolve(), text.encode())
    except OSError as error:
        fail(f"--output-file {file} cannot be written: {error.strerror}", Exit.USAGE)


def _check_plugin(source: str, ca: Path | None, *, certificate: bool) -> None:
    """Ends the command where the plugin could not do what can be done here."""
    if source == Source.STDIN:
        fail("a plugin has no standard input; name another --source, or --subject-token-file", Exit.USAGE)
    if certificate and source not in {Source.AUTO, Source.JWT_SVID, Source.X509_SVID}:
        fail(f"a plugin sends no proof of source {source} over a certificate; name --source jwt-svid", Exit.USAGE)
    if ca == Path(SPIFFE) and not (certificate or source == Source.X509_SVID):
        fail(
            "a plugin has --ca spiffe with a certificate alone: add --certificate, or give --ca FILE (PEM). "
            "`spire-agent api fetch x509 -write DIR` writes the bundle into one",
            Exit.USAGE,
        )


def _check_file(file: Path, *, force: bool) -> None:
    """Ends the command before anything is asked, where a kubeconfig of somebody's would be lost."""
    if not file.parent.is_dir():
        fail(f"--output-file {file} cannot be written: there is no folder {file.parent}", Exit.USAGE)
    if file.exists() and not file.is_file():
        fail(f"--output-file {file} is not a file", Exit.USAGE)
    if file.exists() and not force:
        fail(
            f"--output-file {file} is there already. Write another and merge them, as in "
            f"`KUBECONFIG={file}:OTHER kubectl config view --flatten`; or replace it with --force",
            Exit.USAGE,
        )


def _absolute(path: Path | None) -> str:
    """The plugin runs wherever kubectl does."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100 - links stay: a mounted token is one that moves
