"""`exchanged records`: what was decided, and why."""

import json
from typing import Annotated, Any

import typer

from exchanged.cli.output import Format, Output, clean, show_json, show_table
from exchanged.cli.socket import Daemon, MaybeConfig, SocketPath

app = typer.Typer(help="The record of every decision. Over the local socket.", no_args_is_help=True)
Grant = Annotated[str | None, typer.Option(help="Of this grant.")]


@app.command("list")
def list_records(
    socket: SocketPath = None,
    config: MaybeConfig = None,
    grant: Grant = None,
    after: Annotated[int | None, typer.Option(help="With a sequence above this.")] = None,
    limit: Annotated[
        int, typer.Option(help="At most so many: the last ones; with --after or --grant the first ones.")
    ] = 20,
    output: Output = Format.TABLE,
) -> None:
    """List records, oldest first."""
    last = limit if after is None and grant is None else None
    found = Daemon(socket, config).get("/records", after=after, limit=limit, grant=grant, last=last)["records"]
    if output is Format.JSON:
        show_json({"records": found})
        return
    rows = [
        (each["sequence"], each["time"][:19], each["kind"], each["grant_id"] or "", summary(each)) for each in found
    ]
    show_table(("", "time (UTC)", "kind", "grant", "what"), rows, empty="no records")


@app.command()
def follow(
    socket: SocketPath = None, config: MaybeConfig = None, grant: Grant = None, output: Output = Format.TABLE
) -> None:
    """Show records as they are written, until Ctrl-C; json is one object a line."""
    try:
        for each in Daemon(socket, config).lines("/records", follow="true", grant=grant, last=1):
            if output is Format.JSON:
                print(json.dumps(each), flush=True)
            else:
                print(
                    each["sequence"],
                    each["time"][:19],
                    each["kind"],
                    each["grant_id"] or "-",
                    summary(each),
                    flush=True,
                )
    except KeyboardInterrupt:
        return


def summary(record: dict[str, Any]) -> str:
    """One line on what a record says."""
    body = record["body"]
    kind = record["kind"]
    if kind == "intended":
        decided, subject = body["decided"], body["subject"]
        who = f"{subject['issuer']}/{subject['subject']}"
        text = f"{decided['policy']}/{decided['scope']} at {decided['cluster']} for {who}"
    elif kind == "issued":
        text = f"credential {body['credential_id']}"
    elif kind in {"refused", "unverified"}:
        subject = body.get("subject")
        who = f"{subject['issuer']}/{subject['subject']}: " if subject else ""
        text = f"{body['reason']}: {who}{body['detail']}"
    elif kind == "policies_loaded":
        text = f"{body['policies']} policies, {len(body['faults'])} faults"
    elif "why" in body:
        text = f"{body['why']} (by {body.get('by', '')})"
    else:
        text = " ".join(f"{name}={value}" for name, value in body.items())
    return clean(text)
