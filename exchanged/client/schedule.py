"""When a token is fetched again. Pure, and the same for threads and coroutines; seconds are of one clock, monotonic.

Clients that start together, or whose daemon was away, must not come back together: each time is drawn at random.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from exchanged.client.errors import ExchangeFailed, Refused
from exchanged.client.model import Grant

EARLIEST, LATEST = 0.5, 0.8
"""Shares of a token's life between which it is replaced; what is left bears an outage of the daemon."""
LAST_SHARE, LAST_SECONDS = 0.1, 10.0
"""Of a token's life at its end, in which it is not shown any more: requests take time to arrive."""
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after a failure, at the most: the first time, and ever."""
SHARE_OF_REST = 0.5
"""A pause, and a try, take no more than this share of what a token still lives, so that some tries fit in."""
REFUSED_PAUSE = 30.0
"""Seconds before who was refused asks again, at the least; a policy may have come meanwhile."""

Draw = Callable[[float, float], float]
"""A number between two, evenly."""


def pause(attempt: int, retry_after: float | None, draw: Draw = random.uniform) -> float:
    """Seconds before the next try, with full jitter; `attempt` tries have failed.

    At least what the daemon asks for, whatever that is: who has not that much patience gives up at once.
    """
    return (retry_after or 0.0) + draw(0.0, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(attempt - 1, 16)))


@dataclass(slots=True)
class Held:
    """A token that is held, and what came of the last try to replace it."""

    draw: Draw = random.uniform
    grant: Grant | None = None
    due_at: float = 0.0
    ends_at: float = 0.0
    failure: Exception | None = None

    def rest(self, now: float) -> float:
        """Seconds that the token may still be shown."""
        return max(0.0, self.ends_at - now) if self.grant else 0.0

    def live(self, now: float) -> Grant | None:
        """The grant, while its token may be shown."""
        return self.grant if self.rest(now) > 0 else None

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask for another."""
        return now >= self.due_at

    def replace(self, grant: Grant, now: float) -> None:
        """Another token has come."""
        life = grant.expires_in
        self.grant, self.failure = grant, None
        self.due_at = now + self.draw(EARLIEST, LATEST) * life
        self.ends_at = now + life - min(LAST_SHARE * life, LAST_SECONDS)

    def fail(self, error: Exception, now: float) -> None:
        """None has come; who was refused has none any more."""
        self.failure = error
        hint = (error.retry_after if isinstance(error, ExchangeFailed) else None) or 0.0
        after = min(hint, LONGEST_PAUSE)
        if isinstance(error, Refused):
            self.grant = None
            self.due_at = now + self.draw(REFUSED_PAUSE, 2 * REFUSED_PAUSE)
        elif rest := self.rest(now):
            after = min(after, SHARE_OF_REST * rest)
            bound = max(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHARE_OF_REST * (rest - after)))
            self.due_at = now + min(rest, after + self.draw(0.0, bound))
        else:
            # Long enough for those who waited for this very try to hear of it instead of trying in turn.
            self.due_at = now + after + self.draw(SHORTEST_PAUSE, 2 * SHORTEST_PAUSE)
