"""Sets of files that a reader finds whole, or not at all."""

import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.files import DATA, GRACE_SECONDS, LOCK, NEXT, Files, Unwritable
from sidecar.settings import FileSettings

SWAPS = 300


def _set(number: int) -> dict[str, bytes]:
    """A set whose files say which one it is; long enough to be written in more than one go."""
    return {name: f"{number} ".encode() * 5000 for name in ("token", "ca.crt", "namespace", "kubeconfig")}


def _files(folder: Path, **more: object) -> Files:
    files = Files(FileSettings(directory=folder / "files", **more))  # type: ignore[arg-type] # as the tests have it
    files.prepare()
    return files


def _names(directory: Path) -> set[str]:
    """What is there, but for the lock."""
    return {each.name for each in directory.iterdir()} - {LOCK}


@dataclass(slots=True)
class Reading:
    """What readers in a tight loop found."""

    seen: int = 0
    wrong: list[str] = field(default_factory=list)


def _by_folder(directory: Path) -> set[bytes]:
    """As a careful reader does: the set's folder is opened once, all files in it."""
    number = os.open(directory / DATA, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = set()
        for name in _set(0):
            inner = os.open(name, os.O_RDONLY, dir_fd=number)
            with os.fdopen(inner, "rb") as file:
                found.add(file.read())
        return found
    finally:
        os.close(number)


def _by_path(directory: Path) -> set[bytes]:
    """As client-go does: one file by its path."""
    return {(directory / "token").read_bytes()}


@contextmanager
def _reader(read: Callable[[Path], set[bytes]], directory: Path) -> Iterator[Reading]:
    """A thread that reads for as long as the block runs."""
    reading, done = Reading(), threading.Event()
    whole = {content for number in range(SWAPS + 1) for content in _set(number).values()}

    def loop() -> None:
        while not done.is_set():
            try:
                found = read(directory)
            except OSError as error:
                reading.wrong.append(str(error))
                continue
            reading.seen += 1
            if len(found) != 1 or not found <= whole:
                reading.wrong.append(f"{[each[:20] for each in found]}")

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield reading
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("read", [_by_folder, _by_path])
def test_a_reader_in_a_tight_loop_sees_whole_sets(tmp_path: Path, read: Callable[[Path], set[bytes]]) -> None:
    """Over many changes nothing is half, mixed or missing."""
    files = _files(tmp_path)
    files.put(_set(0), 0.0)
    with _reader(read, files.directory) as reading:
        for number in range(1, SWAPS + 1):
            files.put(_set(number), number / 10)
            files.tidy(number / 10)
    assert reading.wrong == []
    assert reading.seen > 20


def test_all_names_appear_at_once(tmp_path: Path) -> None:
    """Before the first change is whole, no name leads anywhere."""
    files = _files(tmp_path)
    assert _names(files.directory) == set()
    files.put(_set(1), 0.0)
    assert {(files.directory / name).readlink() for name in _set(1)} == {Path(DATA, name) for name in _set(1)}
    assert {(files.directory / name).read_bytes() for name in _set(1)} == {_set(1)["token"]}


def test_a_name_that_a_set_has_not_is_gone(tmp_path: Path) -> None:
    """An API server with public roots has no CA file any more."""
    files = _files(tmp_path)
    files.put(_set(1), 0.0)
    files.put({"token": b"2", ".hidden": b"3"}, 1.0)
    assert {name for name in _names(files.directory) if not name.startswith("..")} == {"token"}


def test_replaced_sets_go_after_a_while(tmp_path: Path) -> None:
    """Whoever has just found one can read it; old tokens do not pile up."""
    files = _files(tmp_path)
    for number in range(3):
        files.put(_set(number), float(number))
    folders = [each for each in files.directory.iterdir() if each.is_dir() and not each.is_symlink()]
    assert len(folders) == 3
    files.tidy(1.0 + GRACE_SECONDS)
    assert len([each for each in folders if each.exists()]) == 2
    files.tidy(2.0 + GRACE_SECONDS)
    assert [each for each in folders if each.exists()] == [(files.directory / DATA).resolve()]


def test_removal_leaves_nothing(tmp_path: Path) -> None:
    """No name, no folder, also none of an earlier set; somebody else's file stays."""
    files = _files(tmp_path)
    (files.directory / "mine").write_text("somebody else's")
    files.put(_set(1), 0.0)
    files.put(_set(2), 0.0)
    files.remove()
    assert _names(files.directory) == {"mine"}
    files.remove()


def test_what_a_crash_left_is_removed_at_the_start(tmp_path: Path) -> None:
    """A set that was being written, and a link that was not swapped; the current set is left alone."""
    files = _files(tmp_path)
    files.put(_set(1), 0.0)
    half = files.directory / "..0123456789abcdef"
    half.mkdir()
    (half / "token").write_text("half")
    (files.directory / NEXT).symlink_to(half.name)
    current = files.prepare()
    assert current is not None
    assert (current / "token").read_bytes() == _set(1)["token"]
    assert not half.exists()
    assert not (files.directory / NEXT).is_symlink()
    assert (files.directory / "token").read_bytes() == _set(1)["token"]


@pytest.mark.parametrize("target", ["/etc", "..gone", "../elsewhere", "token"])
def test_data_that_leads_elsewhere_is_none_of_ours(tmp_path: Path, target: str) -> None:
    """Whoever may write to the folder makes us neither read nor remove anything outside it."""
    files = _files(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (files.directory / DATA).symlink_to(target)
    assert files.prepare() is None
    files.put(_set(1), 0.0)
    files.remove()
    assert (tmp_path / "elsewhere").exists()


def test_a_folder_that_was_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write beside the sets cannot make us remove files elsewhere."""
    files = _files(tmp_path)
    files.put(_set(1), 0.0)
    before = (files.directory / DATA).resolve()
    files.put(_set(2), 1.0)
    before.rename(tmp_path / "away")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("")
    before.symlink_to(precious)
    files.tidy(1.0 + GRACE_SECONDS)
    files.remove()
    assert (precious / "file").exists()


@pytest.mark.parametrize(("mode", "folder"), [(0o440, 0o750), (0o400, 0o700), (0o444, 0o755), (0o640, 0o750)])
def test_modes(tmp_path: Path, mode: int, folder: int) -> None:
    """Files have the mode that was asked for whatever the umask is, and who may read may enter."""
    before = os.umask(0o077)
    try:
        files = _files(tmp_path, mode=mode)
        files.put(_set(1) | {".hidden": b""}, 0.0)
    finally:
        os.umask(before)
    current = (files.directory / DATA).resolve()
    assert {stat.S_IMODE((current / name).stat().st_mode) for name in _set(1)} == {mode}
    assert stat.S_IMODE(current.stat().st_mode) == folder
    assert stat.S_IMODE((current / ".hidden").stat().st_mode) == 0o400


def test_a_shared_group(tmp_path: Path) -> None:
    """The files, and the folder that leads to them, are the group's."""
    groups = [*os.getgroups(), os.getgid()] if os.geteuid() else [12345]
    files = _files(tmp_path, group=groups[0])
    files.put(_set(1), 0.0)
    current = (files.directory / DATA).resolve()
    assert {path.stat().st_gid for path in (files.directory, current, *current.iterdir())} == {groups[0]}
    assert files.are_there()


@pytest.mark.skipif(not os.geteuid(), reason="root may give anything away")
def test_a_group_that_we_are_not_in(tmp_path: Path) -> None:
    """It is said at the start, with what helps."""
    with pytest.raises(Unwritable, match="supplementalGroups"):
        _files(tmp_path, group=os.getgid() + 12345)


def test_nothing_of_somebody_else_is_overwritten(tmp_path: Path) -> None:
    """A real file where a name should be is not ours; nothing has changed then."""
    files = _files(tmp_path)
    (files.directory / "token").write_text("somebody else's")
    with pytest.raises(Unwritable, match="token is there and not ours"):
        files.put(_set(1), 0.0)
    assert (files.directory / "token").read_text() == "somebody else's"
    assert not (files.directory / DATA).exists()


def test_a_set_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """The one before stays, and no half is left beside it."""
    files = _files(tmp_path)
    files.put(_set(1), 0.0)
    before = _names(files.directory)
    with pytest.raises(Unwritable):
        files.put(_set(2) | {"no/such/folder": b""}, 1.0)
    assert _names(files.directory) == before
    assert (files.directory / "token").read_bytes() == _set(1)["token"]


def test_a_folder_has_one_sidecar(tmp_path: Path) -> None:
    """Two would hand out each other's identity; when the first is gone the next may have the folder."""
    first = _files(tmp_path)
    first.put(_set(1), 0.0)
    with pytest.raises(Unwritable, match="another sidecar writes there"):
        _files(tmp_path)
    assert _by_folder(first.directory) == {_set(1)["token"]}
    first.prepare()
    first.release()
    _files(tmp_path)


def test_a_folder_that_another_has_by_now(tmp_path: Path) -> None:
    """It was taken away and made anew under us: its files are the other's, and are left alone."""
    first = _files(tmp_path)
    first.put(_set(1), 0.0)
    shutil.rmtree(first.directory)
    second = _files(tmp_path)
    second.put(_set(2), 0.0)
    assert not first.are_there()
    with pytest.raises(Unwritable, match="another sidecar writes there"):
        first.put(_set(1), 1.0)
    first.remove()
    assert second.are_there()
    assert _by_folder(second.directory) == {_set(2)["token"]}


def test_a_folder_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    """There is nothing to remove in it, and the next set is there again."""
    files = _files(tmp_path)
    shutil.rmtree(files.directory)
    files.remove()
    files.put(_set(1), 0.0)
    assert files.are_there()


def test_the_lock_is_ours_alone(tmp_path: Path) -> None:
    """Who may only read the folder keeps no sidecar from it."""
    (tmp_path / "files").mkdir()
    number = os.open(tmp_path / "files", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_SH)
        files = _files(tmp_path)
        assert stat.S_IMODE((files.directory / LOCK).stat().st_mode) == 0o600
    finally:
        os.close(number)


def test_folders_of_somebody_else_stay(tmp_path: Path) -> None:
    """Whatever begins with two dots is not ours for that."""
    theirs = tmp_path / "files" / "..theirs" / "inner"
    theirs.mkdir(parents=True)
    files = _files(tmp_path)
    files.put(_set(1), 0.0)
    files.remove()
    assert theirs.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CHOWN")
def test_an_owner(tmp_path: Path) -> None:
    """Gets the files; the folders stay ours, so that we can go on, and its readers may pass through them."""
    files = _files(tmp_path, owner=12345, mode=0o400)
    files.put(_set(1) | {".hidden": b""}, 0.0)
    current = (files.directory / DATA).resolve()
    for name in _set(1):
        found = (current / name).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (12345, 0o400)
    for ours in (files.directory, current, current / ".hidden"):
        assert ours.stat().st_uid == os.geteuid()
    for folder in (files.directory, current):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o005 == 0o005


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """It is said."""
    (tmp_path / "files").write_text("")
    with pytest.raises(Unwritable, match=str(tmp_path)):
        _files(tmp_path)
