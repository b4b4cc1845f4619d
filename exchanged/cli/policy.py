"""`exchanged policy`: what is wrong with policies, and what they would decide. Offline."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchanged.cli import arguments, settings
from exchanged.cli.output import Exit, Format, JsonOutput, Output, fail, show_faults, show_json, show_table, warn

if TYPE_CHECKING:
    from datetime import datetime

    from exchanged.config import Configuration
    from exchanged.model import Identity

app = typer.Typer(help="Policies: check them, and explain what they decide. Offline.", no_args_is_help=True)
CheckConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="EXCHANGED_CONFIG", help="The configuration that they are to go with."),
]


class Door(StrEnum):
    """By which door a request comes in."""

    GRPC = "grpc"
    MTLS = "mtls"
    HTTP = "http"


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder of policies, or one file.")],
    config: CheckConfig = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Find faults and what deserves a second look. Exit code 1 if there are faults.

    With --config it also knows the issuers and clusters: it warns where names are matched that have ids, and of what a
    cluster would refuse.
    """
    from exchanged.cli.policy_check import check as check_policies
    from exchanged.cli.policy_files import read

    report = check_policies(read(folder), settings.load(config) if config else None)
    if output is Format.JSON:
        show_json(report.as_json())
    else:
        show_faults(report.faults)
        show_faults(report.warnings, kind="warning")
        print(f"{report.policies} policies, {len(report.faults)} faults, {len(report.warnings)} warnings")
    if report.faults or (strict and report.warnings):
        raise typer.Exit(Exit.REFUSED)


@app.command()
def explain(
    config: settings.ConfigFile = Path("exchanged.yaml"),
    policies: Annotated[
        Path | None, typer.Option(help="A folder of policies, or one file; the configuration's folder without.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="The subject token; only its claims are read.")] = None,
    claims: Annotated[str, typer.Option(help="The subject's claims as JSON, or @FILE, in place of a token.")] = "",
    issuer: Annotated[
        str, typer.Option(help="Its issuer's configured name; found by `iss`, or a SPIFFE ID, without.")
    ] = "",
    actor_token_file: Annotated[Path | None, typer.Option(help="The token of who acts for the subject.")] = None,
    actor_claims: Annotated[str, typer.Option(help="The actor's claims, in place of a token.")] = "",
    actor_issuer: Annotated[str, typer.Option(help="The actor's issuer.")] = "",
    cluster: Annotated[str, typer.Option(help="The cluster asked for.")] = "",
    scope: Annotated[str, typer.Option(help="The scope asked for: policy/scope, or the scope alone.")] = "",
    details: Annotated[
        str, typer.Option("--authorization-details", help="Less than the policy has, as RFC 9396 JSON or @FILE.")
    ] = "",
    lifetime: Annotated[str, typer.Option(help="The lifetime asked for, such as 90s or 10m.")] = "",
    intent: Annotated[str, typer.Option(help="What the caller states it is about to do (stated.intent).")] = "",
    time: Annotated[str, typer.Option(help="When it is asked (request.time): 2026-11-25T06:30:00Z; now without.")] = "",
    source: Annotated[str, typer.Option(help="From which address it is asked (request.source).")] = "127.0.0.1",
    door: Annotated[
        Door | None, typer.Option(help="By which door it is asked (request.door); grpc, or mtls with a certificate.")
    ] = None,
    peer: Annotated[
        str, typer.Option(help="The SPIFFE ID of the caller's certificate (request.peer); an X.509-SVID's own without.")
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """Which policy would decide this token and request, and why the others would not. Exit code 1 if it is refused.

    Nothing is verified, and no cluster is asked: this is about policies, not about tokens.
    """
    from exchanged.cli import policy_explain
    from exchanged.cli.policy_files import read
    from exchanged.model import ExchangeRequest, RequestContext, RequestId

    configuration, now = settings.load(config), arguments.moment(time)
    request = ExchangeRequest(
        subject_token=None,
        subject_token_type="",
        audience=(cluster,) if cluster else (),
        scope=(scope,) if scope else (),
        authorization_details=arguments.details(details),
        lifetime=arguments.lifetime(lifetime),
        intent=intent,
    )
    subject = _party(configuration, now, token_file, claims, issuer, "")
    actor = None
    if actor_token_file or actor_claims or actor_issuer:
        actor = _party(configuration, now, actor_token_file, actor_claims, actor_issuer, "actor-")
    peer = _peer(peer, policy_explain.peer_of(configuration, subject), door)
    door = door or (Door.MTLS if peer else Door.GRPC)
    context = RequestContext(request_id=RequestId("explained"), time=now, source=source, door=door.value, peer=peer)
    files, modes = read(policies or configuration.policies), policy_explain.modes_of(configuration)
    told = policy_explain.explain(files, modes, subject, actor, request, context)
    for fault in told.faults:
        warn(f"{fault}; the daemon leaves the file out, or keeps its last good content")
    if output is Format.JSON:
        show_json(told.as_json())
    else:
        show_table(("policy/scope", "verdict"), told.verdicts, empty="no policy lists this issuer")
        print("\n".join(filter(None, (told.outcome, told.unknown))))
    if told.allowed is None:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def schema(output: JsonOutput = Format.JSON) -> None:
    """Print the JSON Schema of a policy file, for editors."""
    from exchanged.policy.schema import json_schema

    del output
    show_json(json_schema())


def _party(
    configuration: "Configuration",
    now: "datetime",
    token_file: Path | None,
    claims: str,
    issuer: str,
    whose: str,
) -> "Identity":
    """Subject, or actor: `whose` is what their options begin with."""
    from exchanged.cli.policy_explain import identity

    found = _claims(token_file, claims, whose)
    name = _issuer(found, issuer, configuration, whose)
    # A token is no certificate, whatever it says of itself.
    svid = "jwt" if token_file else str(found.get("svid", "jwt"))
    try:
        return identity(configuration, name, found, now, svid=svid)
    except ValueError as error:
        fail(f"issuer {name}: {error}", Exit.USAGE)


def _peer(given: str, own: str, door: Door | None) -> str:
    """The SPIFFE ID of the caller's certificate; `own` is that of the subject where it is a certificate."""
    from exchanged.spiffe_id import SpiffeId

    try:
        peer = str(SpiffeId.parse(given)) if given else own
    except ValueError:
        fail(f"--peer is a SPIFFE ID, such as spiffe://prod.example/ns/web/sa/deployer, and not {given!r}", Exit.USAGE)
    if own and peer != own:
        fail(f"the subject is the caller's certificate, so --peer is {own}", Exit.USAGE)
    if peer and door not in {None, Door.MTLS}:
        fail("certificates come by --door mtls", Exit.USAGE)
    return peer


def _claims(token_file: Path | None, text: str, whose: str) -> dict[str, Any]:
    """The claims that were given."""
    from exchanged.authenticate.jws import unverified
    from exchanged.authenticate.refused import TokenRefused
    from exchanged.model import PresentedToken

    if (token_file is None) == (not text):
        fail(f"give --{whose}token-file or --{whose}claims, one of them", Exit.USAGE)
    if token_file is None:
        value = arguments.json_value(text, f"--{whose}claims")
        if not isinstance(value, dict):
            fail(f"--{whose}claims is a JSON object of claims", Exit.USAGE)
        return value
    try:
        return dict(unverified(PresentedToken(text=token_file.read_text(encoding="utf-8").strip())).claims)
    except (OSError, UnicodeError) as error:
        fail(f"{token_file} cannot be read: {error}", Exit.USAGE)
    except TokenRefused as error:
        fail(f"{token_file} holds no token (JWT): {error}", Exit.USAGE)


def _issuer(claims: dict[str, Any], given: str, configuration: "Configuration", whose: str) -> str:
    """The configured name of whose claims these are."""
    from exchanged.cli.policy_explain import issuers_of

    listed = ", ".join(configuration.issuers)
    if given and given not in configuration.issuers:
        fail(f"no issuer is called {given!r}; the configuration has {listed}", Exit.USAGE)
    names = issuers_of(configuration, claims)
    if not given and len(names) != 1:
        found = ", ".join(names) or "no configured issuer"
        what = f"iss {claims.get('iss')!r} and sub {claims.get('sub')!r} are of {found}"
        fail(f"{what}; give --{whose}issuer, one of {listed}", Exit.USAGE)
    return given or names[0]
