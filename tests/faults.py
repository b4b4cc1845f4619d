"""A store that cannot be written, for as long as a test says."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exchanged.errors import Reason, StoreUnavailable
from exchanged.ports import Store

WRITING = ("complete", "end", "withdrawn", "append")


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, store: Store, *methods: str, only: str | None = None) -> Iterator[None]:
    """These methods (all that write, unless told) are refused as a full disk refuses them; or for one grant alone."""

    def refused(method: Any) -> Any:
        async def told_to_fail(*arguments: Any, **options: Any) -> Any:
            if only is None or only in arguments:
                raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "told to fail")
            return await method(*arguments, **options)

        return told_to_fail

    with monkeypatch.context() as patched:
        for name in methods or WRITING:
            patched.setattr(store, name, refused(getattr(store, name)))
        yield
