import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from exchanged.errors import LogUnavailable, StoreUnavailable, SubjectTokenRejected
from exchanged.log.record import Record, RecordKind
from exchanged.model import GrantState
from exchanged.store import changes
from exchanged.store.sqlite import FILE, SqliteStore, StoreInUse
from tests.grants import NOW, PROD, identity, intent

RECORD = Record(kind=RecordKind.STARTED, time=NOW, body={"text": "x" * 500})

UNDER_LOAD = """
import asyncio, sys
from pathlib import Path
from exchanged.store.sqlite import SqliteStore
from tests.grants import identity, intent

async def work(store):
    while True:
        made = intent(identity(job=None, job_uses=0))
        await store.begin(made)
        print(made.grant.id, flush=True)

async def main():
    store = SqliteStore.open(Path(sys.argv[1]))
    await asyncio.gather(*(work(store) for _ in range(16)))

asyncio.run(main())
"""


async def test_one_daemon_a_folder(tmp_path: Path) -> None:
    """A folder that is in use is refused with a sentence that says so, and free again after closing."""
    store = SqliteStore.open(tmp_path)
    with pytest.raises(StoreInUse, match="another daemon uses"):
        SqliteStore.open(tmp_path)
    instance = store.instance
    await store.close()
    await store.close()
    again = SqliteStore.open(tmp_path)
    assert again.instance == instance
    await again.close()


async def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    """Nobody else reads the store."""
    store = SqliteStore.open(tmp_path / "state")
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600
    await store.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """An older daemon does not touch what a newer one wrote; nor what is no store at all."""
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnavailable, match="version 99"):
        SqliteStore.open(tmp_path)
    (tmp_path / FILE).write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(StoreUnavailable):
        SqliteStore.open(tmp_path)


async def test_records_cannot_be_changed(tmp_path: Path) -> None:
    """The file itself refuses to change or to delete a record."""
    store = SqliteStore.open(tmp_path)
    await store.append(RECORD)
    await store.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        for attack in ("UPDATE records SET body = '{}'", "DELETE FROM records"):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(attack)
    db.close()


async def test_what_was_intended_by_a_dead_daemon_is_due_at_once(tmp_path: Path) -> None:
    """Opening the store again makes half-made grants due."""
    store = SqliteStore.open(tmp_path)
    made = intent()
    await store.begin(made)
    assert not await store.due(NOW, 10, cluster=PROD)
    await store.close()
    again = SqliteStore.open(tmp_path)
    (due,) = await again.due(NOW, 10, cluster=PROD)
    assert (due.id, due.state) == (made.grant.id, GrantState.INTENDED)
    await again.close()


async def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """Where nothing can be written, everybody who waits is told; with room again, it goes on."""
    store = SqliteStore.open(tmp_path)
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(LogUnavailable):
        for _ in range(100):
            await store.append(RECORD)
    before = await store.last_sequence()
    who = identity()
    with pytest.raises(StoreUnavailable):
        for _ in range(100):
            await store.begin(intent(who, job_uses=0))
            who = identity()
    store._writer.execute("PRAGMA max_page_count = 100000")
    await store.append(RECORD)
    assert await store.last_sequence() > before
    await store.close()


async def test_a_refused_change_does_not_take_others_with_it(tmp_path: Path) -> None:
    """In one group, the refused leave nothing behind and the others are written."""
    store = SqliteStore.open(tmp_path)
    who = identity()
    results = await asyncio.gather(
        store.begin(intent(who)), store.begin(intent(who)), store.append(RECORD), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), SubjectTokenRejected, type(None)]
    assert await store.last_sequence() == 2
    await store.close()


async def test_a_waiter_that_went_away_disturbs_nobody(tmp_path: Path) -> None:
    """A cancelled caller's change is written with the others, and the others get their answers."""
    store = SqliteStore.open(tmp_path)
    tasks = [asyncio.create_task(store.append(RECORD)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await store.last_sequence() == 3
    await store.close()


async def test_a_bug_in_a_change_is_told_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw undoes its group, is logged, and leaves the store usable."""
    store = SqliteStore.open(tmp_path)

    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('half', 'done')")
        raise KeyError("a bug")

    with pytest.raises(StoreUnavailable):
        await store._group.run(broken)
    assert "could not be written" in caplog.text
    await store.append(RECORD)
    assert store._writer.execute("SELECT * FROM meta WHERE name = 'half'").fetchone() is None
    await store.close()


async def test_a_bug_in_one_change_fails_alone(tmp_path: Path) -> None:
    """Those who happened to be in one group with it are written all the same."""
    store = SqliteStore.open(tmp_path)

    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO meta VALUES ('half', 'done')")
        raise TypeError("a bug")

    results = await asyncio.gather(
        store.append(RECORD), store._group.run(broken), store.append(RECORD), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), StoreUnavailable, type(None)]
    assert await store.last_sequence() == 2
    assert store._writer.execute("SELECT * FROM meta WHERE name = 'half'").fetchone() is None
    await store.close()


async def test_a_change_that_fails_is_not_tried_behind_its_callers_back(tmp_path: Path) -> None:
    """Who was told that nothing was written can rely on it, and the next one is written."""
    store = SqliteStore.open(tmp_path)
    tries = 0

    def fails_once(db: sqlite3.Connection) -> None:
        nonlocal tries
        tries += 1
        changes.append(db, RECORD)
        if tries == 1:
            raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StoreUnavailable):
        await store._group.run(fails_once)
    async with asyncio.timeout(5):
        await store.append(RECORD)
    assert (tries, await store.last_sequence()) == (1, 1)
    await store.close()


async def test_an_unreadable_store_says_so(tmp_path: Path) -> None:
    """A read that fails is told as unavailable."""
    store = SqliteStore.open(tmp_path)
    store._writer.execute("DROP TABLE live")
    with pytest.raises(StoreUnavailable):
        await store.counts()
    await store.close()


@pytest.mark.parametrize("acknowledged", [50, 200])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, acknowledged: int) -> None:
    """SIGKILL under load loses nothing that a caller was told of, and leaves no gap in the sequence."""
    with subprocess.Popen(
        [sys.executable, "-c", UNDER_LOAD, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        told += [line.strip() for line in process.stdout if line.endswith("\n")]
    store = SqliteStore.open(tmp_path)
    for grant_id in told:
        assert await store.grant(grant_id) is not None  # type: ignore[arg-type] # text of a pipe
    last = await store.last_sequence()
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("SELECT count(*), max(sequence) FROM records").fetchone() == (last, last)
    db.close()
    await store.close()
