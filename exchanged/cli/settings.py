"""Reading the configuration for a command, with faults told as they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchanged.cli.output import Exit, fail

if TYPE_CHECKING:
    from exchanged.config import Configuration

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="EXCHANGED_CONFIG", help="The daemon's configuration file.")
]


def load(path: Path) -> "Configuration":
    """The configuration, or the end of the command with every fault of it."""
    from exchanged import config_file
    from exchanged.strict_yaml import Faulty

    try:
        return config_file.load(path)
    except Faulty as faulty:
        fail(f"{path} cannot be used:\n{faulty}", Exit.REFUSED)
    except (OSError, UnicodeError) as error:
        fail(f"{path} cannot be read: {error}", Exit.USAGE)
