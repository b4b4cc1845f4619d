"""`exchanged grants`: what lives, and ending it. Also `exchanged status`."""

from typing import Annotated
from urllib.parse import quote

import typer

from exchanged.cli.output import Exit, Format, Output, show_fields, show_json, show_table
from exchanged.cli.socket import Daemon, MaybeConfig, SocketPath

app = typer.Typer(
    help="Grants: list, show, revoke. Over the local socket, as the daemon's user or root.", no_args_is_help=True
)
GrantId = Annotated[
    str, typer.Argument(help="The grant's id, as `exchanged grants list` and the token's reply name it.")
]
NO_SUCH_GRANT = "`exchanged grants list --all` shows those that there are"


@app.command("list")
def list_grants(
    socket: SocketPath = None,
    config: MaybeConfig = None,
    everything: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Of this cluster.")] = None,
    policy: Annotated[str | None, typer.Option(help="By this policy.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Of subjects of this issuer.")] = None,
    subject: Annotated[str | None, typer.Option(help="Of this subject.")] = None,
    before: Annotated[str | None, typer.Option(help="Go on after the grant of this id: older ones.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest ones.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List live grants, newest first."""
    found = Daemon(socket, config).get(
        "/grants",
        live=None if everything else "true",
        cluster=cluster,
        policy=policy,
        issuer=issuer,
        subject=subject,
        before=before,
        limit=limit,
    )
    if output is Format.JSON:
        show_json(found)
        return
    show_table(
        ("grant", "state", "cluster", "scope", "subject", "ends"),
        (
            (
                grant["id"],
                grant["state"],
                grant["decided"]["cluster"],
                f"{grant['decided']['policy']}/{grant['decided']['scope']}",
                f"{grant['subject']['issuer']}/{grant['subject']['subject']}",
                grant["expires_at"],
            )
            for grant in found["grants"]
        ),
        empty="no grants",
    )


@app.command()
def show(grant: GrantId, socket: SocketPath = None, config: MaybeConfig = None, output: Output = Format.TABLE) -> None:
    """Show all about one grant."""
    found = Daemon(socket, config).get(f"/grants/{quote(grant, safe='')}", missing=NO_SUCH_GRANT)
    if output is Format.JSON:
        show_json(found)
    else:
        show_fields(found)


@app.command()
def revoke(
    grant: GrantId,
    why: Annotated[str, typer.Option(help="Goes into the record.")] = "",
    socket: SocketPath = None,
    config: MaybeConfig = None,
    output: Output = Format.TABLE,
) -> None:
    """End a grant at once. Exit code 1 if it was over already."""
    path = f"/grants/{quote(grant, safe='')}/revoke"
    answer = Daemon(socket, config).post(path, {"why": why}, missing=NO_SUCH_GRANT)
    if output is Format.JSON:
        show_json(answer)
    else:
        state = answer["grant"]["state"]
        withdrawn = "" if state == "withdrawn" else "; its cluster does not answer, and withdrawing is kept being tried"
        print(f"{grant} revoked{withdrawn}" if answer["ended"] else f"{grant} was over already ({state})")
    if not answer["ended"]:
        raise typer.Exit(Exit.REFUSED)


@app.command("revoke-subject")
def revoke_subject(
    issuer: Annotated[str, typer.Argument(help="The issuer's configured name.")],
    subject: Annotated[str, typer.Argument(help="The `sub` of its tokens, exactly.")],
    why: Annotated[str, typer.Option(help="Goes into the record.")] = "",
    socket: SocketPath = None,
    config: MaybeConfig = None,
    output: Output = Format.TABLE,
) -> None:
    """End all grants of a subject, and refuse its tokens that were issued until now."""
    answer = Daemon(socket, config).post("/subjects/revoke", {"issuer": issuer, "subject": subject, "why": why})
    if output is Format.JSON:
        show_json(answer)
    else:
        print(f"{issuer}/{subject} revoked; {len(answer['ended'])} live grants ended")


def status(socket: SocketPath = None, config: MaybeConfig = None, output: Output = Format.TABLE) -> None:
    """What the daemon is doing, and what it lacks."""
    told = Daemon(socket, config).get("/status")
    if output is Format.JSON:
        show_json(told)
        return
    rows = [(name, told[name]) for name in ("version", "ready")]
    rows += [("lacking", reason) for reason in told["reasons"]]
    rows += [("remark", remark) for remark in told["remarks"]]
    rows += [(name, told[name]) for name in ("live_grants", "backlog")]
    rows += [
        (f"cluster {name}", f"not configured, and {grants} grants of it are not finished")
        for name, grants in told["not_configured"].items()
    ]
    rows += [("listening", f"{name} {address}") for name, address in told["listening"].items()]
    rows += [(f"issuer {name}", reason or "ok") for name, reason in told["issuers"].items()]
    rows += [(f"cluster {name}", reason or "ok") for name, reason in told["clusters"].items()]
    rows.append(("policies", f"{told['policies']['count']} in force, {len(told['policies']['faults'])} faults"))
    rows += [("fault", fault) for fault in told["policies"]["faults"]]
    show_table(("", ""), rows, empty="")
