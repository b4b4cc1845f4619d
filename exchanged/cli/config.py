"""`exchanged config`: is the configuration one that works?"""

from pathlib import Path
from typing import Annotated

import typer

from exchanged.cli.output import Exit, Format, JsonOutput, Output, fail, show_faults, show_json

app = typer.Typer(help="The daemon's configuration.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(envvar="EXCHANGED_CONFIG", help="The configuration file.")] = Path(
        "exchanged.yaml"
    ),
    output: Output = Format.TABLE,
) -> None:
    """Find every fault at once: in the file, in what its keys say together, and in the files that it names.

    Exit code 1 if there are faults. What is at a cluster is looked at by `exchanged cluster check`.
    """
    from exchanged.cli.config_check import check as check_configuration

    try:
        report = check_configuration(file)
    except (OSError, UnicodeError) as error:
        fail(f"{file} cannot be read: {error}", Exit.USAGE)
    if output is Format.JSON:
        show_json(report.as_json())
    else:
        show_faults(report.faults)
        made = report.configuration
        held = f"{len(made.issuers)} issuers, {len(made.clusters)} clusters; no faults" if made else ""
        print(f"{file}: {held or f'{len(report.faults)} faults'}")
    if report.faults:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def schema(output: JsonOutput = Format.JSON) -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from exchanged.config import Configuration
    from exchanged.json_schema import schema_of

    del output
    show_json(schema_of(Configuration))
