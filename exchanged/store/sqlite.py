"""The embedded store: one SQLite file in WAL mode, durable when a call returns."""

import asyncio
import fcntl
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO

from exchanged.errors import LogUnavailable, Reason, StoreUnavailable
from exchanged.log.record import Record, StoredRecord
from exchanged.model import ClusterName, Grant, GrantId, GrantState, IssuedToken, IssuerName, TokenDigest
from exchanged.ports import GrantQuery, Intent, StoreCounts
from exchanged.store import changes, codec
from exchanged.store.codec import GRANT_COLUMNS, RECORD_COLUMNS, micros
from exchanged.store.group import GroupCommit
from exchanged.store.schema import MIGRATIONS

LONGEST_LIST = 1_000
"""Rows of one answer."""
FILE = "exchanged.sqlite"
CACHE_KIB = 16 * 1024
"""Pages kept in memory: the live ends of the indexes, with room."""
CHECKPOINT_PAGES = 8_000
"""Pages (of 4 KiB) that the write-ahead log gathers before it is worked into the file: a page that many exchanges touch
is then written once for all of them."""

_UNFINISHED = (
    "WITH RECURSIVE named (cluster) AS (SELECT min(cluster) FROM grants UNION ALL "
    "SELECT (SELECT min(cluster) FROM grants WHERE cluster > named.cluster) FROM named WHERE cluster IS NOT NULL) "
    "SELECT cluster, (SELECT count(*) FROM grants WHERE grants.cluster = named.cluster AND due_at >= 0) "
    "FROM named WHERE cluster IS NOT NULL"
)
"""From one cluster's name to the next by the index: the many that are withdrawn are not looked at."""


class StoreInUse(Exception):
    """Another daemon has this store open."""


class SqliteStore:
    """Implements `Store`. Made by `open`."""

    def __init__(
        self,
        *,
        path: Path,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        lock: TextIO,
        instance: str,
        epoch: int,
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._lock = lock
        self._instance = instance
        self._epoch = epoch
        self._group = GroupCommit(writer)
        self._closed = False

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The store in this folder, made if it is not there.

        Raises:
            StoreInUse: another daemon has it open.
            StoreUnavailable: the file cannot be read, or is of a newer version.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(folder / "exchanged.lock")
        path = folder / FILE
        try:
            path.touch(mode=0o600, exist_ok=True)
            writer = _connect(path)
            _migrate(writer)
            meta = _prepare(writer)
            reader = _connect(path)
            reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            lock.close()
            raise StoreUnavailable(Reason.STORE_UNAVAILABLE, f"{path} cannot be used: {error}") from error
        return cls(
            path=path,
            writer=writer,
            reader=reader,
            lock=lock,
            instance=meta["instance"],
            epoch=int(meta.get("epoch", "-1")),
        )

    @property
    def instance(self) -> str:
        """This store's own id."""
        return self._instance

    @property
    def epoch(self) -> datetime | None:
        """See `Store.epoch`."""
        return codec.moment(self._epoch) if self._epoch >= 0 else None

    @property
    def failing(self) -> str | None:
        """Why the last write failed, if none has succeeded since; else None."""
        return self._group.failing

    def begin(self, intent: Intent) -> asyncio.Future[Grant | None]:
        """See `Store.begin`."""
        new = changes.beginning(intent)
        return self._group.run(lambda db: changes.begin(db, new, self._epoch))

    async def complete(self, grant_id: GrantId, token: IssuedToken, record: Record) -> bool:
        """See `Store.complete`."""
        return await self._group.run(lambda db: changes.complete(db, grant_id, token, record))

    async def end(
        self, grant_id: GrantId, state: GrantState, why: str, record: Record, *, give_back: bool = False
    ) -> Grant | None:
        """See `Store.end`."""
        return await self._group.run(lambda db: changes.end(db, grant_id, state, why, record, give_back=give_back))

    async def withdrawn(self, grant_id: GrantId, record: Record) -> bool:
        """See `Store.withdrawn`."""
        return await self._group.run(lambda db: changes.withdrawn(db, grant_id, record))

    async def revoke_subject(self, issuer: IssuerName, subject: str, at: datetime, record: Record) -> None:
        """See `Store.revoke_subject`."""
        await self._group.run(lambda db: changes.revoke_subject(db, issuer, subject, at, record))

    async def new_epoch(self, at: datetime, record: Record) -> int:
        """See `Store.new_epoch`."""
        ended = await self._group.run(lambda db: changes.new_epoch(db, at, record))
        self._epoch = micros(at)
        return ended

    async def append(self, record: Record) -> None:
        """See `Store.append`."""
        try:
            await self._group.run(lambda db: changes.append(db, record))
        except StoreUnavailable as error:
            raise LogUnavailable(Reason.LOG_UNAVAILABLE, error.detail) from error

    async def grant(self, grant_id: GrantId) -> Grant | None:
        """See `Store.grant`."""
        return self._one_grant("id = ?", grant_id)

    async def grant_by_token(self, digest: TokenDigest) -> Grant | None:
        """See `Store.grant_by_token`."""
        return self._one_grant("substr(token_digest, 1, 6) = substr(?1, 1, 6) AND token_digest = ?1", digest)

    async def grants(self, query: GrantQuery) -> Sequence[Grant]:
        """See `Store.grants`."""
        conditions, values = _where(query)
        rows = await self._in_thread(
            f"SELECT {GRANT_COLUMNS} FROM grants WHERE {conditions} ORDER BY number DESC LIMIT ?",  # noqa: S608
            (*values, min(query.limit, LONGEST_LIST)),
        )
        return [codec.grant(row) for row in rows]

    async def due(self, now: datetime, limit: int, *, cluster: ClusterName) -> Sequence[Grant]:
        """See `Store.due`."""
        query = f"SELECT {GRANT_COLUMNS} FROM grants WHERE cluster = ? AND due_at <= ? ORDER BY due_at LIMIT ?"  # noqa: S608
        with self._reading() as db:
            rows = db.execute(query, (cluster, micros(now), limit)).fetchall()
        return [codec.grant(row) for row in rows]

    async def unfinished(self) -> Mapping[ClusterName, int]:
        """See `Store.unfinished`."""
        with self._reading() as db:
            rows = db.execute(_UNFINISHED).fetchall()
        return {ClusterName(cluster): count for cluster, count in rows if count}

    async def records(self, *, after: int, limit: int, grant_id: GrantId | None = None) -> Sequence[StoredRecord]:
        """See `Store.records`."""
        restriction, values = ("", ()) if grant_id is None else ("AND grant_id = ?", (grant_id,))
        rows = await self._in_thread(
            f"SELECT {RECORD_COLUMNS} FROM records WHERE sequence > ? {restriction} "  # noqa: S608 - constants
            "ORDER BY sequence LIMIT ?",
            (after, *values, min(limit, LONGEST_LIST)),
        )
        return [codec.stored_record(row) for row in rows]

    async def last_sequence(self) -> int:
        """See `Store.last_sequence`."""
        with self._reading() as db:
            (last,) = db.execute("SELECT coalesce(max(sequence), 0) FROM records").fetchone()
        return int(last)

    async def counts(self) -> StoreCounts:
        """See `Store.counts`."""
        with self._reading() as db:
            counted = dict(db.execute("SELECT subject, grants FROM live WHERE issuer = ''"))
        return StoreCounts(live=counted[""], backlog=counted["backlog"])

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed:
            return
        self._closed = True
        await self._group.close()
        self._reader.close()
        self._writer.close()
        self._lock.close()

    def _one_grant(self, condition: str, value: object) -> Grant | None:
        with self._reading() as db:
            row = db.execute(f"SELECT {GRANT_COLUMNS} FROM grants WHERE {condition}", (value,)).fetchone()  # noqa: S608
        return codec.grant(row) if row is not None else None

    async def _in_thread(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """For what may take long: on a connection of its own, so that no point read waits for it."""

        def read() -> list[Any]:
            with self._reading(), closing(_connect(self._path)) as db:
                return db.execute(query, values).fetchall()

        return await asyncio.to_thread(read)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The reader sees what is durable: a transaction under way is the writer's own."""
        if self._closed:
            raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "the store is closed")
        try:
            yield self._reader
        except sqlite3.Error as error:
            raise StoreUnavailable(Reason.STORE_UNAVAILABLE, f"the store cannot be read: {error}") from error


def _lock(path: Path) -> TextIO:
    lock = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - held until the store is closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StoreInUse(
            f"another daemon uses {path.parent}; stop it, or give this one a state folder of its own"
        ) from error
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    return connection


def _migrate(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise sqlite3.DatabaseError(f"it is of version {version}; this daemon knows {len(MIGRATIONS)}")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def _prepare(db: sqlite3.Connection) -> dict[str, str]:
    db.execute("INSERT OR IGNORE INTO meta VALUES ('instance', ?)", (secrets.token_hex(6),))
    db.execute("DELETE FROM live WHERE grants = 0 AND issuer <> ''")
    # Nobody else has this store open, so whoever intended these is no more.
    db.execute("UPDATE grants SET due_at = 0 WHERE state = 'intended'")
    return dict(db.execute("SELECT name, value FROM meta"))


def _where(query: GrantQuery) -> tuple[str, tuple[object, ...]]:
    parts: list[tuple[str, object]] = [
        (f"{column} = ?", value)
        for column, value in (
            ("cluster", query.cluster),
            ("policy", query.policy),
            ("issuer", query.issuer),
            ("subject", query.subject),
            ("state", query.state.value if query.state else None),
        )
        if value is not None
    ]
    if query.before is not None:
        parts.append(("number < (SELECT number FROM grants WHERE id = ?)", query.before))
    conditions = [condition for condition, _ in parts]
    if query.live_only:
        # All of these are due some day, and an index finds them among the many that are withdrawn.
        conditions.append("state IN ('intended', 'issued') AND due_at >= 0")
    return " AND ".join(conditions) or "1", tuple(value for _, value in parts)
