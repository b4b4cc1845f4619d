"""The folder of policy files, loaded by file and kept up to date.

A bad file keeps its own last good content and says so; the others apply. No exchange waits: files are read and compiled
in a thread, and what they hold is put in force in small steps between exchanges.
"""

import asyncio
import itertools
import logging
import os
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import watchfiles

from exchanged.errors import ExchangeError
from exchanged.policy.compiled import CompiledPolicy, Compiler
from exchanged.policy.index import PolicySet
from exchanged.policy.load import load_text
from exchanged.strict_yaml import MAX_CHARACTERS, Fault, Faulty

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".yaml", ".yml"})
BATCH = 64
"""Files read by one step of the thread."""
STEP_SECONDS = 0.003
"""How long putting policies in force may hold up the loop before it lets exchanges by."""
DEBOUNCE_MS = 100
"""How long changes are gathered: editors and git write in several steps."""
RESCAN = timedelta(seconds=60)
"""How often the folder is compared as a whole, should the kernel have dropped a notice."""
RETRIED_FILES = 100
"""Faulty files that are read again with each change: what they clashed with may be gone."""

Signature = tuple[int, int, int]
UNREADABLE: Signature = (0, 0, 0)


@dataclass(slots=True)
class _File:
    """What a file holds: its state when read, and the policies in force from it."""

    signature: Signature
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One load: what changed, what is in force now, and what is wrong."""

    time: datetime
    digest: str
    policies: int
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    faults: tuple[Fault, ...]
    seconds: float


@dataclass(slots=True)
class _Load:
    """A load under way.

    Attributes:
        let_go: policies that a file does not have any more; another may have them now.
        clashed: files that have a policy which is another file's, to be tried again when that lets go of it.
        progress: something was let go of since those were last tried.
    """

    changed: dict[str, None] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    let_go: set[str] = field(default_factory=set)
    clashed: dict[Path, Signature] = field(default_factory=dict)
    progress: bool = False
    started: float = field(default_factory=time.perf_counter)


class PolicyFolder:
    """Policies from a folder."""

    def __init__(
        self,
        *,
        path: Path,
        compiler: Compiler,
        clock: Callable[[], datetime],
        on_load: Callable[[LoadReport], Awaitable[None]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._path = path
        self._compiler = compiler
        self._clock = clock
        self._on_load = on_load
        self._progress = progress
        self._policies = PolicySet(compiler.conditions)
        self._files: dict[Path, _File] = {}
        self._faulty: dict[Path, tuple[Fault, ...]] = {}
        self._file_of: dict[str, Path] = {}
        self._to_tell: deque[LoadReport] = deque()
        self._told = False

    @property
    def current(self) -> PolicySet:
        """The policies in force."""
        return self._policies

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is wrong with the files now."""
        return tuple(fault for faults in self._faulty.values() for fault in faults)

    @property
    def faulty_files(self) -> int:
        """How many files have faults."""
        return len(self._faulty)

    async def load(self) -> LoadReport:
        """Brings everything in line with the folder.

        Raises:
            OSError: the folder cannot be read.
        """
        scanned = await asyncio.to_thread(self._scan)
        return await self._apply(scanned, whole=True)

    async def run(self) -> None:
        """Follows the folder until cancelled."""
        async for paths in self._changes():
            try:
                if paths is None:
                    scanned, whole = await asyncio.to_thread(self._scan), True
                else:
                    scanned, whole = await asyncio.to_thread(_signatures, paths), False
                await self._apply(scanned, whole=whole)
            except OSError:
                log.exception("policies cannot be read; those in force stay")
            except ExchangeError as error:
                log.warning("a load of policies cannot be recorded yet", extra={"detail": error.detail})

    async def _changes(self) -> AsyncIterator[set[Path] | None]:
        """The files that changed, or None where everything has to be looked at."""
        watching = watchfiles.awatch(
            self._path,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=DEBOUNCE_MS // 2,
            rust_timeout=int(RESCAN.total_seconds() * 1000),
            yield_on_timeout=True,
        )
        async for changes in watching:
            paths = {Path(path) for _, path in changes}
            # A mounted ConfigMap swaps one link, under another name than the files have.
            yield paths if paths and all(self._is_policy_file(path) for path in paths) else None

    def _is_policy_file(self, path: Path) -> bool:
        """By its name; what a hidden folder holds (git's own, a ConfigMap's other version) is nobody's policy."""
        hidden = any(part.startswith(".") for part in path.relative_to(self._path).parts)
        return path.suffix in SUFFIXES and not hidden

    def _scan(self) -> dict[Path, Signature | None]:
        if not self._path.is_dir():
            raise NotADirectoryError(f"{self._path} is not a folder of policies")
        return _signatures(policy_files(self._path))

    async def _apply(self, scanned: dict[Path, Signature | None], *, whole: bool) -> LoadReport:
        load = _Load()
        # In the thread: to look at 100,000 files takes longer than an exchange may wait.
        gone, changed = await asyncio.to_thread(self._compared, scanned, whole=whole)
        for path in gone:
            self._forget(path, load)
        if changed or load.removed:
            again = (path for path in self._faulty if path not in changed)
            for path in tuple(itertools.islice(again, RETRIED_FILES)):
                changed[path] = self._files[path].signature
        await self._read(changed, load)
        while load.clashed and load.progress:
            clashed, load.clashed, load.progress = load.clashed, {}, False
            await self._read(clashed, load)
        await self._settle(load)
        report = self._report(load)
        if load.changed or load.removed or not self._told:
            self._to_tell.append(report)
        # Each is on record, be it later: what could not be told stays to be told.
        while self._to_tell:
            await self._on_load(self._to_tell[0])
            self._to_tell.popleft()
            self._told = True
        return report

    def _compared(
        self, scanned: dict[Path, Signature | None], *, whole: bool
    ) -> tuple[list[Path], dict[Path, Signature]]:
        """The files that are gone, and those that are new or others than they were."""
        gone = [path for path, signature in scanned.items() if signature is None]
        if whole:
            gone += self._files.keys() - scanned.keys()
        changed = {
            path: signature
            for path, signature in scanned.items()
            if signature is not None and (path not in self._files or self._files[path].signature != signature)
        }
        return gone, changed

    async def _read(self, changed: dict[Path, Signature], load: _Load) -> None:
        paths = list(changed)
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            contents = await asyncio.to_thread(self._load_files, batch)
            let_by = time.perf_counter() + STEP_SECONDS
            for path, content in zip(batch, contents, strict=True):
                self._put(path, changed[path], content, load)
                if time.perf_counter() > let_by:
                    await asyncio.sleep(0)
                    let_by = time.perf_counter() + STEP_SECONDS
            if self._progress is not None:
                self._progress(start + len(batch), len(paths))

    def _load_files(self, paths: list[Path]) -> list[list[CompiledPolicy] | Faulty]:
        return [self._load_file(path) for path in paths]

    def _load_file(self, path: Path) -> list[CompiledPolicy] | Faulty:
        name = str(path.relative_to(self._path))
        try:
            with path.open(encoding="utf-8") as file:
                return load_text(file.read(MAX_CHARACTERS + 1), name, self._compiler)
        except Faulty as faulty:
            return faulty
        except (OSError, UnicodeError) as error:
            return Faulty(Fault(file=name, line=1, where="", what=f"cannot be read: {error}"))

    def _put(self, path: Path, signature: Signature, content: list[CompiledPolicy] | Faulty, load: _Load) -> None:
        file = self._files.setdefault(path, _File(signature))
        file.signature = signature
        if not isinstance(content, Faulty):
            names = {policy.name for policy in content}
            self._let_go(path, set(file.policies) - names, load)
            content = self._unless_taken(path, content)
            if isinstance(content, Faulty):
                load.clashed[path] = signature
        if isinstance(content, Faulty):
            if content.faults != self._faulty.get(path):
                load.changed[str(path.relative_to(self._path))] = None
            self._faulty[path] = content.faults
            return
        for policy in content:
            self._policies.put(policy)
            self._file_of[policy.name] = path
        file.policies = tuple(names)
        self._faulty.pop(path, None)
        load.changed[str(path.relative_to(self._path))] = None

    def _let_go(self, path: Path, names: Iterable[str], load: _Load) -> None:
        """Other files may have these now. They stay in force until the load is through: they may only be moving."""
        for name in names:
            if self._file_of.get(name) == path:
                del self._file_of[name]
                load.let_go.add(name)
                load.progress = True

    async def _settle(self, load: _Load) -> None:
        """What a file at fault let go of and nobody took is its own still; what else nobody took is not in force."""
        for path in load.clashed:
            for name in self._files[path].policies:
                self._file_of.setdefault(name, path)
        let_by = time.perf_counter() + STEP_SECONDS
        for name in load.let_go - self._file_of.keys():
            self._policies.remove(name)
            if time.perf_counter() > let_by:
                await asyncio.sleep(0)
                let_by = time.perf_counter() + STEP_SECONDS

    def _unless_taken(self, path: Path, policies: list[CompiledPolicy]) -> list[CompiledPolicy] | Faulty:
        name = str(path.relative_to(self._path))
        faults = [
            Fault(
                file=name,
                line=1,
                where="metadata.name",
                what=f"policy {policy.name!r} is already in {self._file_of[policy.name].relative_to(self._path)}",
            )
            for policy in policies
            if self._file_of.get(policy.name, path) != path
        ]
        return Faulty(*faults) if faults else policies

    def _forget(self, path: Path, load: _Load) -> None:
        file = self._files.pop(path, None)
        self._faulty.pop(path, None)
        if file is None:
            return
        self._let_go(path, file.policies, load)
        load.removed.append(str(path.relative_to(self._path)))

    def _report(self, load: _Load) -> LoadReport:
        return LoadReport(
            time=self._clock(),
            digest=self._policies.digest,
            policies=len(self._policies),
            changed=tuple(load.changed),
            removed=tuple(load.removed),
            faults=self.faults,
            seconds=time.perf_counter() - load.started,
        )


def policy_files(folder: Path) -> Iterator[Path]:
    """Every policy file under a folder, in the order of names; hidden folders are not looked into."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix in SUFFIXES:
                yield Path(root, name)


def _signatures(paths: Iterable[Path]) -> dict[Path, Signature | None]:
    """What tells a changed file from an unchanged one; None for one that is gone, or is no file.

    Times of modification can be put back, those of change cannot.
    """
    signatures: dict[Path, Signature | None] = {}
    for path in paths:
        try:
            status = path.stat()
            signature = (status.st_ctime_ns, status.st_size, status.st_ino)
            # Reading from a pipe would wait for ever.
            signatures[path] = signature if stat.S_ISREG(status.st_mode) else None
        except FileNotFoundError:
            signatures[path] = None
        except OSError:  # reading it says why
            signatures[path] = UNREADABLE
    return signatures
