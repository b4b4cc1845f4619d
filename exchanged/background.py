"""Work that goes on for as long as the daemon does, whatever happens in it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""Before work that failed is begun anew: a full disk may have room again, and a fault is not to fill the log."""


async def steadily(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work until it returns or is cancelled; where it fails, says so and begins it anew after a pause.

    What can be expected to fail is dealt with where it does; this is for what nobody thought of. It must not end the
    daemon: what one loop lacks, the authorizer's door and all other loops can do without.
    """
    while True:
        try:
            await work()
        except Exception:
            log.exception("work in the background failed; it begins anew", extra={"work": what})
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return
