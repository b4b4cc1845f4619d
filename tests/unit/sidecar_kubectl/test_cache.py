import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar import cache
from sidecar.cache import Cache, Entry

NOW = 1_800_000_000.0
HOUR = 3600.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "exchanged"


def _entry(fetched_at: float = NOW, seconds: float = 300.0, proof: str = "", shown: str = "") -> Entry:
    """An entry of another run of this machine, so that the test's clock is all that counts."""
    entry = Entry.of("a token", fetched_at, seconds, proof, shown)
    entry.boot = "another"
    return entry


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (239, True), (241, False), (299, False), (301, False), (-1, True), (-10, False)]
)
def test_it_is_replaced_before_it_ends(age: float, *, fresh: bool) -> None:
    """A token of 5 minutes is handed out for four; one from the future, after the clock was set back, never."""
    assert _entry().fresh(NOW + age) is fresh


@pytest.mark.parametrize(("seconds", "early"), [(60, 6), (300, 30), (900, 30), (10, 1)])
def test_its_end_is_told_early(seconds: float, early: float) -> None:
    """What is under way when a token is said to end still arrives: 30 s, or a tenth of a short life."""
    assert _entry(seconds=seconds).reported(NOW) == NOW + seconds - early


@pytest.mark.parametrize("age", [0, 150, 280, 299.5, 400])
def test_its_end_is_never_told_in_the_past(age: float) -> None:
    """client-go would run the plugin at each request."""
    assert _entry().reported(NOW + age) > NOW + age


def test_a_clock_that_is_set_does_not_lengthen_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one run of the machine its age counts, whatever the clock says meanwhile."""
    age = [100.0]
    monkeypatch.setattr(cache, "_boot", lambda: ("this", age[0]))
    entry = Entry.of("a token", NOW, 300.0)
    age[0] += 290
    assert entry.rest(NOW + 1) == 10
    age[0] += 20
    assert entry.rest(NOW + 1) == 0


def test_an_outage_is_waited_out() -> None:
    """After the daemon was out of reach, a token that lives is handed out until it is time to ask again."""
    entry = _entry()
    entry.again_at = NOW + 260
    assert [entry.fresh(NOW + age) for age in (250, 261)] == [True, False]
    entry.again_at = NOW + 10 * HOUR
    assert not entry.fresh(NOW + 301)


def test_what_is_written_is_read(folder: Path) -> None:
    """A file of its own for each key, readable by its owner alone, and nothing beside it."""
    Cache("one").write(_entry())
    read = Cache("one").read()
    assert read is not None
    assert (read.token, read.expires_at) == ("a token", NOW + 300)
    assert Cache("two").read() is None
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o640, 0o604])
def test_a_file_that_others_reach_is_not_believed(mode: int) -> None:
    """Somebody else may have put a token of theirs there, or read ours."""
    Cache("one").write(_entry())
    Path(Cache("one").path).chmod(mode)
    assert Cache("one").read() is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A token is where it was put, or it is none."""
    Cache("one").write(_entry())
    moved = Path(Cache("one").path).rename(tmp_path / "moved")
    Path(Cache("one").path).symlink_to(moved)
    assert Cache("one").read() is None


def test_no_pipe_is_waited_for() -> None:
    """Whatever lies there in place of a file, the command goes on."""
    Cache("one").write(_entry())
    Cache("one").remove()
    os.mkfifo(Cache("one").path, 0o600)
    assert Cache("one").read() is None


def test_a_folder_that_others_write_is_not_used(folder: Path) -> None:
    """Nothing is put where somebody else can swap it."""
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="by others"):
        Cache("one").write(_entry())
    with pytest.raises(PermissionError, match="by others"):
        Cache("one").locked(1)


def test_what_a_folder_that_others_write_holds_is_not_believed(folder: Path) -> None:
    """Whoever may write there may have put one token in the place of another."""
    Cache("one").write(_entry())
    for mode in (0o720, 0o702, 0o777):
        folder.chmod(mode)
        assert Cache("one").read() is None
    folder.chmod(0o700)
    assert Cache("one").read() is not None


def test_an_entry_is_for_its_own_key_alone() -> None:
    """Renamed, while somebody else could, it does not become another cluster's token."""
    Cache("one").write(_entry())
    Path(Cache("one").path).rename(Cache("two").path)
    assert Cache("two").read() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"token": "a"}', '{"token": 7, "expires_at": "x"}', "\xff"])
def test_what_is_no_entry_is_none(folder: Path, text: str) -> None:
    """Half a file, or one of another version, is as good as no file."""
    folder.mkdir(mode=0o700)
    file = Path(Cache("one").path)
    file.touch(mode=0o600)
    file.write_bytes(text.encode("latin-1"))
    assert Cache("one").read() is None


@pytest.mark.parametrize("life", ["1e400", "-1e400", "NaN", "1e15", "0.0", '"x"', "[" * 100_000])
def test_a_life_that_cannot_be_is_no_entry(life: str) -> None:
    """A file that was damaged is as good as no file, whatever stands in it now."""
    Cache("one").write(_entry())
    file = Path(Cache("one").path)
    file.write_text(file.read_text().replace(str(NOW + 300), life))
    assert life in file.read_text()
    assert Cache("one").read() is None


def test_another_proof_is_another_subject(tmp_path: Path) -> None:
    """An entry is for what the file with the subject token held; without the file it is for nobody."""
    proof = tmp_path / "proof"
    proof.write_text("of one\n")
    Cache("one").write(_entry(proof=str(proof), shown="of one"))
    assert Cache("one").read() is not None
    proof.write_text("of another")
    assert Cache("one").read() is None
    proof.unlink()
    assert Cache("one").read() is None


def test_what_nobody_needs_any_more_goes(folder: Path) -> None:
    """Tokens of jobs that are long over do not pile up; what is not ours stays."""
    Cache("old").write(_entry())
    (folder / "somebody").touch()
    long_ago = time.time() - 2 * cache.FORGOTTEN
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    Cache("new").write(_entry())
    assert {file.name for file in folder.iterdir()} == {"somebody", Path(Cache("new").path).name}


def test_runs_at_once_do_not_miss_what_others_take_away() -> None:
    """A part that is renamed while another run looks through the folder stops nobody."""

    def run(key: str) -> None:
        for _ in range(100):
            Cache(key).write(_entry())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, ["one", "two", "three", "four"]))


def test_a_lock_in_use_is_not_swept() -> None:
    """However long ago it was first taken: another file of its name would be a second lock."""
    with Cache("one").locked(1):
        pass
    lock = Path(Cache("one").path + ".lock")
    os.utime(lock, (0, 0))
    with Cache("one").locked(1):
        inode = lock.stat().st_ino
        Cache("other").write(_entry())
        assert lock.stat().st_ino == inode


def test_one_process_is_known_again() -> None:
    """Who was given this token is told from who was not, and from itself with the token before."""
    one, other = Cache("one"), _entry(fetched_at=NOW + 1)
    one.write(_entry())
    assert [one.had("7 100", _entry()) for _ in range(2)] == [False, True]
    assert not one.had("7 200", _entry())
    assert not one.had("7 100", other)
    one.remove()
    assert not one.had("7 100", _entry())


def test_who_had_it_is_forgotten_with_it() -> None:
    """A new token starts anew, so that what is noted does not grow for ever; one that was looked up does not."""
    one, entry = Cache("one"), _entry()
    one.write(entry)
    one.had("7 100", entry)
    entry.checked_at += 1
    one.write(entry)
    assert one.had("7 100", entry)
    one.write(_entry(fetched_at=NOW + 1))
    assert not Path(one.path + ".seen").exists()


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is written to wherever the command happens to run."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "~")
    monkeypatch.chdir(tmp_path)
    assert Cache("one").read() is None
    with pytest.raises(FileNotFoundError, match="XDG_CACHE_HOME"):
        Cache("one").write(_entry())
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_for_one() -> None:
    """A second run waits until the first is done."""
    order: list[str] = []
    with Cache("one").locked(10):
        second = threading.Thread(target=lambda: _enter(order))
        second.start()
        order.append("first")
    second.join()
    assert order == ["first", "second"]


def _enter(order: list[str]) -> None:
    with Cache("one").locked(10):
        order.append("second")


def test_the_lock_is_not_waited_for_forever() -> None:
    """A run that hangs does not hang all others."""
    with Cache("one").locked(10), Cache("one").locked(0.05):
        assert Cache("one").read() is None
