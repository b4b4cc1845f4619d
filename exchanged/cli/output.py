"""How commands speak: tables for people, JSON for programs, one clear sentence when something is wrong."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer


class Format(StrEnum):
    """How results are shown."""

    TABLE = "table"
    JSON = "json"


class Exit:
    """Exit codes, the same for all commands."""

    REFUSED = 1
    USAGE = 2
    UNAVAILABLE = 3


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]
JsonOutput = Annotated[Format, typer.Option("--output", "-o", help="It is JSON either way.")]


def show_json(value: Any) -> None:
    """Prints JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Prints a table, or a sentence where there is nothing to show."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = [[Text(clean(cell)) for cell in row] for row in rows]
    if not listed:
        print(empty, file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in listed:
        table.add_row(*row)
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if told else WIDE).print(table)


WIDE = 200
"""Characters of a line where neither a terminal nor COLUMNS says otherwise."""


def show_fields(fields: Mapping[str, Any]) -> None:
    """Prints names and values; what is nested as JSON."""
    show_table(("field", "value"), ((name, shown(value)) for name, value in fields.items()), empty="nothing")


def shown(value: object) -> str:
    """A JSON value for people: text as it is, nothing as nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_faults(faults: Iterable[object], kind: str = "fault") -> None:
    """Prints a line for each."""
    for fault in faults:
        print(f"{kind:8} {clean(fault)}")


def clean(value: object) -> str:
    """Text without what a terminal would act on: it may come from a stranger."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(value))


def warn(message: str) -> None:
    """A sentence on standard error; the command goes on."""
    print(f"exchanged: warning: {clean(message)}", file=sys.stderr)


def fail(message: str, code: int = Exit.REFUSED) -> NoReturn:
    """Ends the command with a sentence on standard error."""
    print(f"exchanged: {message}", file=sys.stderr)
    raise typer.Exit(code)
