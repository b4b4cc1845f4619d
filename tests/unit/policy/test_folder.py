import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exchanged.errors import LogUnavailable, Reason
from exchanged.policy import folder as module
from exchanged.policy.compiled import Compiler
from exchanged.policy.folder import LoadReport, PolicyFolder
from tests.policies import policy


class Watched:
    """A folder that is followed, and its reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports: list[LoadReport] = []
        self.changed = asyncio.Event()
        self.progress: list[tuple[int, int]] = []
        self.folder = PolicyFolder(
            path=path,
            compiler=Compiler(),
            clock=lambda: datetime.now(UTC),
            on_load=self._note,
            progress=lambda done, total: self.progress.append((done, total)),
        )

    async def _note(self, report: LoadReport) -> None:
        self.reports.append(report)
        self.changed.set()

    def names(self) -> set[str]:
        """The policies in force."""
        return {each.name for each in self.folder.current}

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for a load after which something holds."""
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """A folder with two policies, followed."""
    monkeypatch.setattr(module, "DEBOUNCE_MS", 20)
    (tmp_path / "a.yaml").write_text(policy("a"))
    (tmp_path / "b.yml").write_text(policy("b"))
    (tmp_path / "notes.txt").write_text("not a policy")
    (tmp_path / ".hidden.yaml").write_text("not: [a policy")
    made = Watched(tmp_path)
    await made.folder.load()
    running = asyncio.create_task(made.folder.run())
    await asyncio.sleep(0.3)  # until the kernel watches; there is nothing else to wait for
    yield made
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_loading(watched: Watched) -> None:
    """Every policy file is loaded, and the report says which, with the digest of the set."""
    assert watched.names() == {"a", "b"}
    (report,) = watched.reports
    assert (report.policies, set(report.changed), report.faults) == (2, {"a.yaml", "b.yml"}, ())
    assert report.digest == watched.folder.current.digest
    assert watched.progress == [(2, 2)]


async def test_a_changed_file_is_in_force(watched: Watched) -> None:
    """A file that changes changes its policies, and no others."""
    before = watched.folder.current.digest_of("b")
    (watched.path / "a.yaml").write_text(policy("a2"))
    await watched.until(lambda: "a2" in watched.names())
    assert watched.names() == {"a2", "b"}
    assert watched.folder.current.digest_of("b") == before


async def test_a_bad_file_keeps_its_last_good_content(watched: Watched) -> None:
    """What a file had stays in force while it is bad; the others apply; it says so, and is good again when mended."""
    (watched.path / "a.yaml").write_text("kind: Nonsense")
    (watched.path / "c.yaml").write_text(policy("c"))
    await watched.until(lambda: "c" in watched.names() and watched.folder.faulty_files == 1)
    assert watched.names() == {"a", "b", "c"}
    assert all(fault.file == "a.yaml" for fault in watched.folder.faults)
    (watched.path / "a.yaml").write_text(policy("a3"))
    await watched.until(lambda: not watched.folder.faults)
    assert watched.names() == {"a3", "b", "c"}


async def test_a_file_that_is_gone_takes_its_policies_with_it(watched: Watched) -> None:
    """Deleting and renaming are seen; a renamed policy stays in force under its name."""
    (watched.path / "a.yaml").unlink()
    await watched.until(lambda: "a" not in watched.names())
    assert watched.reports[-1].removed == ("a.yaml",)
    (watched.path / "b.yml").rename(watched.path / "renamed.yaml")
    await watched.until(lambda: watched.reports[-1].changed == ("renamed.yaml",))
    assert watched.names() == {"b"}


async def test_one_name_one_file(watched: Watched) -> None:
    """A second file with a policy of the same name is at fault until the first lets go of it."""
    (watched.path / "z.yaml").write_text(policy("a", lifetime={"default": "1m", "max": "1m"}))
    await watched.until(lambda: bool(watched.folder.faults))
    assert "already in a.yaml" in watched.folder.faults[0].what
    before = watched.folder.current.digest_of("a")
    (watched.path / "a.yaml").unlink()
    await watched.until(lambda: not watched.folder.faults)
    assert watched.names() == {"a", "b"}
    assert watched.folder.current.digest_of("a") != before


async def test_a_swapped_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted ConfigMap changes by one link under another name than its files have."""
    monkeypatch.setattr(module, "DEBOUNCE_MS", 20)
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "p.yaml").write_text(policy(f"v{version}"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "p.yaml").symlink_to("..data/p.yaml")
    made = Watched(tmp_path)
    await made.folder.load()
    assert made.names() == {"v1"}
    running = asyncio.create_task(made.folder.run())
    await asyncio.sleep(0.3)  # as above
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    await made.until(lambda: made.names() == {"v2"})
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No folder stops the start, an unreadable file is a fault, and a folder that vanishes is survived."""
    with pytest.raises(NotADirectoryError):
        await Watched(tmp_path / "none").folder.load()
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    made = Watched(tmp_path)
    report = await made.folder.load()
    assert [fault.what.split(":")[0] for fault in report.faults] == ["cannot be read"]
    caplog.set_level(logging.ERROR)

    async def changes() -> AsyncIterator[None]:
        yield None

    made.folder._changes = changes  # type: ignore[method-assign] # one change, without a kernel
    (tmp_path / "bad.yaml").unlink()
    (tmp_path / "dangling.yaml").unlink()
    tmp_path.rmdir()
    await made.folder.run()
    assert "policies cannot be read" in caplog.text
    tmp_path.mkdir()


async def test_many_files_let_exchanges_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting in force gives way between policies."""
    monkeypatch.setattr(module, "STEP_SECONDS", -1.0)
    for number in range(70):
        (tmp_path / f"{number}.yaml").write_text(policy(f"p{number}"))
    made = Watched(tmp_path)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await made.folder.load()
    task.cancel()
    assert turns > 70
    assert made.progress == [(64, 70), (70, 70)]


async def test_nothing_new_is_no_news(tmp_path: Path) -> None:
    """A rescan that finds nothing, a notice about nothing, and the same fault again are not reported."""
    (tmp_path / "bad.yaml").write_text("kind: Nonsense")
    (tmp_path / "good.yaml").write_text(policy("a"))
    made = Watched(tmp_path)
    made.folder._progress = None
    await made.folder.load()
    await made.folder.load()
    assert [report.changed for report in made.reports] == [("bad.yaml", "good.yaml")]
    (tmp_path / "good.yaml").write_text(policy("b"))
    same = module._signatures([tmp_path / "good.yaml"])
    await made.folder._apply(same, whole=False)
    await made.folder._apply(same, whole=False)
    assert [report.changed for report in made.reports[1:]] == [("good.yaml",)]


@asynccontextmanager
async def always(holds: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Looks, at every turn of a loop that gives way after each step, whether something holds."""
    monkeypatch.setattr(module, "STEP_SECONDS", -1.0)
    seen = set()

    async def look() -> None:
        while True:
            seen.add(holds())
            await asyncio.sleep(0)

    task = asyncio.create_task(look())
    yield
    task.cancel()
    assert seen == {True}


@pytest.mark.parametrize(("old", "new"), [("z", "a"), ("a", "z")])
async def test_a_policy_may_move_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """Moved between files in one change, whichever is read first, a policy is in force throughout and none at fault."""
    (tmp_path / f"{old}.yaml").write_text(policy("moved"))
    made = Watched(tmp_path)
    await made.folder.load()
    (tmp_path / f"{new}.yaml").write_text(policy("moved"))
    (tmp_path / f"{old}.yaml").write_text(policy("left"))
    async with always(lambda: "moved" in made.names(), monkeypatch):
        report = await made.folder.load()
    assert (made.names(), report.faults) == ({"moved", "left"}, ())
    assert sorted(report.changed) == ["a.yaml", "z.yaml"]


async def test_two_files_may_swap(tmp_path: Path) -> None:
    """Files that exchange their policies do not wait for each other for ever."""
    made = Watched(tmp_path)
    (tmp_path / "a.yaml").write_text(policy("x"))
    (tmp_path / "b.yaml").write_text(policy("y"))
    await made.folder.load()
    (tmp_path / "a.yaml").write_text(policy("y", lifetime={"default": "1m", "max": "1m"}))
    (tmp_path / "b.yaml").write_text(policy("x", lifetime={"default": "1m", "max": "1m"}))
    before = made.folder.current.digest_of("x"), made.folder.current.digest_of("y")
    report = await made.folder.load()
    assert (made.names(), report.faults) == ({"x", "y"}, ())
    assert not set(before) & {made.folder.current.digest_of("x"), made.folder.current.digest_of("y")}
    (tmp_path / "a.yaml").unlink()
    await made.folder.load()
    assert made.names() == {"x"}


async def test_many_moves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is split into more files than are tried again loses none of its policies."""
    monkeypatch.setattr(module, "RETRIED_FILES", 2)
    made = Watched(tmp_path)
    names = {f"p{number}" for number in range(6)}
    (tmp_path / "z.yaml").write_text("\n---\n".join(policy(name) for name in sorted(names)))
    await made.folder.load()
    assert made.names() == names
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(policy(name))
    (tmp_path / "z.yaml").write_text(policy("z"))
    report = await made.folder.load()
    assert (made.names(), report.faults) == ({*names, "z"}, ())


async def test_a_clash_gives_nothing_away(tmp_path: Path) -> None:
    """A file that clashes keeps its last good content, also what its new text no longer has."""
    made = Watched(tmp_path)
    (tmp_path / "a.yaml").write_text(policy("x"))
    (tmp_path / "b.yaml").write_text(policy("y"))
    await made.folder.load()
    (tmp_path / "a.yaml").write_text(policy("y"))
    report = await made.folder.load()
    assert made.names() == {"x", "y"}
    assert [fault.what for fault in report.faults] == ["policy 'y' is already in b.yaml"]
    (tmp_path / "c.yaml").write_text(policy("x"))
    report = await made.folder.load()
    assert {fault.file for fault in report.faults} == {"a.yaml"}
    (tmp_path / "a.yaml").unlink()
    await made.folder.load()
    assert made.names() == {"x", "y"}


async def test_a_renamed_file_is_in_force_throughout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a file that is gone and the one that has its policies now, no exchange finds them missing."""
    made = Watched(tmp_path)
    (tmp_path / "a.yaml").write_text("\n---\n".join(policy(name) for name in ("stays", "goes", "goes-too")))
    await made.folder.load()
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.yaml").write_text(policy("stays"))
    async with always(lambda: "stays" in made.names(), monkeypatch):
        report = await made.folder.load()
    assert (report.removed, report.changed, made.names()) == (("a.yaml",), ("b.yaml",), {"stays"})


async def test_hidden_files_are_never_policies(watched: Watched) -> None:
    """What an editor, git or a ConfigMap keeps in hidden files and folders is not put in force when it changes."""
    (watched.path / ".git").mkdir()
    (watched.path / ".git" / "p.yaml").write_text(policy("in-git"))
    (watched.path / ".hidden.yaml").write_text(policy("hidden"))
    (watched.path / "folder.yaml").mkdir()
    (watched.path / "last.yaml").write_text(policy("last"))
    await watched.until(lambda: "last" in watched.names())
    (watched.path / ".hidden.yaml").write_text(policy("hidden2"))
    await asyncio.sleep(0.3)  # for a notice that must come to nothing
    assert watched.names() == {"a", "b", "last"}
    assert not watched.folder.faults


async def test_what_is_not_a_file(tmp_path: Path) -> None:
    """A link to itself is a fault of its own, a pipe and a folder are no files, and none of them stops the others."""
    (tmp_path / "good.yaml").write_text(policy("a"))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "huge.yaml").write_text("#" * 600_000)
    made = Watched(tmp_path)
    async with asyncio.timeout(5):
        report = await made.folder.load()
    assert made.names() == {"a"}
    assert sorted(fault.file for fault in report.faults) == ["huge.yaml", "loop.yaml"]


async def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    """A file whose time of modification was put back is read again all the same."""
    path = tmp_path / "a.yaml"
    path.write_text(policy("a1"))
    before = path.stat()
    made = Watched(tmp_path)
    await made.folder.load()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for files goes by ticks
        path.write_text(policy("a2"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    await made.folder.load()
    assert made.names() == {"a2"}


async def test_a_load_that_cannot_be_recorded_is_recorded_later(tmp_path: Path) -> None:
    """Every load is a record: what the store could not take is told with the next look, and nothing is told twice."""
    (tmp_path / "a.yaml").write_text(policy("a"))
    made = Watched(tmp_path)
    note, made.folder._on_load = made.folder._on_load, _unavailable
    with pytest.raises(LogUnavailable):
        await made.folder.load()
    made.folder._on_load = note
    (tmp_path / "b.yaml").write_text(policy("b"))
    await made.folder.load()
    await made.folder.load()
    assert [report.changed for report in made.reports] == [("a.yaml",), ("b.yaml",)]


async def test_following_outlives_a_store_that_cannot_record(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A change that could not be recorded is in force, and told with the next one."""
    note, tried = watched.folder._on_load, asyncio.Event()

    async def fails(report: LoadReport) -> None:
        tried.set()
        await _unavailable(report)

    watched.folder._on_load = fails
    (watched.path / "c.yaml").write_text(policy("c"))
    async with asyncio.timeout(10):
        await tried.wait()
    assert watched.names() == {"a", "b", "c"}
    watched.folder._on_load = note
    (watched.path / "d.yaml").write_text(policy("d"))
    await watched.until(lambda: [report.changed for report in watched.reports[1:]] == [("c.yaml",), ("d.yaml",)])
    assert "cannot be recorded yet" in caplog.text


async def _unavailable(_: LoadReport) -> None:
    raise LogUnavailable(Reason.LOG_UNAVAILABLE, "told to fail")
