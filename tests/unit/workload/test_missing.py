"""Trust domains that the Workload API does not hand out: what is said of them, and when they count as removed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exchanged.workload.client import WorkloadApi
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi as Server

PATIENCE = timedelta(milliseconds=300)
PATIENCE_SECONDS = 20


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[tuple[WorkloadApi, asyncio.Queue[str]]]:
    """A client that expects two trust domains, of which it is handed out one; and what it was told was removed."""
    removed: asyncio.Queue[str] = asyncio.Queue()
    with Server.served(tmp_path / "api.sock", TrustDomain("acme.example")) as server:
        api = WorkloadApi(socket=server.address, clock=lambda: datetime.now(UTC))
        api.on_removed = removed.put
        for name in ("acme.example", "partner.example"):
            api.of(name, PATIENCE)
        running = asyncio.create_task(api.run())
        yield api, removed
        running.cancel()


async def test_one_that_was_removed_while_nobody_looked(
    following: tuple[WorkloadApi, asyncio.Queue[str]],
) -> None:
    """Long after the API has answered, what it does not hand out was removed; and that alone."""
    _, removed = following
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await removed.get() == "partner.example"
    await asyncio.sleep(PATIENCE.total_seconds())
    assert removed.empty()


async def test_it_is_said_what_is_missing(following: tuple[WorkloadApi, asyncio.Queue[str]]) -> None:
    """Not that a bundle is empty, but that there is none, and where to look."""
    api, _ = following
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not api.hands_out("acme.example"):
            await api.updated()
    assert api.of("acme.example", PATIENCE).unready() is None
    said = api.of("partner.example", PATIENCE).unready()
    assert said is not None
    assert "no bundle of trust domain partner.example" in said
    assert "registration entry" in said
