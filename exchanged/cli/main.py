"""All commands together."""

import os
from typing import Annotated

import typer

from exchanged import __version__
from exchanged.cli import cluster, config, grants, kubeconfig, policy, records, serve, store, token

# gRPC's own lines are in nobody's format, and a stranger causes one with each handshake that fails.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
app = typer.Typer(
    name="exchanged",
    help="A proof of identity in, a narrow and short cluster token out. Recorded, and revocable at once.\n\n"
    "Exit codes: 0 done, 1 refused or faults found, 2 wrong usage, 3 something is out of reach.\n\n"
    "With -o json a command prints its result as one JSON value on standard output (records follow: one a line). "
    "Errors are a sentence on standard error all the same; the exit code tells them apart.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.add_typer(token.app, name="token")
app.command("kubeconfig")(kubeconfig.kubeconfig)
app.add_typer(grants.app, name="grants")
app.add_typer(records.app, name="records")
app.add_typer(policy.app, name="policy")
app.add_typer(cluster.app, name="cluster")
app.add_typer(config.app, name="config")
app.add_typer(store.app, name="store")
app.command("status")(grants.status)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """The entry point."""
    app()
