"""Killed at random moments under load, and started again: nothing is lost, nothing is left, nothing revoked lives."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.fixtures import JWT
from tests.lab.worlds import POD_READER, World, world
from tests.policies import reading

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3_600)]

FOREIGN = """
apiVersion: v1
kind: ServiceAccount
metadata:
  name: foreign
  namespace: exchanged-grants
  labels: {exchanged.dev/instance: "000000000000", exchanged.dev/grant: ffffffffffffffffffff}
  annotations: {exchanged.dev/expires-at: "2020-01-01T00:00:00Z"}
"""
PODS = "/api/v1/namespaces/web/pods"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/web"
MADE = ("/api/v1/namespaces/exchanged-grants/serviceaccounts", f"{RBAC}/rolebindings", f"{RBAC}/roles")
KINDS = (("bound", "named/pods"), ("asked", "signed/pods"), ("bound", "fenced/pods"))
WORKERS = 6


@dataclass(slots=True)
class Seen:
    """What callers were told in one round: released tokens with their clusters, and grants whose end was confirmed."""

    released: dict[str, tuple[str, str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster of each mode."""
    policies = {
        "named.yaml": reading("named", clusters=["bound"], rules=None, clusterRole="pod-reader"),
        "fenced.yaml": reading("fenced", clusters=["bound"]),
        "signed.yaml": reading("signed", clusters=["asked"]),
    }
    modes: dict[str, dict[str, Any]] = {
        "bound": {"mode": "bindings", "namespaces": ["web"], "clusterRoles": ["pod-reader"], "fencedRoles": True},
        "asked": {"mode": "authorizer"},
    }
    limits = {"liveGrantsPerSubject": 100_000}
    with world(tmp_path_factory.mktemp("crash"), modes, policies, limits=limits) as running:
        running.clusters["bound"].apply(POD_READER)
        running.clusters["bound"].apply(FOREIGN)
        yield running


async def _load(made: World, seed: int, stop: asyncio.Event) -> Seen:
    """Exchanges, gives back and revokes until told to stop."""
    seen = Seen()
    credentials = grpc.ssl_channel_credentials(made.daemon.ca.read_bytes())
    socket = aiohttp.UnixConnector(str(made.daemon.folder / "state" / "admin.sock"))

    async def worker(number: int, admin: aiohttp.ClientSession) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - seeded on purpose
        cluster, scope = KINDS[number % len(KINDS)]
        async with grpc.aio.secure_channel(made.daemon.grpc, credentials) as channel:
            stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
            while not stop.is_set():
                request = pb.ExchangeRequest(
                    subject_token=made.issuer.github_token(), subject_token_type=JWT, audience=[cluster], scope=scope
                )
                try:
                    reply = await stub.Exchange(request, timeout=10)
                    seen.released[reply.grant_id] = (cluster, reply.access_token)
                    end = chance.choice(("live", "give back", "revoke"))
                    if end == "give back":
                        await stub.Revoke(pb.RevokeRequest(token=reply.access_token), timeout=10)
                    elif end == "revoke":
                        async with admin.post(f"http://daemon/grants/{reply.grant_id}/revoke", json={}) as answer:
                            assert (await answer.json())["ended"]
                    if end != "live":
                        seen.ended.add(reply.grant_id)
                except (grpc.aio.AioRpcError, aiohttp.ClientError):
                    await asyncio.sleep(0.01)

    async with aiohttp.ClientSession(connector=socket, timeout=aiohttp.ClientTimeout(10)) as admin:
        await asyncio.gather(*(worker(number, admin) for number in range(WORKERS)))
    return seen


def _round(made: World, seed: int) -> None:
    """Load, SIGKILL at some moment, start again, and look at everything."""
    moment = random.Random(seed).uniform(0.05, 1.0)  # noqa: S311 - seeded on purpose

    async def under_load() -> Seen:
        stop = asyncio.Event()
        loading = asyncio.create_task(_load(made, seed, stop))
        await asyncio.sleep(moment)
        await asyncio.to_thread(made.daemon.kill)
        stop.set()
        return await loading

    seen = asyncio.run(under_load())
    made.daemon.start()
    made.daemon.wait_ready()
    until = time.monotonic() + 60
    while (status := made.daemon.json("status"))["backlog"] or _intended(made):
        assert time.monotonic() < until, status
        time.sleep(0.05)
    _check(made, seen)


def _intended(made: World) -> int:
    with closing(sqlite3.connect(f"file:{made.daemon.folder / 'state' / 'exchanged.sqlite'}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT count(*) FROM grants WHERE state = 'intended'").fetchone()
    return int(count)


def _check(made: World, seen: Seen) -> None:
    with closing(sqlite3.connect(f"file:{made.daemon.folder / 'state' / 'exchanged.sqlite'}?mode=ro", uri=True)) as db:
        states = dict(db.execute("SELECT id, state FROM grants"))
        count, last = db.execute("SELECT count(*), max(sequence) FROM records").fetchone()
    assert count == last, "the record has a gap"
    for grant_id, (cluster, token) in seen.released.items():
        # Whatever was released is on record as issued, or as what came after that.
        assert states[grant_id] in {"issued", "withdrawn"}, states[grant_id]
        status, _ = made.clusters[cluster].request("GET", PODS, token=token)
        if grant_id in seen.ended:
            assert states[grant_id] == "withdrawn"
            assert status in {401, 403}, "a grant that was ended lives"
        if states[grant_id] == "issued":
            assert status == 200, "a live grant does not work"
    # At the cluster stand the live grants' objects, and somebody else's; nothing half made.
    live = {grant_id for grant_id, state in states.items() if state == "issued"}
    for path in MADE:
        items = made.clusters["bound"].request("GET", path)[1]["items"]
        labels = [item["metadata"].get("labels", {}) for item in items]
        found = {each["exchanged.dev/grant"] for each in labels if "exchanged.dev/grant" in each} - {"f" * 20}
        assert found <= live, f"left at the cluster: {path} {found - live}"
    assert made.clusters["bound"].request("GET", f"{MADE[0]}/foreign")[0] == 200


@pytest.mark.parametrize("seed", range(20))
def test_killed_under_load(made: World, seed: int) -> None:
    """No live credential without a record, nothing half made, no returned grant alive, nothing foreign touched."""
    _round(made, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1_000, 1_200))
def test_killed_two_hundred_times(made: World, seed: int) -> None:
    """The same, two hundred times."""
    _round(made, seed)
