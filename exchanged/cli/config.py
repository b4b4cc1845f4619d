"""`exchanged config`: is the configuration one that works?"""

from pathlib import Path
from typing import Annotated

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, Format, Output, fail, show_json

app = typer.Typer(help="The daemon's configuration.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")] = Path("exchanged.yaml"),
    output: Output = Format.TABLE,
) -> None:
    """Find every fault at once: in the file, and in the files that it names."""
    configuration = settings.load(file)
    missing = [path for path in _named(configuration) if not path.exists()]
    if output is Format.JSON:
        show_json({"missing": [str(path) for path in missing]})
    if missing:
        fail("\n".join([f"{file} names what is not there:", *map(str, missing)]), Exit.REFUSED)
    if output is Format.TABLE:
        print(f"{file}: {len(configuration.issuers)} issuers, {len(configuration.clusters)} clusters; no faults")


@app.command()
def schema() -> None:
    """Print the JSON Schema, for editors."""
    from exchanged.config import Configuration

    show_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Configuration.model_json_schema()})


def _named(value: object) -> list[Path]:
    """The files and folders that a configuration names, but for those that the daemon makes."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        made_by_us = {"state", "admin_socket"}
        return [path for name, item in value if name not in made_by_us for path in _named(item)]
    if isinstance(value, dict):
        return [path for item in value.values() for path in _named(item)]
    return [value] if isinstance(value, Path) else []
