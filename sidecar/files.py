"""Files that change all together or not at all, as the kubelet's volumes do.

`DIR/token` and its like are symlinks through `DIR/..data`, which is one to the folder of the current set. A change is a
new folder, synced, and one rename of `..data`. Nothing but DIR has to be writable, and it may be a mount.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sidecar.settings import FileSettings

DATA, NEXT, LOCK = "..data", "..data_next", "..lock"
_SET = re.compile(r"\.\.[0-9a-f]{16}")
"""The names of sets' folders."""
GRACE_SECONDS = 5.0
"""A set that was replaced stays so long: who has just found it shall be able to read it whole."""


class Unwritable(Exception):
    """The files cannot be written; the message says what to do."""


class Files:
    """The files of one token."""

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        self._replaced: dict[str, float] = {}
        self._lock: int | None = None

    @property
    def directory(self) -> Path:
        """Where they are."""
        return self._settings.directory

    def prepare(self) -> Path | None:
        """Makes the folder, and removes what a crash left in it; the folder of the set that is there, or None.

        Raises:
            Unwritable: it cannot be used.
        """
        directory = self._settings.directory
        with _told(directory):
            if not directory.exists():
                directory.mkdir(parents=True)
                with _opened(directory) as folder:
                    self._hand_over_folder(folder)
            self._claim()
            (directory / NEXT).unlink(missing_ok=True)
            current = self._current()
            for each in self._sets():
                if each.name != current:
                    _remove_folder(each)
            probe = _new_name()
            (directory / probe).mkdir()
            (directory / probe).rmdir()
        return directory / current if current else None

    def put(self, files: Mapping[str, bytes], now: float) -> None:
        """These files and no others are there; before, none of them was, or all of the last set.

        Raises:
            Unwritable: nothing has changed.
        """
        directory, name = self._settings.directory, _new_name()
        if not self._is_claimed():
            self.prepare()  # somebody took the folder away, or its lock
        with _told(directory):
            try:
                self._write(name, files)
                shown = [each for each in files if not each.startswith(".")]
                for each in shown:
                    self._link(each)
                before = self._current()
                (directory / NEXT).symlink_to(name)
                (directory / NEXT).replace(directory / DATA)
            except OSError:
                (directory / NEXT).unlink(missing_ok=True)
                _remove_folder(directory / name)
                raise
            if before:
                self._replaced[before] = now
            with contextlib.suppress(OSError):  # it is there for all to see; a crash may undo it as a whole
                _sync(directory)
            self._unlink_others(shown)

    def are_there(self) -> bool:
        """Whether a set of ours is there, and every name leads to its file: others may write to the folder too."""
        directory, current = self._settings.directory, self._current()
        if current is None or not self._is_claimed():
            return False
        with contextlib.suppress(OSError):
            names = [each for each in os.listdir(directory / current) if not each.startswith(".")]  # noqa: PTH208 - names
            return all(os.path.samefile(directory / each, directory / current / each) for each in names)  # noqa: PTH121 - in one go
        return False

    def remove(self) -> None:
        """None of them is there any more, and they went all at once."""
        directory = self._settings.directory
        with _told(directory):
            if not self._is_claimed():
                try:
                    self._claim()
                except (FileNotFoundError, BlockingIOError):
                    return  # the folder is gone, or another sidecar's by now
            (directory / DATA).unlink(missing_ok=True)
            self._unlink_others([])
            for each in self._sets():
                _remove_folder(each)
            self._replaced.clear()
            _sync(directory)

    def tidy(self, now: float) -> None:
        """Removes sets that were replaced a while ago."""
        for name, when in list(self._replaced.items()):
            if now - when >= GRACE_SECONDS:
                with contextlib.suppress(OSError):  # it is tried again
                    _remove_folder(self._settings.directory / name)
                    del self._replaced[name]

    def release(self) -> None:
        """Another sidecar may have the folder; what is in it stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _claim(self) -> None:
        """Two who write here would hand out each other's identity; the kernel forgets the claim with the process."""
        self.release()
        # A file of ours: who may only read here can lock the folder itself.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        number = os.open(self._settings.directory / LOCK, flags, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(number)
            raise
        self._lock = number

    def _is_claimed(self) -> bool:
        """Whether the lock that is there is still the one we have."""
        with contextlib.suppress(OSError):
            if self._lock is not None:
                found = (self._settings.directory / LOCK).stat(follow_symlinks=False)
                return os.path.samestat(os.fstat(self._lock), found)
        return False

    def _sets(self) -> list[Path]:
        """The folders of sets; another's things are not touched."""
        found = self._settings.directory.iterdir()
        return [each for each in found if _SET.fullmatch(each.name) and each.is_dir() and not each.is_symlink()]

    def _current(self) -> str | None:
        """The name of the folder that `..data` leads to, if it is one of ours."""
        try:
            name = os.readlink(self._settings.directory / DATA)  # noqa: PTH115 - the text of it
        except OSError:
            return None
        return name if _SET.fullmatch(name) and (self._settings.directory / name).is_dir() else None

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        """A new folder with these files."""
        (self._settings.directory / name).mkdir(mode=0o700)
        with _opened(self._settings.directory / name) as folder:
            for each, content in files.items():
                # Nobody may read it before it is whole and whose it is to be.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                ours = each.startswith(".")
                with os.fdopen(os.open(each, flags, 0o400 if ours else 0, dir_fd=folder), "wb") as file:
                    file.write(content)
                    file.flush()
                    if not ours:
                        self._hand_over(file.fileno())
                    os.fsync(file.fileno())
            self._hand_over_folder(folder)

    def _hand_over(self, file: int) -> None:
        """Gives what is open to whom it is for; its mode first, for then it is not ours any more."""
        os.fchmod(file, self._settings.mode)
        owner, group = self._settings.owner, self._settings.group
        if owner is not None or group is not None:
            os.fchown(file, -1 if owner is None else owner, -1 if group is None else group)

    def _hand_over_folder(self, folder: int) -> None:
        """A folder stays ours, for we go on writing to it; who may read a file of it may enter it."""
        mode, owner, group = self._settings.mode, self._settings.owner, self._settings.group
        if group is not None:
            os.fchown(folder, -1, group)
        os.fchmod(folder, 0o700 | mode | (mode & 0o044) >> 2 | (0o005 if owner is not None else 0))
        os.fsync(folder)

    def _link(self, name: str) -> None:
        """The name leads through `..data`; it may lead nowhere yet."""
        link, target = self._settings.directory / name, f"{DATA}/{name}"
        if not link.is_symlink() and not link.exists():
            link.symlink_to(target)
        elif not link.is_symlink() or os.readlink(link) != target:  # noqa: PTH115 - the text of it
            raise FileExistsError(errno.EEXIST, f"{name} is there and not ours")

    def _unlink_others(self, shown: list[str]) -> None:
        for each in list(self._settings.directory.iterdir()):
            ours = each.is_symlink() and os.readlink(each) == f"{DATA}/{each.name}"  # noqa: PTH115 - as above
            if ours and each.name not in shown:
                each.unlink()


def _new_name() -> str:
    return f"..{os.urandom(8).hex()}"


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder to work in, whatever its name leads to later: somebody might swap it for a link."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield number
    finally:
        os.close(number)


def _remove_folder(folder: Path) -> None:
    """Removes a folder of files, or what there is of it."""
    with contextlib.suppress(FileNotFoundError):
        with _opened(folder) as number:
            for each in os.listdir(number):  # noqa: PTH208 - by its number
                os.unlink(each, dir_fd=number)
        folder.rmdir()


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


_HINTS = {
    errno.EPERM: "give files away only to a group that the sidecar runs with (fsGroup, supplementalGroups), or as root",
    errno.EACCES: "the sidecar's user has to be able to write there",
    errno.EROFS: "mount it for the sidecar without readOnly",
    errno.EWOULDBLOCK: "another sidecar writes there; give each a folder of its own",
    errno.EEXIST: "give the token a folder of its own",
    errno.ENOSPC: "there is no room left",
    errno.ENOTDIR: "that is no folder",
}


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise Unwritable(f"{directory}: {error.strerror}{'; ' + hint if hint else ''}") from error
