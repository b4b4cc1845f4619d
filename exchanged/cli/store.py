"""`exchanged store`: what has to be done to the store by hand."""

import asyncio
from pathlib import Path

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, Format, Output, fail, show_json

app = typer.Typer(help="The store, with the daemon stopped.", no_args_is_help=True)


@app.command("new-epoch")
def new_epoch(config: settings.ConfigFile = Path("exchanged.yaml"), output: Output = Format.TABLE) -> None:
    """After a backup was put back: end its live grants, and refuse every subject token issued until now."""
    from exchanged.errors import ExchangeError
    from exchanged.store.sqlite import StoreInUse

    configuration = settings.load(config)
    if not configuration.state.is_dir():
        fail(f"{configuration.state} is not there; put the backup back first", Exit.USAGE)
    try:
        ended = asyncio.run(_new_epoch(configuration.state))
    except StoreInUse as error:
        fail(str(error), Exit.UNAVAILABLE)
    except ExchangeError as error:
        fail(error.detail, Exit.UNAVAILABLE)
    if output is Format.JSON:
        show_json({"ended": ended})
    else:
        told = "subject tokens issued until now are refused. Start the daemon: it withdraws them."
        print(f"{ended} live grants ended; {told}")


async def _new_epoch(state: Path) -> int:
    from exchanged.app import now
    from exchanged.log.record import Record, RecordKind
    from exchanged.store.sqlite import SqliteStore

    store = SqliteStore.open(state)
    try:
        at = now()
        return await store.new_epoch(at, Record(kind=RecordKind.EPOCH, time=at, body={"by": "operator"}))
    finally:
        await store.close()
