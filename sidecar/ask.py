"""Tokens for those who would rather ask than read a file: GET /token/NAME on a Unix socket, by who it is that asks."""

import array
import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable

from sidecar.answers import Answer
from sidecar.keeper import Keeper
from sidecar.settings import SocketSettings

log = logging.getLogger("sidecar")

_JSON = "application/json"
_CREDENTIALS = struct.Struct("iII")
"""struct ucred (unix(7)): process, user, group."""
_SO_PEERGROUPS = 59
"""Its further groups (socket(7)); Python has no name for it."""
_MOST_GROUPS = 256
"""Python takes no more than 1024 bytes from a socket."""


def answering(keepers: Iterable[Keeper]) -> Callable[[str], Answer]:
    """What each path says: a token, or why there is none."""
    named = {keeper.settings.name: keeper for keeper in keepers}

    def answer(path: str) -> Answer:
        name = path.removeprefix("/token/")
        keeper = named.get(name) if path.startswith("/token/") else None
        if keeper is None:
            return _said(404, error=f"there are {', '.join(f'/token/{each}' for each in named)}")
        held = keeper.state.held
        if held is None or not keeper.ready:
            return _said(503, error=keeper.trouble, reason=keeper.state.refused)
        credential = held.credential
        return _said(
            200,
            token=credential.token,
            expires_in=int(held.rest(keeper.clocks)),
            expires_at=credential.expires_at.isoformat(timespec="seconds"),
            grant_id=credential.grant_id,
            scope=credential.scope,
            cluster=credential.cluster,
            server=credential.server,
            certificate_authority=credential.certificate_authority,
        )

    return answer


def admitting(settings: SocketSettings) -> Callable[[asyncio.StreamWriter], bool]:
    """Whether who connected may ask: our own user, the users and the groups of the settings."""

    def admits(writer: asyncio.StreamWriter) -> bool:
        connection = writer.get_extra_info("socket")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, gid = _CREDENTIALS.unpack(raw)
        if uid == os.geteuid() or uid in settings.uids or gid in settings.gids:
            return True
        return bool(settings.gids) and not settings.gids.isdisjoint(further_groups(connection, uid))

    return admits


def prepare(settings: SocketSettings) -> None:
    """Makes the folder of the socket, and frees its path of a socket that nobody listens on.

    Raises:
        OSError: somebody does, or it cannot be had.
    """
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    if settings.path.is_socket():
        with contextlib.suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(settings.path))
            raise OSError(0, "somebody listens there already")
        settings.path.unlink()


def opened(settings: SocketSettings) -> socket.socket:
    """The socket; whoever is to be asked who they are may connect, and nobody else."""
    made = socket.socket(socket.AF_UNIX)
    # Not with chmod, which would follow a link that somebody puts there meanwhile.
    before = os.umask(0o111 if settings.uids or settings.gids else 0o177)
    try:
        made.bind(str(settings.path))
    finally:
        os.umask(before)
    return made


def further_groups(connection: socket.socket, uid: int) -> list[int]:
    """The groups beside the first of a user who asks; none where the kernel does not say, and the log says why."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * 4)
    except OSError as error:
        many = error.errno == errno.ERANGE
        why = f"they are more than {_MOST_GROUPS}; name the user" if many else str(error)
        log.warning("groups of who asks are not known", extra={"uid": uid, "why": why})
        return []
    return array.array("I", raw).tolist()


def _said(status: int, **told: object) -> Answer:
    return Answer(status, json.dumps({name: value for name, value in told.items() if value != ""}) + "\n", _JSON)
