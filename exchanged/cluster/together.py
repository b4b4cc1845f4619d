"""Calls that do not depend on one another."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any


async def together(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """All results; the first error when all have come to their end, so that nothing goes on behind our back."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
