"""Threads and coroutines behind one face, so that one test speaks of both clients."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from exchanged.client import AsyncCredential, AsyncExchange, Credential, Exchange, Grant

Fetch = Callable[[float | None], Grant]


class Threads:
    """Callers are threads of a pool."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(16)

    def exchange(self, server: str, ca: Path, patience: float) -> Any:
        """A client."""
        return Exchange(server, ca=ca, patience=patience)

    def credential(self, fetch: Fetch, clock: Callable[[], float]) -> Any:
        """A credential of its own."""
        return Credential(fetch, clock)

    def proof(self, wait: Callable[[], str]) -> Callable[[], str]:
        """A proof that takes time."""
        return wait

    def begin(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Calls it, and waits for nothing."""
        return self._pool.submit(function, *arguments)

    def settle(self, credential: Any) -> None:
        """Returns when no renewal is under way."""
        with credential._lock:
            pass

    def end(self) -> None:
        """Returns when all of them have ended."""
        self._pool.shutdown()


class Coroutines:
    """Callers are tasks of a loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._complaints: list[dict[str, Any]] = []
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()

    def exchange(self, server: str, ca: Path, patience: float) -> Any:
        """A client."""
        return AsyncExchange(server, ca=ca, patience=patience)

    def credential(self, fetch: Fetch, clock: Callable[[], float]) -> Any:
        """A credential of its own."""

        async def awaited(within: float | None) -> Grant:
            return await asyncio.to_thread(fetch, within)

        return AsyncCredential(awaited, clock)

    def proof(self, wait: Callable[[], str]) -> Callable[[], Awaitable[str]]:
        """A proof that takes time."""
        return lambda: asyncio.to_thread(wait)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Calls it, and waits for nothing."""
        return asyncio.run_coroutine_threadsafe(function(*arguments), self._loop.result(10))

    def settle(self, credential: Any) -> None:
        """Returns when no renewal is under way."""
        self.begin(asyncio.wait, [credential._renewing]).result(10)

    def end(self) -> None:
        """Returns when the loop has ended; there must be no error that nobody looked at."""
        gc.collect()
        self._loop.result(10).call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert self._complaints == []

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: self._complaints.append(complaint))
        self._loop.set_result(loop)
        await self._stop.wait()


Kind = Threads | Coroutines
