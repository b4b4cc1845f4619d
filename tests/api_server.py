"""A small API server in memory, with faults to order: what mode `bindings` uses of a real one, and no more.

The conformance suite of cluster modes runs over it and over the real one alike.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web

from exchanged.cluster.api import KubernetesApi
from exchanged.config import Credential
from tests.grants import PROD

JsonObject = dict[str, Any]
Fault = Callable[[str, str], web.Response | None]
ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(slots=True)
class FakeApiServer:
    """Objects by path. `fault` may answer instead, by method and path; `blind` makes bindings invisible to reviews."""

    objects: dict[str, JsonObject] = field(default_factory=dict)
    everybody: list[JsonObject] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    reviewed: list[JsonObject] = field(default_factory=list)
    blind: set[str] = field(default_factory=set)
    fault: Fault | None = None
    watching: list[asyncio.Queue[JsonObject | None]] = field(default_factory=list)
    url: str = ""

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["FakeApiServer"]:
        """Served on loopback until the end."""
        server = cls()
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", server._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            server.url = f"http://{host}:{port}"
            yield server
        finally:
            server.end_watches()
            await runner.cleanup()

    @asynccontextmanager
    async def api(self, folder: Path) -> AsyncIterator[KubernetesApi]:
        """The daemon's connection to it."""
        file = folder / "token"
        file.write_text("the-daemons-own")
        api = KubernetesApi(
            name=PROD,
            server=self.url,
            certificate_authority=None,
            credential=Credential(tokenFile=file),
            time_out=5,
            observe=lambda _: None,
        )
        try:
            yield api
        finally:
            await api.close()

    def always(self, **answer: Any) -> None:
        """Every request is answered so: what a response of aiohttp is made of."""
        self.fault = lambda *_: web.Response(**answer)

    def refuse(self, status: int, *beginnings: str) -> None:
        """Requests that begin so, method and path, are refused."""
        self.fault = lambda *asked: _status(status, "told to") if " ".join(asked).startswith(beginnings) else None

    def put_role(self, name: str, rules: list[JsonObject] | None) -> None:
        """A cluster role is made, changed, or (None) deleted; those who watch are told."""
        path = f"{ROLES}/{name}"
        kind = "DELETED" if rules is None else "MODIFIED" if path in self.objects else "ADDED"
        made = _made({"metadata": {"name": name}, "rules": rules or []})
        self.objects[path] = made
        if rules is None:
            del self.objects[path]
        for each in self.watching:
            each.put_nowait({"type": kind, "object": made})

    def end_watches(self) -> None:
        """All watches end, as they do after some minutes."""
        for each in self.watching:
            each.put_nowait(None)

    def left(self) -> set[str]:
        """The paths of all objects but cluster roles."""
        return {path for path in self.objects if not path.startswith(ROLES)}

    def count(self, beginning: str) -> int:
        """How many requests began so."""
        return sum(each.startswith(beginning) for each in self.asked)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, method = request.path, request.method
        self.asked.append(f"{method} {path}")
        ordered = self.fault(method, path) if self.fault is not None else None
        if ordered is not None:
            return ordered
        if request.query.get("watch") == "true":
            return await self._watch(request)
        body = await request.json() if method in {"POST", "DELETE"} else {}
        if path == REVIEWS:
            return web.json_response(self._reviewed(body), status=201)
        if path.endswith("/token"):
            token = jwt.encode({"jti": secrets.token_hex(8)}, secrets.token_bytes(32))
            return web.json_response({"status": {"token": token}}, status=201)
        if method == "POST":
            return self._create(path, body)
        if path in self.objects:
            return self._delete(path, body) if method == "DELETE" else web.json_response(self.objects[path])
        if method == "GET" and not path.rpartition("/")[2].count("-"):
            return self._list(path, request.query.get("labelSelector", ""))
        return _status(404, "not found")

    def _create(self, collection: str, body: JsonObject) -> web.Response:
        path = f"{collection}/{body['metadata']['name']}"
        if path in self.objects:
            return _status(409, "already exists")
        self.objects[path] = _made(body)
        return web.json_response(self.objects[path], status=201)

    def _delete(self, path: str, options: JsonObject) -> web.Response:
        head = self.objects[path]["metadata"]
        if options["preconditions"]["uid"] != head["uid"]:
            return _status(409, "the UID in the precondition does not match")
        if head.get("finalizers"):
            head["deletionTimestamp"] = "2026-01-05T12:00:00Z"
            return web.json_response(self.objects[path])
        deleted = self.objects.pop(path)
        # A service account comes back as it was, all else as a status: so does the real one.
        return web.json_response(deleted) if "/serviceaccounts/" in path else _status(200, "")

    def _list(self, collection: str, selector: str) -> web.Response:
        name, _, value = selector.partition("=")
        items = [
            found
            for path, found in self.objects.items()
            if path.rpartition("/")[0] == collection
            and (not selector or found["metadata"].get("labels", {}).get(name) == value)
        ]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        events: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        reply = web.StreamResponse()
        await reply.prepare(request)
        self.watching.append(events)
        while (event := await events.get()) is not None:
            await reply.write(json.dumps(event).encode() + b"\n")
        self.watching.remove(events)
        return reply

    def _reviewed(self, body: JsonObject) -> JsonObject:
        asked, user = body["spec"]["resourceAttributes"], body["spec"]["user"]
        self.reviewed.append(asked)
        if _matches(self.everybody, asked):
            return _verdict('RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "all" to Group "x"')
        for path, found in self.objects.items():
            if "/rolebindings/" not in path or found["metadata"]["namespace"] != asked["namespace"]:
                continue
            name, account = found["metadata"]["name"], found["subjects"][0]
            is_theirs = f"system:serviceaccount:{account['namespace']}:{account['name']}" == user
            if is_theirs and name not in self.blind and _matches(self._rules_of(found), asked):
                return _verdict(f'RBAC: allowed by RoleBinding "{name}/{asked["namespace"]}" of a role to an account')
        return {"status": {"allowed": False}}

    def _rules_of(self, binding: JsonObject) -> list[JsonObject]:
        kind, name, namespace = binding["roleRef"]["kind"], binding["roleRef"]["name"], binding["metadata"]["namespace"]
        place = ROLES if kind == "ClusterRole" else f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"
        return list(self.objects.get(f"{place}/{name}", {}).get("rules", ()))


def _made(body: JsonObject) -> JsonObject:
    created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    head = {"uid": secrets.token_hex(8), "creationTimestamp": created, **body["metadata"]}
    return {**body, "metadata": head}


def _matches(rules: Iterable[JsonObject], asked: JsonObject) -> bool:
    resource = asked["resource"] + (f"/{asked['subresource']}" if asked["subresource"] else "")
    return any(
        {asked["verb"], "*"} & set(rule["verbs"])
        and {resource, "*"} & set(rule["resources"])
        and {asked["group"], "*"} & set(rule["apiGroups"])
        and asked["name"] in rule.get("resourceNames", [asked["name"]])
        for rule in rules
    )


def _verdict(reason: str) -> JsonObject:
    return {"status": {"allowed": True, "reason": reason}}


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "metadata": {}, "code": code, "message": message}, status=code)
