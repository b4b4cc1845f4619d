"""What the daemon's state folder says to the commands that look after clusters; read beside a daemon that runs."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from exchanged.config import Configuration
from exchanged.keys.signing import KeyRing
from exchanged.store.sqlite import FILE

_NEVER: Final = timedelta(days=36_500)
"""A ring that is only to sign makes, retires and deletes nothing: that is the daemon's own to do."""


def instance(state: Path) -> str:
    """The id of the store in this folder: objects at clusters carry it, and the fence goes by it.

    Raises:
        ValueError: there is no store yet, or it cannot be read.
    """
    path = state / FILE
    if not path.exists():
        raise ValueError(f"{path} is not there; start the daemon once: it makes the id that the fence goes by")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            (found,) = db.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return str(found)


def signing_keys(configuration: Configuration, clock: Callable[[], datetime]) -> KeyRing:
    """The keys with which the daemon signs now.

    Raises:
        ValueError: there are none yet.
        OSError: they cannot be read.
    """
    folder = configuration.state / "keys"
    if not any(folder.glob("*.pem")):
        raise ValueError(f"{folder} has no signing keys; start the daemon once")
    ring = KeyRing(
        folder=folder,
        rotate_after=_NEVER,
        publish_ahead=configuration.signing_keys.publish_ahead,
        longest_grant=_NEVER,
        clock=clock,
    )
    ring.load()
    return ring
