"""Exchanges that are under way together go step by step together.

The code and the tables of one step are then in the processor's caches for all of them. Each alone from its beginning to
its end would find them pushed out by the other steps, at 64 in flight for a tenth more time.
"""

import types
from collections.abc import Generator


@types.coroutine
def in_step() -> Generator[None, None, None]:
    """Lets the others come as far as this one; without others, goes on. As `asyncio.sleep(0)`, in one frame."""
    yield
