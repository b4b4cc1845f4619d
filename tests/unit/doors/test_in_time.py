import asyncio

import pytest

from exchanged.doors.in_time import in_time
from exchanged.errors import ClusterUnavailable
from exchanged.time_limit import TimeLimit


async def test_what_takes_too_long_is_answered() -> None:
    """Giving back at a cluster that does not answer ends with an error that says so; what is in time is its result."""

    async def given_back() -> str:
        return "done"

    limit = TimeLimit(0.05)
    assert await in_time(limit, given_back()) == "done"
    with pytest.raises(ClusterUnavailable, match="goes on"):
        await in_time(limit, asyncio.sleep(60))
