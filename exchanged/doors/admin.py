"""The daemon's own management, on the host: HTTP with JSON over a Unix socket, for the daemon's user and root alone."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from exchanged.doors.quiet import keep_callers_out_of_the_log
from exchanged.errors import ExchangeError
from exchanged.log import entries
from exchanged.log.record import Record, RecordKind, StoredRecord
from exchanged.model import ClusterName, Grant, GrantId, GrantState, IssuerName
from exchanged.ports import GrantQuery, Store

FOLLOW_SECONDS = 0.25
"""Between two looks for new records by one who follows."""
MOST = 1_000
"""Rows of one answer."""
_CREDENTIALS = struct.Struct("3i")

EndGrant = Callable[[GrantId, str, str], Awaitable[Grant | None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminDoor:
    """Grants, records and the daemon's state, for whoever may anyway read its files."""

    def __init__(
        self,
        *,
        path: Path,
        store: Store,
        end_grant: EndGrant,
        status: Callable[[], Awaitable[dict[str, Any]]],
        clock: Callable[[], datetime],
    ) -> None:
        self._path = path
        self._store = store
        self._end_grant = end_grant
        self._status = status
        self._clock = clock

    async def run(self) -> None:
        """Serves until cancelled.

        Raises:
            OSError: the socket cannot be made.
        """
        keep_callers_out_of_the_log()
        application = web.Application(middlewares=[_only_us, _errors])
        application.router.add_get("/grants", self._grants)
        application.router.add_get("/grants/{id}", self._grant)
        application.router.add_post("/grants/{id}/revoke", self._revoke)
        application.router.add_post("/subjects/revoke", self._revoke_subject)
        application.router.add_get("/records", self._records)
        application.router.add_get("/status", self._show_status)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.SockSite(runner, _listening(self._path)).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            self._path.unlink(missing_ok=True)

    async def _grants(self, request: web.Request) -> web.Response:
        asked = request.query
        query = GrantQuery(
            live_only=asked.get("live") == "true",
            cluster=ClusterName(asked["cluster"]) if "cluster" in asked else None,
            policy=asked.get("policy"),
            issuer=IssuerName(asked["issuer"]) if "issuer" in asked else None,
            subject=asked.get("subject"),
            state=GrantState(asked["state"]) if "state" in asked else None,
            before=GrantId(asked["before"]) if "before" in asked else None,
            limit=_number(asked.get("limit", "100")),
        )
        return web.json_response({"grants": [grant_json(grant) for grant in await self._store.grants(query)]})

    async def _grant(self, request: web.Request) -> web.Response:
        grant = await self._store.grant(GrantId(request.match_info["id"]))
        if grant is None:
            return _error(404, "no such grant")
        return web.json_response(grant_json(grant))

    async def _revoke(self, request: web.Request) -> web.Response:
        grant_id = GrantId(request.match_info["id"])
        why = str((await request.json()).get("why") or "revoked by an operator")[:500]
        ended = await self._end_grant(grant_id, why, _caller(request))
        grant = await self._store.grant(grant_id)
        if grant is None:
            return _error(404, "no such grant")
        return web.json_response({"ended": ended is not None, "grant": grant_json(grant)})

    async def _revoke_subject(self, request: web.Request) -> web.Response:
        body = await request.json()
        issuer, subject = IssuerName(str(body["issuer"])), str(body["subject"])
        by = _caller(request)
        record = Record(
            kind=RecordKind.SUBJECT_REVOKED,
            time=self._clock(),
            body={"issuer": issuer, "subject": subject, "why": str(body.get("why", ""))[:500], "by": by},
        )
        await self._store.revoke_subject(issuer, subject, self._clock(), record)
        ended = []
        query = GrantQuery(live_only=True, issuer=issuer, subject=subject, limit=MOST)
        while live := await self._store.grants(query):
            answers = await asyncio.gather(*(self._end_grant(grant.id, "subject revoked", by) for grant in live))
            ended += [grant.id for grant in answers if grant is not None]
        return web.json_response({"ended": ended})

    async def _records(self, request: web.Request) -> web.StreamResponse:
        asked = request.query
        after, grant = int(asked.get("after", "0")), asked.get("grant")
        grant_id = GrantId(grant) if grant else None
        if asked.get("last"):
            after = max(0, await self._store.last_sequence() - _number(asked["last"]))
        if asked.get("follow") != "true":
            found = await self._store.records(after=after, limit=_number(asked.get("limit", "100")), grant_id=grant_id)
            return web.json_response({"records": [record_json(record) for record in found]})
        reply = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await reply.prepare(request)
        while True:
            for record in await self._store.records(after=after, limit=MOST, grant_id=grant_id):
                after = record.sequence
                await reply.write(json.dumps(record_json(record)).encode() + b"\n")
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _show_status(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(await self._status())


@web.middleware
async def _only_us(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The kernel says who is at the other end; the socket's mode says the same, and is easier to get wrong."""
    if _peer(request)[1] not in {0, os.getuid()}:
        return _error(403, "this socket is for the daemon's own user and root")
    return await handler(request)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ExchangeError as error:
        return _error(error.answer.http, error.detail or error.answer.message)
    except (ValueError, KeyError, AttributeError) as error:
        return _error(400, f"bad request: {error}")


def grant_json(grant: Grant) -> dict[str, Any]:
    """A grant as the command line shows it."""
    return {
        "id": grant.id,
        "state": grant.state.value,
        "mode": grant.mode.value,
        "decided": entries.decided(grant.allowed),
        "subject": {"issuer": grant.subject.issuer, "subject": grant.subject.subject},
        "actor": {"issuer": grant.actor.issuer, "subject": grant.actor.subject} if grant.actor else None,
        "user": grant.plan.user,
        "job": grant.job,
        "stated": {"intent": grant.stated_intent},
        "credential_id": grant.credential_id,
        "created_at": grant.created_at.isoformat(),
        "expires_at": grant.expires_at.isoformat(),
        "ended": grant.ended,
        "request_id": grant.request_id,
        "source": grant.source,
    }


def record_json(stored: StoredRecord) -> dict[str, Any]:
    """A record as the command line shows it."""
    record = stored.record
    return {
        "sequence": stored.sequence,
        "time": record.time.isoformat(),
        "kind": record.kind.value,
        "grant_id": record.grant_id,
        "request_id": record.request_id,
        "body": dict(record.body),
    }


def _listening(path: Path) -> socket.socket:
    """A socket that only its owner may connect to, in the place of one that a crash left."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    return listening


def _peer(request: web.Request) -> tuple[int, int, int]:
    """pid, uid and gid of the other end (SO_PEERCRED)."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        return 0, -1, -1
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


def _caller(request: web.Request) -> str:
    return f"uid {_peer(request)[1]}"


def _number(text: str) -> int:
    return max(1, min(MOST, int(text)))


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
