"""`exchanged policy`: what is wrong with policies, and what they would decide. Offline."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, Format, Output, fail, show_json, show_table
from exchanged.cli.socket import MaybeConfig

app = typer.Typer(help="Policies: check them, and explain what they decide. Offline.", no_args_is_help=True)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A folder of policies, or one file.")],
    config: MaybeConfig = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Find faults and what deserves a second look. Exit code 1 if there are faults.

    With --config it also knows the issuers and clusters, and warns where names are matched that have ids.
    """
    from exchanged.cli.policy_check import check as check_policies

    configuration = settings.load(config) if config else None
    if not folder.exists():
        fail(f"{folder} is not there", Exit.USAGE)
    report = check_policies(folder, configuration)
    if output is Format.JSON:
        show_json(report.as_json())
    else:
        for fault in report.faults:
            print(f"fault    {fault}")
        for warning in report.warnings:
            print(f"warning  {warning}")
        print(f"{report.policies} policies, {len(report.faults)} faults, {len(report.warnings)} warnings")
    if report.faults or (strict and report.warnings):
        raise typer.Exit(Exit.REFUSED)


@app.command()
def explain(
    policies: Annotated[Path, typer.Option(help="The folder of policies.")],
    config: settings.ConfigFile = Path("exchanged.yaml"),
    issuer: Annotated[str, typer.Option(help="The issuer's configured name.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="A token; only its claims are read.")] = None,
    claims: Annotated[str, typer.Option(help="Claims as JSON, or @FILE, in place of a token.")] = "",
    cluster: Annotated[str, typer.Option(help="As it would be asked for.")] = "",
    scope: Annotated[str, typer.Option(help="As it would be asked for.")] = "",
    intent: Annotated[str, typer.Option(help="As it would be stated.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Which policy would decide this token and request, and why the others would not.

    Nothing is verified: this is about policies, not about tokens.
    """
    from exchanged.cli.policy_explain import explain as explain_request

    configuration = settings.load(config)
    found = _claims(token_file, claims)
    name = issuer or _issuer_of(found, configuration)
    told = explain_request(policies, configuration, name, found, cluster=cluster, scope=scope, intent=intent)
    if output is Format.JSON:
        show_json(told.as_json())
    else:
        show_table(("policy/scope", "verdict"), told.verdicts, empty="no policy lists this issuer")
        print(told.outcome)
    if not told.allowed:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    from exchanged.policy.schema import json_schema

    show_json(json_schema())


def _claims(token_file: Path | None, text: str) -> dict[str, Any]:
    from exchanged.authenticate.jws import unverified
    from exchanged.authenticate.refused import TokenRefused
    from exchanged.model import PresentedToken

    try:
        if token_file is not None:
            return dict(unverified(PresentedToken(text=token_file.read_text(encoding="utf-8").strip())).claims)
        value = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError, TokenRefused) as error:
        fail(f"no claims: {error}; give --token-file or --claims", Exit.USAGE)
    if not isinstance(value, dict):
        fail("--claims is no JSON object", Exit.USAGE)
    return value


def _issuer_of(claims: dict[str, Any], configuration: Any) -> str:
    names = [name for name, issuer in configuration.issuers.items() if issuer.issuer == claims.get("iss")]
    if len(names) != 1:
        fail(f"which issuer? Give --issuer, one of {', '.join(configuration.issuers)}", Exit.USAGE)
    return str(names[0])
