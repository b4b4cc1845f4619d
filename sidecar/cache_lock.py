"""One run at a time asks for a token; those who come meanwhile wait."""

import fcntl
import os
import time


class Lock:
    """An exclusive lock while it is entered; without it after its patience, for a token is worth more than one call."""

    def __init__(self, path: str, patience: float) -> None:
        self._patience = patience
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.utime(self._file)  # what is in use is not swept for its age

    def __enter__(self) -> None:
        until = time.monotonic() + self._patience
        while not self._taken() and time.monotonic() < until:
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True
