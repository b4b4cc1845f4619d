"""The command line: `exchanged`. One file a command group; heavy modules are imported where they are needed."""

from exchanged.cli.main import main

__all__ = ["main"]
