"""The cluster roles that grants may be bound to, as they stand at the cluster: watched, because they change."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.manifests import RBAC
from exchanged.errors import ClusterUnavailable
from exchanged.model import Rule
from exchanged.policy.classes import breeding

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""Before a watch that broke is begun anew."""
COLLECTION = f"{RBAC}/clusterroles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A cluster role. `digest` is the SHA-256 of its rules, in hex."""

    name: str
    rules: tuple[Rule, ...]
    classes: frozenset[str]
    digest: str


class WatchedRoles:
    """The listed cluster roles."""

    def __init__(self, *, api: KubernetesApi, names: frozenset[str]) -> None:
        self._api = api
        self._names = names
        self._roles: dict[str, Role] = {}
        self._failure: str | None = "not read yet"
        self.on_change: Callable[[], Awaitable[None]] | None = None

    def get(self, name: str) -> Role | None:
        """The role of this name, if it is listed and there."""
        return self._roles.get(name)

    def unready(self) -> str | None:
        """Why the roles are not known, or None."""
        return self._failure if self._names else None

    async def run(self) -> None:
        """Follows the roles until cancelled."""
        if not self._names:
            return
        while True:
            try:
                version = await self._list()
                self._failure = None
                async for event in self._api.watch(COLLECTION, version):
                    await self._take(event)
            except (ApiError, ClusterUnavailable) as error:
                self._failure = str(error)
                log.warning("cluster roles cannot be watched", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_SECONDS)

    async def _list(self) -> str:
        answer = await self._api.call("GET", COLLECTION)
        roles = {}
        for item in answer.get("items", ()):
            name = item["metadata"]["name"]
            if name in self._names:
                roles[name] = role(item)
        changed = roles != self._roles and self._roles
        self._roles = roles
        if changed:
            await self._tell()
        return str(answer["metadata"]["resourceVersion"])

    async def _take(self, event: dict[str, Any]) -> None:
        item = event["object"]
        name = item["metadata"]["name"]
        if name not in self._names or event["type"] == "BOOKMARK":
            return
        before = self._roles.get(name)
        if event["type"] == "DELETED":
            self._roles.pop(name, None)
        else:
            self._roles[name] = role(item)
        if self._roles.get(name) != before:
            await self._tell()

    async def _tell(self) -> None:
        if self.on_change is not None:
            await self.on_change()


def role(item: dict[str, Any]) -> Role:
    """A ClusterRole's JSON as a value; rules on URLs count as nothing that breeds."""
    listed = item.get("rules") or []
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
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    return Role(
        name=item["metadata"]["name"],
        rules=rules,
        classes=breeding(rules),
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )
