"""`exchanged token`: an exchange from a shell, and giving back what came of it."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from exchanged.cli import arguments
from exchanged.cli.advice import advice
from exchanged.cli.output import Exit, Format, Output, fail, show_fields, show_json
from exchanged.cli.source import Source, SourceError, default_audience, subject_token

if TYPE_CHECKING:
    import grpc

    from exchanged.cli.svid import X509


app = typer.Typer(help="Exchange a proof of identity for a cluster token, from a shell.", no_args_is_help=True)

SECONDS = 30
"""For one call: twice what the daemon gives an exchange by default."""
Server = Annotated[str, typer.Option("--server", envvar="EXCHANGED_SERVER", help="The daemon's gRPC door, host:port.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="EXCHANGED_CA",
        help="Who vouches for it (PEM), or spiffe: the trust domain's bundle from SPIFFE_ENDPOINT_SOCKET. Public roots "
        "without. The daemon's own CA is ca/ca.crt in its state folder.",
    ),
]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="A file with the token; standard input without.")]
JWT = "urn:ietf:params:oauth:token-type:jwt"
_CAUSES = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "nobody trusted here vouches for its certificate; give --ca FILE (its own CA: ca/ca.crt in its state folder)",
    ),
    ("Hostname Verification", "its certificate is for other names; give --server one of those, or the right --ca"),
    ("ALPN", "that is no gRPC door; give --server the address of doors.grpc"),
    (
        "Socket closed",
        "it hung up: it wants a certificate and got none, or one that has ended or whose authority it does not know",
    ),
    ("Connection refused", "nothing listens there; is it running, and is --server right?"),
    ("hostname lookup", "there is no such host; is --server right?"),
)
"""What gRPC says when a connection fails, and what it means."""


@app.command()
def get(
    server: Server = "127.0.0.1:8443",
    ca: Ca = None,
    cluster: Annotated[str, typer.Option("--cluster", "--audience", help="The cluster's name.")] = "",
    scope: Annotated[str, typer.Option(help="policy/scope, or the scope alone while one policy matches.")] = "",
    source: Annotated[
        Source,
        typer.Option(
            help="Where the subject token comes from; auto: --subject-token-file, GitHub Actions, GitLab's id_tokens "
            "(EXCHANGED_ID_TOKEN), a pod's mounted token, a JWT-SVID (SPIFFE_ENDPOINT_SOCKET), standard input. "
            "x509-svid: none, the certificate of the connection says who it is for."
        ),
    ] = Source.AUTO,
    subject_token_file: Annotated[Path | None, typer.Option(help="A file with the subject token.")] = None,
    actor_token_file: Annotated[Path | None, typer.Option(help="A file with the token of who acts for them.")] = None,
    audience_of_subject: Annotated[
        str,
        typer.Option(
            "--issuer-audience",
            envvar="EXCHANGED_AUDIENCE",
            help="What GitHub is asked a token for: the daemon's `audience`. Without it https://HOST:PORT of --server, "
            "and https://HOST where the port is 443.",
        ),
    ] = "",
    certificate: Annotated[
        bool,
        typer.Option(
            "--certificate",
            help="Open the connection with the X.509-SVID from SPIFFE_ENDPOINT_SOCKET; --server is the door mtls. "
            "Without --ca, its trust domain's bundle vouches for the server. Source x509-svid does so by itself.",
        ),
    ] = False,
    spiffe_id: Annotated[str, typer.Option(help="Which SVID, where the Workload API has several.")] = "",
    details: Annotated[
        str,
        typer.Option(
            "--authorization-details",
            help="Ask for less than the policy has, as RFC 9396 JSON or @FILE: "
            '[{"type": "kubernetes", "namespaces": ["web"], "verbs": ["get"]}]',
        ),
    ] = "",
    intent: Annotated[str, typer.Option(help="What you are about to do; recorded as stated.")] = "",
    lifetime: Annotated[str, typer.Option(help="Such as 90s or 10m; the policy's default without.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="token: the token alone; json: all of it.")] = "token",
) -> None:
    """Exchange; prints the token.

    In GitHub Actions, with `permissions: {id-token: write}`:

    exchanged token get --server exchanged.example:443 --cluster prod --scope deploy-web/rollout

    With a SPIFFE Workload API, as an X.509-SVID at the door mtls:

    exchanged token get --server exchanged.example:8446 --source x509-svid --cluster prod --scope agents/pods

    In GitLab, give the job `id_tokens: {EXCHANGED_ID_TOKEN: {aud: …}}` with the daemon's audience.
    """
    from exchanged.cli.svid import x509_svid

    if output not in {"token", "json"}:
        fail("--output is token or json", Exit.USAGE)
    try:
        subject = subject_token(source, subject_token_file, audience_of_subject or default_audience(server), spiffe_id)
        actor = subject_token(Source.FILE, actor_token_file, "") if actor_token_file else ""
        own = x509_svid(spiffe_id) if certificate or source is Source.X509_SVID else None
    except SourceError as error:
        fail(str(error), Exit.USAGE)
    request = asked_for(cluster, scope, details, intent, lifetime)
    request.subject_token, request.subject_token_type = subject, JWT if subject else ""
    request.actor_token, request.actor_token_type = actor, JWT if actor else ""
    reply = called(server, ca, "Exchange", request, own)
    if output == "token":
        print(reply.access_token)
        return
    show_json(_json(reply))


@app.command()
def revoke(
    server: Server = "127.0.0.1:8443", ca: Ca = None, token_file: TokenFile = None, output: Output = Format.TABLE
) -> None:
    """Give a token back: what it may do ends at once. An unknown token is no error (RFC 7009 §2.2)."""
    from exchanged.v1 import exchange_pb2 as pb

    called(server, ca, "Revoke", pb.RevokeRequest(token=_read(token_file)))
    if output is Format.JSON:
        show_json({"given_back": True})
    else:
        print("given back", file=sys.stderr)


@app.command()
def introspect(
    server: Server = "127.0.0.1:8443", ca: Ca = None, token_file: TokenFile = None, output: Output = Format.TABLE
) -> None:
    """What a token stands for, and whether it lives. Exit code 1 if it does not."""
    from exchanged.v1 import exchange_pb2 as pb

    told = _json(called(server, ca, "Introspect", pb.IntrospectRequest(token=_read(token_file))))
    if output is Format.JSON:
        show_json(told)
    else:
        show_fields(told)
    if not told.get("active"):
        raise typer.Exit(Exit.REFUSED)


def asked_for(cluster: str, scope: str, details: str, intent: str, lifetime: str) -> Any:
    """The request that these options make; the proof of who asks is still to come."""
    from exchanged.v1 import exchange_pb2 as pb

    request = pb.ExchangeRequest(
        audience=[cluster] if cluster else [],
        scope=scope,
        authorization_details=[
            pb.AuthorizationDetail(type=arguments.DETAIL_TYPE, **asdict(each)) for each in arguments.details(details)
        ],
        intent=intent,
    )
    if (asked := arguments.lifetime(lifetime)) is not None:
        request.requested_lifetime.FromTimedelta(asked)
    return request


def called(server: str, ca: Path | None, method: str, request: Any, own: "X509 | None" = None) -> Any:
    """The reply of one call, or the end of the command with the refusal."""
    import grpc

    from exchanged.v1 import exchange_pb2_grpc

    pem = roots(ca)
    if own is None:
        credentials = grpc.ssl_channel_credentials(pem)
    else:
        credentials = grpc.ssl_channel_credentials(pem or own.roots, own.key, own.chain)
    with grpc.secure_channel(server, credentials) as channel:
        stub: exchange_pb2_grpc.TokenExchangeStub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
        try:
            return getattr(stub, method)(request, timeout=SECONDS)
        except grpc.RpcError as error:
            _refused(error, server)


def roots(ca: Path | None, option: str = "--ca") -> bytes | None:
    """PEM of who vouches for a server, or the end of the command; None for public roots."""
    if ca == Path("spiffe"):
        from exchanged.cli.svid import x509_svid

        try:
            return x509_svid("").roots
        except SourceError as error:
            fail(str(error), Exit.USAGE)
    try:
        pem = ca.read_bytes() if ca else None
    except OSError as error:
        fail(f"{option} {ca} cannot be read: {error.strerror}", Exit.USAGE)
    if pem is not None and b"BEGIN CERTIFICATE" not in pem:
        fail(f"{option} {ca} holds no certificate (PEM)", Exit.USAGE)
    return pem


def _refused(error: "grpc.RpcError", server: str) -> NoReturn:
    from google.rpc.error_details_pb2 import ErrorInfo
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            more = {name: value for name, value in info.metadata.items() if name not in {"request_id", "oauth_error"}}
            lines = [f"{status.message} [{info.reason}, request {info.metadata['request_id']}]"]
            lines += [f"  {name}: {value}" for name, value in more.items()]
            lines += [f"  {text}"] if (text := advice(info.reason)) else []
            if info.reason == "PARAMETER_MISSING" and info.metadata.get("parameter") == "subject_token":
                lines += ["  a certificate alone is enough at the door mtls; is --server that one?"]
            code = Exit.UNAVAILABLE if info.metadata["oauth_error"] == "temporarily_unavailable" else Exit.REFUSED
            fail("\n".join(lines), code)
    said = str(error.details())
    for words, cause in _CAUSES:
        if words in said:
            fail(f"{server} cannot be asked: {cause}", Exit.UNAVAILABLE)
    fail(f"{server} does not answer as the daemon would: {said}", Exit.UNAVAILABLE)


def _read(path: Path | None) -> str:
    try:
        return (path.read_text(encoding="utf-8") if path else sys.stdin.read()).strip()
    except (OSError, UnicodeError) as error:
        fail(f"{path} cannot be read: {error}", Exit.USAGE)


def _json(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    told: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    for name in ("expires_in", "exp", "iat"):
        if name in told:
            told[name] = int(told[name])
    return told
