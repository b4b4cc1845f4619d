"""What the doors do about calls that take too long, and about those that never became an exchange."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from exchanged.errors import ClusterUnavailable, ExchangeError, Reason
from exchanged.model import RequestContext
from exchanged.time_limit import TimeLimit

TurnedAway = Callable[[ExchangeError, RequestContext], Awaitable[None]]
"""Told of an exchange that a door refused before it began, so that it is counted all the same."""
Result = TypeVar("Result")


async def in_time(limit: TimeLimit, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of giving back or introspecting, which wait for the store, and for a cluster.

    Raises:
        ClusterUnavailable: not within the limit; what was begun goes on.
    """
    try:
        return await limit.run(work)
    except TimeoutError as error:
        detail = f"not done within {limit.seconds:.0f} s; what was begun goes on"
        raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, detail) from error
