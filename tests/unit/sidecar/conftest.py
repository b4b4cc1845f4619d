"""What each test of the sidecar leaves as it was."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """What a command set up in this process writes to a test's standard error, which ends with the test."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in root.handlers[:]:
        if type(handler.formatter).__module__ == "sidecar.log":
            root.removeHandler(handler)
    root.setLevel(level)
