"""One token's life by clocks that the test turns."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import schedule
from sidecar.clocks import SLICE_SECONDS
from sidecar.model import Fault, Refused
from sidecar.sources import SourceFailed
from tests.unit.sidecar.keeping import NO, ROUND, Made, away, kept, make, running
from tests.unit.sidecar.virtual import LIFETIME, fault, seeded


async def test_a_token_is_there_and_ready(tmp_path: Path) -> None:
    """Without a pause at the start."""
    async with kept(tmp_path) as made:
        assert made.keeper.ready
        assert made.changes == ["granted"]
        assert made.daemon.asked == [0.0]


@pytest.mark.parametrize("chance", range(20))
async def test_it_is_replaced_in_its_window(tmp_path: Path, chance: int) -> None:
    """From the very first time at a moment that chance has drawn, and never before or after the window."""
    async with kept(tmp_path, seeded(chance)) as made:
        await made.turned.run(LIFETIME * schedule.EARLIEST - 1)
        assert len(made.daemon.asked) == 1
        await made.turned.run(LIFETIME * (schedule.LATEST - schedule.EARLIEST) + 2)
        assert len(made.daemon.asked) == 2
        assert made.read() == "token-2"
        assert made.changes == ["granted", "granted"]


async def test_those_who_start_together_do_not_come_back_together(tmp_path: Path) -> None:
    """The first refreshes of many are spread over the window."""
    times = []
    for chance in range(40):
        async with kept(tmp_path / str(chance), seeded(chance)) as made:
            await made.turned.run(LIFETIME * 0.85)
            times.append(made.daemon.asked[1])
    fifths = {int((each / LIFETIME - schedule.EARLIEST) / (schedule.LATEST - schedule.EARLIEST) * 5) for each in times}
    assert fifths == {0, 1, 2, 3, 4}


async def test_one_request_is_in_flight(tmp_path: Path) -> None:
    """However slow the daemon is, nothing is asked before it has answered."""
    async with kept(tmp_path, check=5) as made:
        made.daemon.takes = 19.0
        await made.turned.run(LIFETIME * 3)
        assert made.daemon.most_in_flight == 1
        assert made.daemon.looked > 5
        assert len(made.daemon.granted) > 3


@pytest.mark.parametrize(
    "trouble", [fault(), Fault("TOO_MANY_LIVE_GRANTS", "a bound"), SourceFailed("no proof"), RuntimeError("a bug")]
)
async def test_what_there_is_holds_until_its_end_and_not_beyond(tmp_path: Path, trouble: Exception) -> None:
    """Nobody says no: the token stays for as long as it lives, and the tries go on."""
    async with kept(tmp_path) as made:
        made.source.says = trouble
        made.daemon.says = trouble if isinstance(trouble, Fault) else None
        await made.turned.run(LIFETIME - 0.3)
        assert made.read() == "token-1"
        assert made.keeper.ready
        await made.turned.run(0.3)
        assert made.read() is None
        assert not made.keeper.ready
        assert made.changes == ["granted", "removed"]
        # Somebody waits now: it is asked again soon, however often nobody answered while the token lived.
        await made.turned.run(2 * schedule.SHORTEST_PAUSE)
        made.source.says = made.daemon.says = None
        await made.turned.run(ROUND)
        assert made.read() == "token-2"


async def test_an_end_is_not_slept_through_while_an_answer_is_awaited(tmp_path: Path) -> None:
    """The daemon hangs: the file goes at the end all the same."""
    async with kept(tmp_path) as made:
        made.daemon.takes = 10_000.0
        await made.turned.run(LIFETIME + 0.1)
        assert made.read() is None


async def test_pauses_grow_and_are_drawn(tmp_path: Path) -> None:
    """Without a token, the pauses after faults double up to their bound; with full jitter, none is for certain."""
    made = make(tmp_path)
    made.daemon.says = fault()
    async with running(made):
        await made.turned.run(300)
    gaps = [later - earlier for earlier, later in zip(made.daemon.asked, made.daemon.asked[1:], strict=False)]
    assert gaps[:5] == pytest.approx([1, 2, 4, 8, 16], abs=0.1)
    assert gaps[5:] == pytest.approx([30] * len(gaps[5:]), abs=0.1)


async def test_the_daemon_says_when(tmp_path: Path) -> None:
    """A retry delay is waited for."""
    made = make(tmp_path)
    made.daemon.says = fault(retry_after=40.0)
    async with running(made):
        await made.turned.run(39)
        assert len(made.daemon.asked) == 1
        await made.turned.run(5)
        assert len(made.daemon.asked) == 2


async def test_a_refusal_removes_at_once(tmp_path: Path) -> None:
    """The daemon says no: what lives still goes with its first word, and later it is asked again."""
    async with kept(tmp_path) as made:
        made.daemon.says = NO
        await made.turned.run(LIFETIME * 0.65 + 0.1)
        assert made.read() is None
        assert made.changes == ["granted", "removed"]
        assert "NO_POLICY" in made.keeper.state.trouble
        assert made.keeper.state.refused == "NO_POLICY"
        asked = len(made.daemon.asked)
        await made.turned.run(schedule.REFUSED_PAUSE - 1)
        assert len(made.daemon.asked) == asked
        made.daemon.says = None
        await made.turned.run(schedule.REFUSED_PAUSE + 2)
        assert made.read() == "token-2"
        assert made.keeper.ready


async def test_a_policy_that_changed_just_then_is_no_refusal(tmp_path: Path) -> None:
    """The next try may well succeed: the token stays."""
    async with kept(tmp_path) as made:
        made.daemon.says = Refused("POLICY_CHANGED", "the policy changed")
        await made.turned.run(LIFETIME * 0.65 + 0.1)
        made.daemon.says = None
        await made.turned.run(LIFETIME * 0.2)
        assert made.read() == "token-2"
        assert "removed" not in made.changes


async def test_a_revoked_token_is_noticed_and_replaced(tmp_path: Path) -> None:
    """Within a check and what chance adds."""
    async with kept(tmp_path, check=30) as made:
        made.daemon.revoked.add("token-1")
        await made.turned.run(30.2)
        assert made.read() == "token-2"
        assert made.keeper.ready


@pytest.mark.parametrize("trouble", [NO, fault()])
async def test_a_revoked_token_that_nobody_replaces_goes(tmp_path: Path, trouble: Refused | Fault) -> None:
    """It is dead, whether the daemon says no or nothing."""
    async with kept(tmp_path, check=30) as made:
        made.daemon.revoked.add("token-1")
        made.daemon.says = trouble
        await made.turned.run(30.2)
        assert made.read() is None
        assert not made.keeper.ready


async def test_a_check_that_nobody_answers_changes_nothing(tmp_path: Path) -> None:
    """Nor does a check that is refused: that is not about the token."""
    async with kept(tmp_path, check=10) as made:
        for trouble in (fault(), Refused("CERTIFICATE_EXPIRED", "connect anew")):
            made.daemon.says_of_life = trouble
            await made.turned.run(25)
            assert made.read() == "token-1"
            assert made.keeper.ready
        made.source.says, made.daemon.says_of_life = SourceFailed("no proof"), None
        await made.turned.run(25)
        assert made.read() == "token-1"


async def test_checks_can_be_switched_off(tmp_path: Path) -> None:
    """Nothing is asked between two exchanges."""
    async with kept(tmp_path, check=0) as made:
        await made.turned.run(LIFETIME * 2)
        assert made.daemon.looked == 0


async def test_a_suspended_machine(tmp_path: Path) -> None:
    """Awake again, a token that has ended meanwhile is gone, and replaced, within one slice; that is 5 seconds."""
    assert SLICE_SECONDS <= 5
    async with kept(tmp_path) as made:
        await made.turned.run(10)
        made.turned.suspended += LIFETIME
        made.daemon.says = fault()
        await made.turned.run(SLICE_SECONDS + 0.1)
        assert made.read() is None
        made.daemon.says = None
        await made.turned.run(ROUND)
        assert made.read() == "token-2"


async def test_a_token_that_is_gone_is_asked_for_at_once(tmp_path: Path) -> None:
    """After a step of the clock nobody waits for a slice, in which there would be none."""
    async with kept(tmp_path, check=30) as made:
        # A slow check, after which the two that watch do not wake together.
        made.daemon.takes = 2.0
        await made.turned.run(33)
        made.daemon.takes = 0.01
        made.turned.stepped += 86_400
        for _ in range(int((SLICE_SECONDS + 0.2) / 0.05)):
            await made.turned.run(0.05)
            assert made.read() is not None
        assert made.read() == "token-2"


async def test_a_short_sleep_brings_the_refresh_forward(tmp_path: Path) -> None:
    """A token that is in its window after the sleep is replaced at once."""
    async with kept(tmp_path) as made:
        made.turned.suspended += LIFETIME * 0.7
        await made.turned.run(SLICE_SECONDS + 0.1)
        assert made.read() == "token-2"
        assert "removed" not in made.changes


async def test_a_wall_clock_that_is_set_back_prolongs_nothing(tmp_path: Path) -> None:
    """The clock of this boot knows better."""
    async with kept(tmp_path) as made:
        made.turned.stepped -= 86_400
        made.daemon.says = fault()
        await made.turned.run(LIFETIME - 0.2)
        assert made.read() == "token-1"
        await made.turned.run(0.3)
        assert made.read() is None


async def test_a_wall_clock_that_is_set_forward_is_believed(tmp_path: Path) -> None:
    """A virtual machine stood still, with the clock of its boot: the token may have ended long ago."""
    async with kept(tmp_path) as made:
        made.turned.stepped += 86_400
        made.daemon.says = fault()
        await made.turned.run(SLICE_SECONDS + 0.1)
        assert made.read() is None
        made.daemon.says = None
        await made.turned.run(LIFETIME)
        assert made.keeper.ready


@pytest.mark.parametrize("ahead", [-86_400.0, 86_400.0])
async def test_a_clock_that_is_wrong_all_along_costs_nothing(tmp_path: Path, ahead: float) -> None:
    """A token lives for as long as it was granted, whatever time it is here; but it is said."""
    made = make(tmp_path)
    made.daemon.ahead = ahead
    async with running(made):
        await made.turned.run(LIFETIME * 10)
        assert made.keeper.ready
        assert "removed" not in made.changes
        assert len(made.daemon.asked) < 20


async def test_files_that_cannot_be_written_cost_no_further_grants(tmp_path: Path) -> None:
    """What was granted is written as soon as it can be; the old set stays whole until then."""
    async with kept(tmp_path) as made:
        with away(made.directory):
            await made.turned.run(LIFETIME * 0.8)
        assert len(made.daemon.granted) == 2
        assert made.read() == "token-1"
        await made.turned.run(LIFETIME * 0.19)
        assert made.read() == "token-2"
        assert len(made.daemon.granted) == 2


async def test_files_that_could_not_be_removed_are_removed_later(tmp_path: Path) -> None:
    """A refusal is not forgotten because the disk was away."""
    async with kept(tmp_path) as made:
        made.daemon.says = NO
        with away(made.directory):
            await made.turned.run(LIFETIME * 0.65 + 0.1)
        await made.turned.run(ROUND + 0.1)
        assert made.read() is None


@pytest.mark.parametrize("gone", ["..data", "token", ".."])
async def test_files_that_somebody_takes_away_come_back(tmp_path: Path, gone: str) -> None:
    """Until then it is not ready; no other is asked for, and the workload is told."""
    async with kept(tmp_path) as made:
        shutil.rmtree(made.directory) if gone == ".." else (made.directory / gone).unlink()
        assert not made.keeper.ready
        await made.turned.run(ROUND)
        assert made.keeper.ready
        assert made.read() == "token-1"
        assert made.changes == ["granted", "granted"]
        assert len(made.daemon.asked) == 1


async def test_a_folder_that_goes_while_there_is_no_token(tmp_path: Path) -> None:
    """It is made anew with the next one, which costs no further grant."""
    async with kept(tmp_path) as made:
        made.daemon.says = NO
        await made.turned.run(LIFETIME)
        shutil.rmtree(made.directory)
        made.daemon.says = None
        await made.turned.run(70)
        assert made.read() == "token-2"
        assert made.keeper.ready
        assert len(made.daemon.granted) == 2


async def test_it_is_said_that_files_are_away(tmp_path: Path) -> None:
    """And not that a token has ended that lives; when they are back nothing is said."""
    async with kept(tmp_path) as made:
        (made.directory / "token").unlink()
        assert made.keeper.trouble == "its files were taken away"
        with away(made.directory):
            await made.turned.run(ROUND)
            assert "Not a directory" in made.keeper.trouble
        await made.turned.run(ROUND)
        assert (made.keeper.ready, made.keeper.state.away, made.keeper.state.trouble) == (True, "", "")


async def test_a_token_that_was_long_on_its_way_goes_at_its_end(tmp_path: Path) -> None:
    """Its life is counted from when it was asked for; what comes after its end is not shown at all."""
    made = make(tmp_path)
    made.daemon.lifetime, made.daemon.takes = 10.0, 9.5
    async with running(made):
        await made.turned.run(9.6)
        assert made.read() == "token-1"
        made.daemon.says = fault()
        await made.turned.run(0.5)
        assert made.read() is None
    late = make(tmp_path / "late")
    late.daemon.lifetime, late.daemon.takes = 10.0, 11.0
    async with running(late):
        await late.turned.run(12)
        assert late.read() is None
        assert "after its end" in late.keeper.state.trouble


async def test_figures_tell_what_happened(tmp_path: Path) -> None:
    """A token that cannot be written is no fault of an exchange, and an answer ends a row of failures."""
    async with kept(tmp_path) as made:
        with away(made.directory):
            await made.turned.run(LIFETIME * 0.8)
        assert made.keeper.counts.faults == 0
        assert made.keeper.state.failures > 0
        await made.turned.run(LIFETIME * 0.1)
        made.daemon.says = NO
        await made.turned.run(LIFETIME)
        assert made.keeper.state.failures == 0


EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.1, 200)),
    st.tuples(st.just("suspend"), st.floats(0.1, 400)),
    st.tuples(st.just("set"), st.floats(-4000, 4000)),
    st.tuples(st.sampled_from(["answer", "fault", "refuse", "revoke", "hang"]), st.just(0.0)),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=3, max_size=14), chance=st.integers(0, 1000))
async def test_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, float]], chance: int
) -> None:
    """No reader ever finds a token that has ended a slice ago; and in quiet times there is one again."""
    made = make(tmp_path_factory.mktemp("any"), seeded(chance))
    async with running(made):
        for event, seconds in events:
            await _happen(made, event, seconds)
            # After the longest slice, so that a sleep or a step is noticed.
            await made.turned.run(SLICE_SECONDS + 0.1)
            ends = dict(made.daemon.granted)
            found = made.read()
            assert found is None or ends[found] > made.turned.elapsed(), events
            assert made.daemon.most_in_flight <= 1
        await _happen(made, "answer", 0.0)
        await made.turned.run(700)
        assert made.keeper.ready
        assert made.read() == f"token-{len(made.daemon.granted)}"


async def _happen(made: Made, event: str, seconds: float) -> None:
    made.daemon.takes = 15.0 if event == "hang" else 0.01
    match event:
        case "pass":
            await made.turned.run(seconds)
        case "suspend":
            made.turned.suspended += seconds
        case "set":
            made.turned.stepped += seconds
        case "revoke":
            made.daemon.revoked.update(token for token, _ in made.daemon.granted)
        case "answer" | "fault" | "refuse":
            made.daemon.says = {"answer": None, "fault": fault(), "refuse": NO}[event]
