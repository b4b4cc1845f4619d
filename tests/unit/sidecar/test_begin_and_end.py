"""What a sidecar finds when it starts, and what it leaves."""

import asyncio
from pathlib import Path

import pytest

from sidecar import grants
from sidecar.model import Ask, ExchangeFailed, Fault, Refused
from sidecar.sources import SourceFailed
from tests.unit.sidecar.keeping import NO, Made, away, kept, make, running
from tests.unit.sidecar.virtual import LIFETIME, fault


async def test_what_an_earlier_run_left_is_kept(tmp_path: Path) -> None:
    """A sidecar that starts anew while the daemon is away goes on with its token; to its end, and no further."""
    async with kept(tmp_path) as first:
        pass
    second = make(tmp_path, ran=first.turned.ran + 100)
    second.daemon.says = fault()
    async with running(second):
        await second.turned.run(LIFETIME - 101)
        assert second.read() == "token-1"
        await second.turned.run(2)
        assert second.read() is None


async def test_what_an_earlier_run_left_for_another_request_goes(tmp_path: Path) -> None:
    """The token of another scope is not what was asked for."""
    async with kept(tmp_path):
        pass
    second = make(tmp_path, ask=Ask(scope="other/scope"))
    assert second.read() is None


async def test_giving_back(tmp_path: Path) -> None:
    """All grants that live still end, and the files are gone."""
    async with kept(tmp_path) as made:
        await made.turned.run(LIFETIME * 0.7)
        assert made.read() == "token-2"
    giving = asyncio.create_task(made.keeper.give_back())
    await made.turned.run(1)
    await giving
    assert made.daemon.given_back == ["token-1", "token-2"]
    assert made.read() is None


@pytest.mark.parametrize(("trouble", "outcome"), [(None, "granted"), (NO, "refused"), (fault(), "unavailable")])
async def test_once(tmp_path: Path, trouble: Refused | Fault | None, outcome: str) -> None:
    """Had, refused, or tried for as long as there was patience."""
    made = make(tmp_path)
    made.daemon.says = trouble
    trying = asyncio.create_task(made.keeper.once(60))
    await made.turned.run(61)
    assert await trying == outcome
    assert (len(made.daemon.asked) > 1) == (outcome == "unavailable")


async def _second(tmp_path: Path, after: float = 100) -> Made:
    """The one that starts, so much later, where another had one token and was killed."""
    async with kept(tmp_path) as first:
        pass
    second = make(tmp_path, ran=first.turned.ran + after)
    second.daemon.granted = list(first.daemon.granted)
    return second


async def _give_back(made: Made) -> None:
    giving = asyncio.create_task(made.keeper.give_back())
    await made.turned.run(30)
    await giving


async def test_what_an_earlier_run_left_is_ready_and_replaced(tmp_path: Path) -> None:
    """Nobody has to wait for it while the daemon is away; when that is back there is another at once."""
    second = await _second(tmp_path)
    second.daemon.says = fault()
    assert second.keeper.ready
    async with running(second):
        await second.turned.run(30)
        assert second.keeper.ready
        second.daemon.says = None
        await second.turned.run(LIFETIME - 130)
        assert second.read() == "token-2"


async def test_what_an_earlier_run_left_is_looked_after(tmp_path: Path) -> None:
    """It was revoked meanwhile, and nothing can be asked for in its place: it goes."""
    second = await _second(tmp_path)
    second.source.says = SourceFailed("no proof")
    second.daemon.revoked.add("token-1")
    async with running(second):
        await second.turned.run(60)
        assert second.read() == "token-1"  # nobody could tell
        second.source.says = None
        second.daemon.says = fault()
        await second.turned.run(60)
        assert second.read() is None


async def test_what_an_earlier_run_left_is_given_back(tmp_path: Path) -> None:
    """With what came after it."""
    second = await _second(tmp_path)
    async with running(second):
        await second.turned.run(1)
        assert second.read() == "token-2"
    await _give_back(second)
    assert sorted(second.daemon.given_back) == ["token-1", "token-2"]


async def test_what_the_daemon_grants_while_we_end_is_given_back(tmp_path: Path) -> None:
    """Told to stop in the middle of an exchange, which the daemon does to its end."""
    made = make(tmp_path)
    made.daemon.takes = 2.0
    keeping = asyncio.create_task(made.keeper.keep())
    await made.turned.run(1)
    keeping.cancel()
    await _give_back(made)
    assert (made.daemon.granted[0][0], made.daemon.given_back) == ("token-1", ["token-1"])


async def test_what_was_refused_later_is_given_back(tmp_path: Path) -> None:
    """A refusal takes the files; what was granted before lives until it ends, or is given back."""
    async with kept(tmp_path) as made:
        made.daemon.says = NO
        await made.turned.run(LIFETIME * 0.8)
        assert made.read() is None
    made.daemon.says = None
    await _give_back(made)
    assert made.daemon.given_back == ["token-1"]


async def test_each_is_given_back_for_itself(tmp_path: Path) -> None:
    """That the daemon does not end one of them keeps nobody from the others; and it is said."""
    async with kept(tmp_path) as made:
        await made.turned.run(LIFETIME * 0.7)
    made.daemon.keeps = "token-1"
    with pytest.raises(ExchangeFailed):
        await _give_back(made)
    assert made.daemon.given_back == ["token-2"]


@pytest.mark.parametrize(("after", "outcome"), [(100.0, "granted"), (LIFETIME - 30, "unavailable")])
async def test_once_with_what_an_earlier_run_left(tmp_path: Path, after: float, outcome: str) -> None:
    """While nobody answers it is as good as a new one, and never past its end."""
    second = await _second(tmp_path, after)
    second.daemon.says = fault()
    trying = asyncio.create_task(second.keeper.once(60))
    await second.turned.run(61)
    assert await trying == outcome
    assert (second.read() == "token-1") == (outcome == "granted")


async def test_once_with_files_that_cannot_be_written_at_first(tmp_path: Path) -> None:
    """What was granted is written at the next try; a second proof may not be had."""
    made = make(tmp_path)
    with away(made.directory):
        trying = asyncio.create_task(made.keeper.once(60))
        await made.turned.run(0.1)
        assert len(made.daemon.granted) == 1
    await made.turned.run(61)
    assert await trying == "granted"
    assert (made.read(), len(made.daemon.granted)) == ("token-1", 1)


async def test_a_failure_to_give_back_leaves_nothing_untried(tmp_path: Path) -> None:
    """What is on its way is given back too."""
    async with kept(tmp_path) as made:
        pass
    made.daemon.takes, made.daemon.keeps = 2.0, "token-1"
    keeping = asyncio.create_task(made.keeper.keep())
    await made.turned.run(LIFETIME * 0.65 + 1)
    keeping.cancel()
    with pytest.raises(ExchangeFailed):
        await _give_back(made)
    assert made.daemon.given_back == ["token-2"]


async def test_a_proof_that_hangs_does_not_keep_anything_from_being_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is wanted for the connection alone, and the last one may open that."""
    monkeypatch.setattr(grants, "PROOF_SECONDS", 0)
    async with kept(tmp_path) as made:
        made.daemon.says_of_life = fault()
        await made.turned.run(60)
    made.source.hangs = True
    await _give_back(made)
    assert made.daemon.given_back == ["token-1"]


async def test_once_when_what_should_not_happen_happens(tmp_path: Path) -> None:
    """That is no refusal: the exit code says unavailable."""
    made = make(tmp_path)
    made.source.says = RuntimeError("a surprise")
    trying = asyncio.create_task(made.keeper.once(60))
    await made.turned.run(130)
    assert await trying == "unavailable"
