import asyncio
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exchanged.policy.compiled import Compiler
from exchanged.policy.folder import LoadReport, PolicyFolder
from tests.policies import policy

NAMES = ["x", "y", "z"]
FILES = ["a.yaml", "b.yaml", "c.yaml"]
BAD = "kind: Nonsense"
COMPILER = Compiler()

contents = st.one_of(
    st.none(), st.just(BAD), st.tuples(st.frozensets(st.sampled_from(NAMES), min_size=1), st.integers(1, 3))
)
Content = str | tuple[frozenset[str], int] | None
folders = st.fixed_dictionaries(dict.fromkeys(FILES, contents))


def _text(content: Content) -> str | None:
    if content is None or isinstance(content, str):
        return content
    names, version = content
    lifetime = {"default": "1m", "max": f"{version}m"}
    return "\n---\n".join(policy(name, lifetime=lifetime) for name in sorted(names))


def _write(root: Path, wanted: dict[str, Content]) -> None:
    for file, content in wanted.items():
        text = _text(content)
        if text is None:
            (root / file).unlink(missing_ok=True)
        else:
            (root / "new").write_text(text)
            (root / "new").replace(root / file)


def _folder(root: Path) -> PolicyFolder:
    async def note(_: LoadReport) -> None:
        pass

    return PolicyFolder(path=root, compiler=COMPILER, clock=lambda: datetime.now(UTC), on_load=note)


def _names(content: Content) -> frozenset[str]:
    return content[0] if isinstance(content, tuple) else frozenset()


@settings(max_examples=120, deadline=None)
@given(st.lists(folders, min_size=1, max_size=5))
@example([{"a.yaml": (frozenset("x"), 1), "b.yaml": (frozenset("y"), 1), "c.yaml": (frozenset("z"), 1)},
          {"a.yaml": (frozenset("y"), 2), "b.yaml": (frozenset("z"), 2), "c.yaml": (frozenset("x"), 2)}])  # fmt: skip
def test_a_folder_is_what_its_files_say(history: list[dict[str, Content]]) -> None:
    """After any changes: without a fault, what a fresh start would load; with one, nothing but what files once said."""

    async def follow() -> None:
        with TemporaryDirectory() as name:
            root = Path(name)
            folder = _folder(root)
            for wanted in history:
                _write(root, wanted)
                report = await folder.load()
                _check(folder, report, wanted)
                if not report.faults:
                    fresh = _folder(root)
                    await fresh.load()
                    assert folder.current.digest == fresh.current.digest

    asyncio.run(follow())


def _check(folder: PolicyFolder, report: LoadReport, wanted: dict[str, Content]) -> None:
    in_force = {each.name for each in folder.current}
    said = {file: _names(content) for file, content in wanted.items()}
    bad = {fault.file for fault in report.faults}
    assert {file for file, content in wanted.items() if content == BAD} <= bad <= {f for f in wanted if wanted[f]}
    if BAD not in wanted.values() and len(frozenset().union(*said.values())) == sum(map(len, said.values())):
        assert not bad, "no two files say the same, so nothing clashes"
    for file in said.keys() - bad:
        assert all(folder._file_of[name].name == file for name in said[file]), "a good file has what it says"
    if not bad:
        assert in_force == frozenset().union(*said.values())
    assert in_force == folder._file_of.keys(), "whatever is in force is some file's, and goes when that goes"
