"""The cluster roles that grants may be bound to, as they stand at the cluster: watched, because they change."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from exchanged.cluster.api import ApiError, KubernetesApi, text_at
from exchanged.cluster.manifests import RBAC
from exchanged.errors import ClusterUnavailable, ExchangeError
from exchanged.model import Rule
from exchanged.policy.classes import breeding

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""Before a watch that broke is begun anew."""
STALE_SECONDS = 30.0
"""For so long after they could be watched last, roles are taken for what they were: an API server starts again within
it. Whoever decided by an older word would not notice what they grew to."""
COLLECTION = f"{RBAC}/clusterroles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A cluster role. `digest` is the SHA-256 of its rules, in hex."""

    name: str
    rules: tuple[Rule, ...]
    classes: frozenset[str]
    digest: str


class WatchedRoles:
    """The listed cluster roles.

    Whoever wants to know is told by level, not by edge: when the roles are first read, and after each change, until
    telling succeeded. So nothing is missed that happened while the daemon was down, or while the store could not be
    written.
    """

    def __init__(self, *, api: KubernetesApi, names: frozenset[str]) -> None:
        self._api = api
        self._names = names
        self._roles: dict[str, Role] = {}
        self._is_read = False
        self._failure: str | None = "not read yet"
        self._failing_since: float | None = None
        self._untold = asyncio.Event()
        self.on_change: Callable[[], Awaitable[None]] | None = None

    def get(self, name: str) -> Role | None:
        """The role of this name, if it is listed and there, as it was a short while ago."""
        if self._failing_since is not None and time.monotonic() - self._failing_since > STALE_SECONDS:
            return None
        return self._roles.get(name)

    def unready(self) -> str | None:
        """Why the roles are not known, or None."""
        return self._failure if self._names else None

    async def run(self) -> None:
        """Follows the roles, and tells of them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            if self._names:
                group.create_task(self._follow())
            else:
                # Grants from before may be bound to a role that is not listed any more.
                self._untold.set()

    async def _follow(self) -> None:
        while True:
            try:
                version = await self._list()
                self._failure = self._failing_since = None
                async with aclosing(self._api.watch(COLLECTION, version)) as events:
                    async for event in events:
                        self._take(event)
            except (ApiError, ClusterUnavailable) as error:
                self._failing_since = self._failing_since or time.monotonic()
                self._failure = str(error)
                log.warning("cluster roles cannot be watched", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_SECONDS)

    async def _list(self) -> str:
        answer = await self._api.call("GET", COLLECTION)
        version = text_at(answer, "metadata", "resourceVersion")
        listed = [item for item in answer.get("items") or () if text_at(item, "metadata", "name") in self._names]
        roles = {each.name: each for each in map(role, listed)}
        if roles != self._roles or not self._is_read:
            self._untold.set()
        self._roles, self._is_read = roles, True
        return version

    def _take(self, event: dict[str, Any]) -> None:
        item = event["object"]
        if event.get("type") == "BOOKMARK" or (name := text_at(item, "metadata", "name")) not in self._names:
            return
        before = self._roles.pop(name, None)
        if event.get("type") != "DELETED":
            self._roles[name] = role(item)
        if self._roles.get(name) != before:
            self._untold.set()

    async def _tell(self) -> None:
        while True:
            await self._untold.wait()
            # What changes from here on is told again.
            self._untold.clear()
            try:
                if self.on_change is not None:
                    await self.on_change()
            except Exception as error:
                self._untold.set()
                unforeseen = not isinstance(error, ExchangeError)
                log.warning("grants could not be decided again; it will be tried again", exc_info=unforeseen)
                await asyncio.sleep(PAUSE_SECONDS)


def role(item: dict[str, Any]) -> Role:
    """A ClusterRole's JSON as a value; rules on URLs count as nothing that breeds.

    Raises:
        ApiError: it is none.
    """
    name, listed = text_at(item, "metadata", "name"), item.get("rules") or []
    try:
        rules = tuple(
            Rule(
                api_groups=tuple(each.get("apiGroups", ())),
                resources=tuple(each["resources"]),
                verbs=tuple(each.get("verbs", ())),
                resource_names=tuple(each.get("resourceNames", ())),
            )
            for each in listed
            if each.get("resources")
        )
        classes = breeding(rules)
    except (AttributeError, TypeError) as error:
        raise ApiError(200, f"cluster role {name} has no rules that can be read") from error
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    return Role(name=name, rules=rules, classes=classes, digest=hashlib.sha256(text.encode()).hexdigest())
