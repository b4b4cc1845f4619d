import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exchanged.cluster.api import ApiError
from exchanged.cluster.roles import WatchedRoles, role
from exchanged.errors import Reason, StoreUnavailable
from tests.api_server import ROLES, FakeApiServer

PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
Following = tuple[FakeApiServer, WatchedRoles, "asyncio.Queue[str]"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again soon."""
    monkeypatch.setattr("exchanged.cluster.roles.PAUSE_SECONDS", 0.01)


@asynccontextmanager
async def _followed(
    server: FakeApiServer, folder: Path, names: frozenset[str], on_change: Callable[[WatchedRoles], Awaitable[None]]
) -> AsyncIterator[WatchedRoles]:
    async with server.api(folder) as api:
        roles = WatchedRoles(api=api, names=names)

        async def told() -> None:
            await on_change(roles)

        roles.on_change = told
        running = asyncio.create_task(roles.run())
        try:
            yield roles
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Following]:
    """A server with the role `reader`, who follows it, and the digests that were told of."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def tell(roles: WatchedRoles) -> None:
        found = roles.get("reader")
        await told.put(found.digest if found else "none")

    async with FakeApiServer.serving() as server:
        server.put_role("reader", [PODS])
        server.put_role("unlisted", [SECRETS])
        async with _followed(server, tmp_path, frozenset({"reader"}), tell) as roles, asyncio.timeout(10):
            yield server, roles, told


async def _watched(server: FakeApiServer) -> None:
    while not server.watching:  # noqa: ASYNC110 - a request that is under way
        await asyncio.sleep(0.001)


async def test_roles_are_told_of_when_they_are_first_read(following: Following) -> None:
    """What changed while nobody looked is told of like what changes now; unlisted roles are nobody's business."""
    _, roles, told = following
    first = await told.get()
    found = roles.get("reader")
    assert found is not None
    assert (found.digest, roles.get("unlisted"), roles.unready()) == (first, None, None)


async def test_each_change_is_told(following: Following) -> None:
    """A change, a deletion and a new role of the name are told of; a change of another role, or of none, is not."""
    server, _, told = following
    first = await told.get()
    await _watched(server)
    server.put_role("unlisted", [])
    server.put_role("reader", [PODS])
    server.put_role("reader", [PODS, SECRETS])
    assert await told.get() not in {first, "none"}
    server.put_role("reader", None)
    assert await told.get() == "none"
    server.put_role("reader", [PODS])
    assert await told.get() == first
    assert told.empty()


async def test_a_change_between_two_watches_is_told(following: Following) -> None:
    """What happens while no watch is open is found when the roles are listed again."""
    server, _, told = following
    first = await told.get()
    await _watched(server)
    (queue,) = server.watching
    server.watching.clear()
    server.put_role("reader", [SECRETS])
    server.watching.append(queue)
    server.end_watches()
    assert await told.get() != first


async def test_who_could_not_be_told_is_told_again(tmp_path: Path) -> None:
    """Where telling fails, foreseen or not, it is tried until it succeeds, though nothing changes any more."""
    failures: list[Exception] = [StoreUnavailable(Reason.STORE_UNAVAILABLE, "full"), KeyError("a bug")]
    told = asyncio.Event()

    async def tell(_: WatchedRoles) -> None:
        if failures:
            raise failures.pop(0)
        told.set()

    async with FakeApiServer.serving() as server, _followed(server, tmp_path, frozenset({"x"}), tell):
        async with asyncio.timeout(10):
            await told.wait()
    assert failures == []


async def test_without_listed_roles_it_is_told_once(tmp_path: Path) -> None:
    """Grants that were bound to a role which is not listed any more are decided again too, without any request."""
    told = asyncio.Event()

    async def tell(_: WatchedRoles) -> None:
        told.set()

    async with FakeApiServer.serving() as server, _followed(server, tmp_path, frozenset(), tell) as roles:
        async with asyncio.timeout(10):
            await told.wait()
        assert (server.asked, roles.unready()) == ([], None)


@pytest.mark.parametrize(
    "answer",
    [
        '{"items": []}',
        '{"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {}}]}',
        '{"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "reader"}, "rules": [7]}]}',
        "<html></html>",
    ],
)
async def test_an_answer_of_another_shape_is_survived(following: Following, answer: str) -> None:
    """Roles that cannot be read are said to be unknown, and read when they can be."""
    server, roles, told = following
    await told.get()
    await _watched(server)
    server.always(text=answer)
    server.end_watches()
    while roles.unready() is None:  # noqa: ASYNC110 - a request that is under way
        await asyncio.sleep(0.001)
    server.put_role("reader", [SECRETS])
    server.fault = None
    await told.get()
    assert roles.unready() is None


async def test_roles_that_cannot_be_watched_are_not_known_for_long(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short interruption changes nothing; after a long one nothing is decided by what they were."""
    server, roles, told = following
    await told.get()
    await _watched(server)
    server.refuse(403, "GET")
    server.end_watches()
    while roles.unready() is None:  # noqa: ASYNC110 - a request that is under way
        await asyncio.sleep(0.001)
    assert roles.get("reader") is not None
    monkeypatch.setattr("exchanged.cluster.roles.STALE_SECONDS", 0)
    assert roles.get("reader") is None
    server.fault = None
    while roles.unready() is not None:  # noqa: ASYNC110 - a request that is under way
        await asyncio.sleep(0.001)
    assert roles.get("reader") is not None
    assert told.empty()


@pytest.mark.parametrize("rules", [[7], [{"resources": 1}], "text"])
def test_rules_that_cannot_be_read_are_an_error(rules: Any) -> None:
    """A role is taken as it stands, or not at all."""
    with pytest.raises(ApiError, match="no rules that can be read"):
        role({"metadata": {"name": "reader"}, "rules": rules})


def test_the_path_that_is_watched_is_the_servers() -> None:
    """The fake and the daemon speak of the same collection."""
    assert ROLES == "/apis/rbac.authorization.k8s.io/v1/clusterroles"
