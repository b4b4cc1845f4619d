"""`sidecar run`: everything is made here, runs until it is told to stop, and ends in order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sidecar import __version__, ask, health
from sidecar.advice import why
from sidecar.answers import HEAD_BYTES, Responder
from sidecar.clocks import Held
from sidecar.exchange import Daemon
from sidecar.files import Unwritable
from sidecar.hooks import Hooks
from sidecar.keeper import Keeper
from sidecar.model import ExchangeFailed
from sidecar.place import Place
from sidecar.settings import Settings, TokenSettings, authorities
from sidecar.sources import source
from sidecar.strict import Faulty

log = logging.getLogger("sidecar")

OK, REFUSED, USAGE, UNAVAILABLE = 0, 1, 2, 3
"""Exit codes, as those of `exchanged`."""
GIVE_BACK_SECONDS = 5.0
"""At the end, for all tokens; a pod has 30 in all."""
HOOKS_SECONDS = 3.0
"""After that, for hooks to be told that the files are gone."""


class Kept:
    """One token with all that belongs to it."""

    def __init__(self, settings: TokenSettings) -> None:
        self.daemon = Daemon(settings.server, _roots(settings.ca))
        self.hooks = Hooks(settings.hooks, settings.name)
        self.keeper = Keeper(
            settings=settings,
            daemon=self.daemon,
            source=source(settings.source, settings.server),
            place=Place(settings),
            changed=self._changed,
        )

    def _changed(self, event: str, held: Held) -> None:
        settings, credential = self.keeper.settings, held.credential
        told = {"event": event, "name": settings.name}
        if settings.files:
            told["directory"] = str(settings.files.directory)
        told["grant_id"] = credential.grant_id
        told["expires_at"] = credential.expires_at.isoformat(timespec="seconds")
        self.hooks.changed(told)


async def run(settings: Settings, *, once: bool, patience: float) -> int:
    """Keeps all tokens until SIGTERM or SIGINT, or has each once; the exit code.

    Raises:
        Faulty: what the settings name cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kept = [Kept(token) for token in settings.tokens]
    _adopt(kept)
    try:
        if once:
            return await _once([each.keeper for each in kept], stop, patience)
        async with _serving(settings, kept):
            log.info("started", extra={"version": __version__, "tokens": [token.name for token in settings.tokens]})
            await _keep(kept, stop)
    finally:
        for each in kept:
            each.keeper.close()
            await each.daemon.close()
    return OK


def _adopt(kept: list[Kept]) -> None:
    faults = []
    for each in kept:
        try:
            each.keeper.adopt()
        except Unwritable as error:
            faults.append(f"token {each.keeper.settings.name}: {error}")
    if faults:
        raise Faulty(faults)


async def _keep(kept: list[Kept], stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        keeping = [group.create_task(each.keeper.keep()) for each in kept]
        telling = [group.create_task(each.hooks.run()) for each in kept]
        await stop.wait()
        log.info("stopping")
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)
        await asyncio.gather(*(_give_back(each) for each in kept if each.keeper.settings.give_back))
        for task in telling:
            task.cancel()


async def _once(keepers: list[Keeper], stop: asyncio.Event, patience: float) -> int:
    everything = asyncio.ensure_future(_all(keepers, patience))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([everything, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not everything.done():
        everything.cancel()
        return UNAVAILABLE
    outcomes = everything.result()
    if "refused" in outcomes:
        return REFUSED
    return UNAVAILABLE if "unavailable" in outcomes else OK


async def _all(keepers: list[Keeper], patience: float) -> list[str]:
    return await asyncio.gather(*(keeper.once(patience) for keeper in keepers))


async def _give_back(kept: Kept) -> None:
    keeper = kept.keeper
    try:
        async with asyncio.timeout(GIVE_BACK_SECONDS):
            await keeper.give_back()
    except (ExchangeFailed, TimeoutError) as error:
        told = {"token": keeper.settings.name, "why": str(error) or "no answer in time"}
        log.warning("not given back; it ends by itself", extra=told)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOOKS_SECONDS):
            await kept.hooks.told()


@asynccontextmanager
async def _serving(settings: Settings, kept: list[Kept]) -> AsyncIterator[None]:
    """Health and the socket, where they are wanted."""
    async with AsyncExitStack() as stack:
        if settings.health:
            host, port = settings.health
            respond = Responder(health.answering([(each.keeper, each.hooks) for each in kept]))
            with _usable(f"health: {host or '*'}:{port}"):
                server = await asyncio.start_server(respond, host or None, port, limit=HEAD_BYTES)
            stack.callback(server.close)
        if settings.socket:
            respond = Responder(ask.answering([each.keeper for each in kept]), ask.admitting(settings.socket))
            with _usable(f"socket: {settings.socket.path}"):
                ask.prepare(settings.socket)
                opened = ask.opened(settings.socket)
            stack.callback(settings.socket.path.unlink, missing_ok=True)
            stack.callback((await asyncio.start_unix_server(respond, sock=opened, limit=HEAD_BYTES)).close)
        yield


@contextlib.contextmanager
def _usable(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise Faulty([f"{what}: {why(error)}"]) from error


def _roots(ca: Path | None) -> Callable[[], bytes] | None:
    """What vouches for the daemon, read for each connection: it may be renewed meanwhile."""
    if ca is None:
        return None
    try:
        authorities(ca)
    except ValueError as error:
        raise Faulty([f"ca: {error}"]) from error
    except OSError as error:
        raise Faulty([f"ca: {ca} cannot be read: {error.strerror}"]) from error
    return ca.read_bytes
