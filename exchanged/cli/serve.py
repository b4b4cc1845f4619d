"""`exchanged serve`: the daemon."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, fail

if TYPE_CHECKING:
    from exchanged.app import Started
    from exchanged.config import Configuration

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


class LogFormat(StrEnum):
    """How the daemon's own log looks."""

    TEXT = "text"
    JSON = "json"


def serve(
    config: settings.ConfigFile = Path("exchanged.yaml"),
    log_format: Annotated[LogFormat, typer.Option(help="text for people, json for collectors.")] = LogFormat.TEXT,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; it drains then.

    Example: exchanged serve --config /etc/exchanged/exchanged.yaml --log-format json
    """
    configuration = settings.load(config)
    _set_up_log(log_format, log_level)
    import uvloop

    from exchanged.errors import ExchangeError
    from exchanged.store.sqlite import StoreInUse

    try:
        uvloop.run(_serve(configuration))
    except (StoreInUse, OSError, ValueError) as error:
        fail(_why(config, error), Exit.UNAVAILABLE)
    except ExchangeError as error:
        fail(error.detail, Exit.UNAVAILABLE)
    except ExceptionGroup as group:
        fail(_why(config, *_leaves(group)), Exit.UNAVAILABLE)


def _why(config: Path, *errors: BaseException) -> str:
    """What stopped the daemon; a value that cannot be used is one that the configuration has, or leads to."""
    told = "; ".join(str(error) for error in errors)
    in_files = any(isinstance(error, ValueError) for error in errors)
    return f"{told}; `exchanged config check {config}` may know more" if in_files else told


async def _serve(configuration: "Configuration") -> None:
    from exchanged import app

    stop = asyncio.Event()
    app.stop_on_signals(stop)
    await app.serve(configuration, on_started=_tell, stop=stop, progress=_progress)


def _tell(started: "Started") -> None:
    log = logging.getLogger("exchanged")
    log.info(
        "serving",
        extra={**started.addresses, "policies": started.policies, "faults": len(started.faults)},
    )


def _progress(done: int, total: int) -> None:
    if total > 1_000 and sys.stderr.isatty():  # noqa: PLR2004 - fewer are there before one could read it
        print(f"\rpolicies: {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _set_up_log(log_format: LogFormat, level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        fail(f"no log level is called {level!r}; debug, info, warning, error are", Exit.USAGE)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format is LogFormat.JSON else _Text())
    logging.basicConfig(level=number, handlers=[handler], force=True)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value!s}" for name, value in _fields(record).items())
        text = f"{when} {record.levelname.lower():7} {record.getMessage()}  {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
