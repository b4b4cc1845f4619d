from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as some

from exchanged.client.errors import ExchangeFailed, Refused, Unavailable
from exchanged.client.model import Grant
from exchanged.client.schedule import LAST_SECONDS, LONGEST_PAUSE, REFUSED_PAUSE, Draw, Held, pause

GRANT = Grant(
    token="t",
    grant_id="g",
    expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    expires_in=300.0,
    cluster="prod",
    scope="a/b",
    server="https://prod.example",
    certificate_authority="",
    details=(),
)
SHARES = some.floats(0, 1)


def share(of: float) -> Draw:
    """Not at random, but this share of the way from the one to the other."""
    return lambda low, high: low + of * (high - low)


@given(life=some.floats(10, 43_200), at=SHARES)
def test_a_token_is_replaced_between_half_and_four_fifths_of_its_life(life: float, at: float) -> None:
    """And shown until shortly before its end, so that there is time for what goes wrong meanwhile."""
    held = Held(draw=share(at))
    held.replace(replace(GRANT, expires_in=life), 1_000.0)
    assert 0.499 * life <= held.due_at - 1_000 <= 0.801 * life
    assert held.due_at < held.ends_at
    assert life - LAST_SECONDS - 0.001 <= held.ends_at - 1_000 < life
    assert held.live(held.ends_at - 0.001)
    assert held.live(held.ends_at) is None


@given(attempt=some.integers(1, 100_000), at=SHARES, asked=some.none() | some.floats(0, 3_600))
def test_pauses_have_full_jitter_a_bound_and_the_daemons_word(attempt: int, at: float, asked: float | None) -> None:
    """From nothing to a bound that doubles and ends at a minute, on top of what the daemon asks for."""
    bound = min(LONGEST_PAUSE, 2.0 ** min(attempt - 1, 10))
    assert pause(attempt, asked, share(0)) == (asked or 0.0)
    assert pause(attempt, asked, share(at)) <= (asked or 0.0) + bound + 0.001
    assert pause(attempt, None, share(1)) == bound


@given(rest=some.floats(0.001, 270), at=SHARES, asked=some.none() | some.floats(0, 3_600))
def test_a_fault_leaves_the_token_and_room_for_another_try(rest: float, at: float, asked: float | None) -> None:
    """While a token lives, it is tried again before that ends, whatever the daemon asks for; nobody is told."""
    held = Held(draw=share(at))
    held.replace(GRANT, 0.0)
    now = held.ends_at - rest
    held.fail(Unavailable("away", retry_after=asked), now)
    assert held.live(now) is GRANT
    assert now + min(asked or 0.0, 60.0, rest / 2) - 0.001 <= held.due_at <= held.ends_at + 0.001


def test_a_refusal_takes_the_token_and_is_not_repeated_for_a_while() -> None:
    """The daemon said no: what there was is not shown any more, and it is not asked again at once."""
    held = Held(draw=share(0))
    held.replace(GRANT, 0.0)
    held.fail(Refused("no", "NO_POLICY"), 150.0)
    assert held.live(150.0) is None
    assert held.due_at == 150 + REFUSED_PAUSE
    assert isinstance(held.failure, ExchangeFailed)
