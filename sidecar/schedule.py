"""When a credential is fetched again: pure, so that thousands of sidecars can be looked at without one.

Sidecars that start together, or whose daemon was away, must not come back together: each time is drawn at random, the
first one too.
"""

import random
from collections.abc import Callable

EARLIEST, LATEST = 0.5, 0.8
"""Shares of a credential's life between which it is replaced; what is left bears an outage of the daemon."""
SHORTEST_PAUSE = 1.0
"""Seconds, of the first pause after a failure; twice as many each time."""
LONGEST_PAUSE = 60.0
SHARE_OF_REST = 0.5
"""A pause takes no more than this share of what a credential still lives, so that some tries fit in."""
REFUSED_PAUSE = 30.0
"""Seconds before who was refused asks again, at the least: a policy may have come meanwhile."""

Draw = Callable[[float, float], float]
"""A number between two, evenly."""


def refresh_after(lifetime: float, draw: Draw = random.uniform) -> float:
    """Seconds after which a credential with so many seconds to live is replaced."""
    return max(SHORTEST_PAUSE, draw(EARLIEST, LATEST) * lifetime)


def pause_after_fault(
    attempt: int, rest: float, retry_after: float | None = None, draw: Draw = random.uniform
) -> float:
    """Seconds before the next try, with full jitter.

    Who still has a credential has time, and takes it: those who were turned away together come back one by one.

    Args:
        attempt: how many tries have failed, from 1.
        rest: seconds that the credential at hand still lives; 0 without one.
        retry_after: what the daemon asks for, at the least; not more than is bearable.
        draw: where chance comes from.
    """
    least = min(max(retry_after or 0.0, 0.0), LONGEST_PAUSE)
    if rest > 0:
        least = min(least, SHARE_OF_REST * rest)
        bound = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, SHARE_OF_REST * (rest - least)))
    else:
        bound = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(attempt, 16))
    return least + draw(0.0, bound)


def pause_after_refusal(draw: Draw = random.uniform) -> float:
    """Seconds before who was refused asks again."""
    return draw(REFUSED_PAUSE, 2 * REFUSED_PAUSE)
