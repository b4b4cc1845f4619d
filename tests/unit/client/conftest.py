from collections.abc import Iterator

import pytest

from tests.unit.client.kinds import Coroutines, Kind, Threads


@pytest.fixture(params=[Threads, Coroutines], ids=["threads", "coroutines"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Either kind of callers, with its client."""
    made: Kind = request.param()
    yield made
    made.end()
