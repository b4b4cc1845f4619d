"""The client for coroutines: as `blocking`, word for word, but that it is awaited."""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from exchanged.client import calls, kubernetes, schedule
from exchanged.client.model import Ask, Certificate, Grant, Introspection
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc

if TYPE_CHECKING:
    from kubernetes import aio

log = logging.getLogger(__name__)

Fresh = Callable[[], str | Awaitable[str]]
Token = str | Fresh
"""A subject or actor token: a text is shown once; a callable is asked for a fresh one before each try."""


class AsyncExchange:
    """The daemon at `server` (host:port of its gRPC door). For one event loop.

    Args:
        server: the door `grpc`, or `mtls`.
        ca: a file with who vouches for it, PEM; public roots do without. Read before each call.
        certificate: asked before each call for who we are at the door `mtls`.
        timeout: seconds for one try.
        patience: seconds in which what may pass is tried again, with full jitter.
    """

    def __init__(
        self,
        server: str,
        *,
        ca: str | Path | None = None,
        certificate: Callable[[], Certificate] | None = None,
        timeout: float = calls.SECONDS,
        patience: float = calls.PATIENCE,
    ) -> None:
        self._server, self._ca, self._certificate = server, ca, certificate
        self._timeout, self._patience = timeout, patience
        self._opened: tuple[bytes | None, Certificate | None, grpc.aio.Channel] | None = None
        self._closed = asyncio.Event()
        self._credentials: list[AsyncCredential] = []

    async def token(self, subject_token: Token = "", actor_token: Token = "", **ask: Unpack[Ask]) -> Grant:
        """A token for a proof of identity (RFC 8693 §2); `ask` is told at `Ask`. Without one, the certificate is it.

        Raises:
            Refused: the daemon says no.
            Unavailable: nobody did.
        """
        return await self._token(subject_token, actor_token, ask)

    async def introspect(self, token: str) -> Introspection:
        """What a token stands for, and whether it lives (RFC 7662 §2).

        Raises:
            Refused, Unavailable: it cannot be told.
        """
        request = pb.IntrospectRequest(token=token)
        return calls.introspected(await self._call("Introspect", _always(request), self._timeout, self._patience))

    async def revoke(self, token: str) -> None:
        """Gives a token back: its grant ends at once. An unknown one is no error (RFC 7009 §2.2).

        Raises:
            Refused, Unavailable: it may live still.
        """
        await self._call("Revoke", _always(pb.RevokeRequest(token=token)), self._timeout, self._patience)

    def credential(
        self, subject_token: Fresh | None = None, actor_token: Fresh | None = None, **ask: Unpack[Ask]
    ) -> "AsyncCredential":
        """A token that is renewed by itself while somebody asks for it, and given back when this client is closed."""
        subject, actor = calls.renewable(subject_token), calls.renewable(actor_token)

        async def fetch(within: float | None) -> Grant:
            return await self._token(subject, actor, ask, within)

        made = AsyncCredential(fetch)
        self._credentials.append(made)
        return made

    async def close(self) -> None:
        """Gives back what credentials hold, as far as the daemon can be reached, and lets go of the connection.

        Calls that are under way end with RuntimeError; renewals are waited for, to be given back too.
        """
        self._closed.set()
        held = await asyncio.gather(*(each.forget(calls.CLOSING_SECONDS) for each in self._credentials))
        self._credentials.clear()
        if requests := [pb.RevokeRequest(token=each.token) for each in held if each]:
            with suppress(Exception):  # where a certificate comes from is foreign code
                revoke = self._stub(closing=True).Revoke
                given_back = (revoke(each, timeout=calls.CLOSING_SECONDS) for each in requests)
                await asyncio.gather(*given_back, return_exceptions=True)
        if self._opened is not None:
            await self._opened[2].close()
            self._opened = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _token(self, subject: Token, actor: Token, ask: Ask, within: float | None = None) -> Grant:
        """Within so many seconds, in one try; or as long as it may take."""
        fresh = callable(subject) and not (isinstance(actor, str) and actor)
        patience = self._patience if within is None and (fresh or subject == "") else 0.0
        timeout = self._timeout if within is None else min(self._timeout, within)

        async def request() -> pb.ExchangeRequest:
            return calls.exchange(await _read(subject), await _read(actor), **ask)

        return calls.granted(await self._call("Exchange", request, timeout, patience))

    async def _call(
        self,
        method: str,
        request: Callable[[], Awaitable[Any]],
        timeout: float,  # noqa: ASYNC109 - gRPC ends the call by it
        patience: float,
    ) -> Any:
        until, attempt = time.monotonic() + patience, 0
        while not self._closed.is_set():
            attempt += 1
            try:
                message = await request()
                return calls.answered(await getattr(self._stub(), method)(message, timeout=timeout))
            except grpc.RpcError as error:
                failure = calls.failed(error)
                pause = schedule.pause(attempt, failure.retry_after)
                hopeless = not calls.may_pass(error, failure) or time.monotonic() + pause > until
                if hopeless and not self._closed.is_set():
                    raise failure from error
            except asyncio.CancelledError:
                # So gRPC calls a connection that is closed under a call; unless somebody did cancel this task.
                task = asyncio.current_task()
                if not self._closed.is_set() or task is None or task.cancelling():
                    raise
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closed.wait()
        raise RuntimeError(calls.CLOSED)

    def _stub(self, *, closing: bool = False) -> Any:
        """The connection; a new one where what it was opened with is not what would open it now."""
        if self._closed.is_set() and not closing:
            raise RuntimeError(calls.CLOSED)
        roots = Path(self._ca).read_bytes() if self._ca is not None else None
        certificate = self._certificate() if self._certificate is not None else None
        if self._opened is None or self._opened[:2] != (roots, certificate):
            # The old one is let go of and not closed: other tasks' calls are still on it.
            made = grpc.aio.secure_channel(self._server, calls.credentials(roots, certificate), options=calls.OPTIONS)
            self._opened = (roots, certificate, made)
        return exchange_pb2_grpc.TokenExchangeStub(self._opened[2])  # type: ignore[no-untyped-call] # generated


class AsyncCredential:
    """A token that is always good: fetched when first asked for, replaced early, one request at a time."""

    def __init__(
        self, fetch: Callable[[float | None], Awaitable[Grant]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch, self._clock = fetch, clock
        self._held = schedule.Held()
        self._renewing: asyncio.Task[Grant] | None = None
        self._closed = False

    async def grant(self) -> Grant:
        """A grant that may be used now.

        Raises:
            Refused: the daemon says no; what was there before is not used any more.
            Unavailable: there is none, and nobody said no.
            OSError: there is none, and a file cannot be read; or whatever else the source of a proof raises.
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError(calls.CLOSED)
        held, now = self._held, self._clock()
        live = held.live(now)
        if live is None:
            # Who waits may be cancelled; what is under way goes on, for the others and the next.
            renewing = self._renew_aside()
            await asyncio.wait([renewing])
            if self._closed:
                raise RuntimeError(calls.CLOSED)
            return renewing.result()
        # Who has a good one does not wait for another.
        if held.is_due(now):
            self._renew_aside()
        return live

    async def kubernetes(self) -> "aio.client.Configuration":
        """A configuration for `kubernetes.aio`: host and CA as granted, the token renewed by itself.

        Raises:
            Refused, Unavailable, OSError, RuntimeError: as `grant`.
        """
        return kubernetes.aio_configuration(await self.grant(), self.grant)

    async def forget(self, within: float) -> Grant | None:
        """Ends it: what is under way is waited for so long, and what may be used still is to be given back."""
        self._closed = True
        if self._renewing is not None:
            await asyncio.wait([self._renewing], timeout=within)
            self._renewing.cancel()
        held, self._held = self._held, schedule.Held()
        return held.live(self._clock())

    def _renew_aside(self) -> "asyncio.Task[Grant]":
        """In a task; the one that is under way, if there is one."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renewed(), name="exchanged-renewal")
            # What went wrong is held, and told to who asks when nothing lives any more.
            self._renewing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._renewing

    async def _renewed(self) -> Grant:
        if self._closed:
            raise RuntimeError(calls.CLOSED)
        held, now = self._held, self._clock()
        live = held.live(now)
        if not held.is_due(now):
            if live is not None:
                return live
            if held.failure is not None:
                raise held.failure.with_traceback(None)
        try:
            grant = await self._fetch(None if live is None else schedule.SHARE_OF_REST * held.rest(now))
        except Exception as error:  # where a proof comes from is foreign code
            held.fail(error, self._clock())
            live = held.live(self._clock())
            if live is None or self._closed:
                raise
            log.warning(
                "a cluster token could not be renewed yet", extra={"grant": live.grant_id, "detail": repr(error)}
            )
            return live
        held.replace(grant, self._clock())
        if self._closed:  # meanwhile: it is given back
            raise RuntimeError(calls.CLOSED)
        return grant


async def _read(token: Token) -> str:
    text = token() if callable(token) else token
    return (await text if inspect.isawaitable(text) else text).strip()


def _always(request: Any) -> Callable[[], Awaitable[Any]]:
    async def same() -> Any:
        return request

    return same
