"""Tokens that outlive the command that fetched them: a file each, readable by its owner alone.

kubectl waits for a hit each time it starts, so nothing is imported here that a hit can do without.
"""

# Importing pathlib takes as long as all the rest of a hit.
# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH111, PTH116, PTH123

import json
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sidecar.cache_lock import Lock

try:
    from _blake2 import blake2b  # hashlib has it from there, and loads OpenSSL: half of what a hit takes
except ImportError:
    from hashlib import blake2b

VERSION = 1
MARGIN, MARGIN_SHARE = 30.0, 0.1
"""A token is reported to end so many seconds early, or this share of its life: what is under way shall arrive."""
REFRESH_SHARE = 0.2
"""With less than this share of its life left it is replaced; the daemon may be away for that long unnoticed."""
CLOCK_STEP = 2.0
"""Seconds that an entry may come from the future; with more, the clock was set back and its times mean nothing."""
LARGEST = 1 << 20
FORGOTTEN = 86_400.0
"""Seconds after which what nobody wrote anew is removed: no grant lives so long."""
_PREFIX, _SEEN = "exec-", ".seen"
_FIELDS = {
    "token": str,
    "fetched_at": float,
    "expires_at": float,
    "boot": str,
    "boot_seconds": float,
    "checked_at": float,
    "again_at": float,
    "proof": str,
    "proof_digest": str,
}


class Entry:
    """A token, by the clock of this machine.

    Attributes:
        fetched_at: when it was asked for; POSIX seconds, as all times here.
        expires_at: when its grant ends.
        boot: which run of this machine fetched it, and `boot_seconds` how long that ran by then.
        checked_at: when the daemon last said that it lives.
        again_at: not before then is the daemon asked again, after it was out of reach.
        proof: the file with the subject token that it came for, or ""; `proof_digest` what was shown of it.
    """

    __slots__ = tuple(_FIELDS)

    token: str
    fetched_at: float
    expires_at: float
    boot: str
    boot_seconds: float
    checked_at: float
    again_at: float
    proof: str
    proof_digest: str

    @classmethod
    def of(cls, token: str, fetched_at: float, seconds: float, proof: str = "", shown: str = "") -> "Entry":
        """A token that was asked for at that time, lives so many seconds, and came for what that file held."""
        entry = cls()
        entry.token = token
        entry.fetched_at = fetched_at
        entry.expires_at = fetched_at + seconds
        entry.boot, entry.boot_seconds = _boot()
        entry.checked_at, entry.again_at = fetched_at, 0.0
        entry.proof = os.path.abspath(proof) if proof else ""
        entry.proof_digest = _digest(shown.encode()) if proof else ""
        return entry

    def rest(self, now: float) -> float:
        """Seconds that it still lives; 0 too where the clock was set back, and nobody can tell."""
        rest = self.expires_at - now if self.fetched_at <= now + CLOCK_STEP else 0.0
        boot, seconds = _boot()
        if boot and boot == self.boot:
            rest = min(rest, self.expires_at - self.fetched_at - (seconds - self.boot_seconds))
        return max(0.0, rest)

    def fresh(self, now: float) -> bool:
        """Whether it is handed out without a word with the daemon."""
        rest = self.rest(now)
        waiting = now < self.again_at <= now + FORGOTTEN
        return rest > REFRESH_SHARE * (self.expires_at - self.fetched_at) or (rest > 0 and waiting)

    def reported(self, now: float) -> float:
        """When its user is told that it ends: early, and not in the past."""
        life = self.expires_at - self.fetched_at
        return max(now + self.rest(now) - min(MARGIN, MARGIN_SHARE * life), now + 1.0)


class Cache:
    """The entry of one user, ask and cluster; `key` is whatever tells it from others."""

    def __init__(self, *key: str) -> None:
        self._key = _digest(json.dumps([VERSION, *key]).encode())
        self.folder = _folder()
        self.path = f"{self.folder}/{_PREFIX}{self._key}"

    def read(self) -> Entry | None:
        """What there is, if nobody else could have written or read it, and it is for the proof that is there now."""
        try:
            _own(self.folder)
            with open(_opened(self.path), "rb") as file:
                told = json.loads(file.read(LARGEST))
        except (OSError, ValueError, RecursionError):
            return None
        # A file can be renamed by who cannot write it: its name alone does not say whose token it is.
        if not isinstance(told, dict) or told.get("key") != self._key:
            return None
        if any(not isinstance(told.get(name), kind) for name, kind in _FIELDS.items()):
            return None
        entry = Entry()
        for name in _FIELDS:
            setattr(entry, name, told[name])
        possible = 0 < entry.expires_at - entry.fetched_at <= FORGOTTEN
        return entry if possible and entry.proof_digest == digest_of(entry.proof) else None

    def write(self, entry: Entry) -> None:
        """All of it, or nothing.

        Raises:
            OSError: the folder is somebody else's, or cannot be written.
        """
        self._make_folder()
        part = f"{self.path}.{os.getpid()}"
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="utf-8") as written:
            json.dump({"key": self._key} | {name: getattr(entry, name) for name in _FIELDS}, written)
            written.flush()
            os.fsync(file)
        os.replace(part, self.path)
        if entry.checked_at == entry.fetched_at:
            _unlink(self.path + _SEEN)  # nobody has a new token yet
        self._sweep()

    def remove(self) -> None:
        """Nothing is there afterwards."""
        _unlink(self.path)
        _unlink(self.path + _SEEN)

    def had(self, asker: str, entry: Entry) -> bool:
        """Whether this process was given this token before; from now on it was."""
        line = f"{entry.fetched_at} {asker}\n".encode()
        try:
            file = os.open(
                self.path + _SEEN, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with open(file, "r+b", buffering=0) as seen:
                if line in seen.readlines():
                    return True
                seen.write(line)
        except OSError:
            return False
        return False

    def locked(self, patience: float) -> "Lock":
        """Others that want the same wait, up to so many seconds, and find what this one leaves.

        Raises:
            OSError: the folder is somebody else's, or cannot be written.
        """
        from sidecar.cache_lock import Lock  # noqa: PLC0415 - not for a hit

        self._make_folder()
        return Lock(f"{self.path}.lock", patience)

    def _make_folder(self) -> None:
        if self.folder.startswith("/"):
            os.makedirs(self.folder, 0o700, exist_ok=True)
        _own(self.folder)

    def _sweep(self) -> None:
        before = time.time() - FORGOTTEN
        with os.scandir(self.folder) as files:
            for file in files:
                try:
                    if file.name.startswith(_PREFIX) and file.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(file.path)
                except FileNotFoundError:
                    continue  # another run's, which moved or swept it


def digest_of(path: str) -> str:
    """What a file holds now, in short; "" for none. Another subject's token is another's proof."""
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            return _digest(file.read(LARGEST).strip())
    except OSError:
        return "unreadable"


def _digest(raw: bytes) -> str:
    return blake2b(raw, digest_size=32).hexdigest()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _folder() -> str:
    """Where entries are; not an absolute path where the user has no home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return f"{named if named.startswith('/') else os.path.expanduser('~/.cache')}/exchanged"


def _own(folder: str) -> None:
    """Nobody but its user puts anything there, or OSError."""
    if not folder.startswith("/"):
        raise FileNotFoundError("this user has no home; set XDG_CACHE_HOME")
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")


def _opened(path: str) -> int:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return file
    os.close(file)
    raise PermissionError(path)


def _boot() -> tuple[str, float]:
    """Which run of this machine this is, and its age, which nobody can set; "" where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return "", 0.0
