"""The client for threads."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from exchanged.client import calls, kubernetes, schedule
from exchanged.client.model import Ask, Certificate, Grant, Introspection
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc

if TYPE_CHECKING:
    from kubernetes import client

log = logging.getLogger(__name__)

Fresh = Callable[[], str]
Token = str | Fresh
"""A subject or actor token: a text is shown once; a callable is asked for a fresh one before each try."""


class Exchange:
    """The daemon at `server` (host:port of its gRPC door). Safe for any number of threads.

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
        self._lock = threading.Lock()
        self._opened: tuple[bytes | None, Certificate | None, grpc.Channel] | None = None
        self._closed = threading.Event()
        self._credentials: list[Credential] = []

    def token(self, subject_token: Token = "", actor_token: Token = "", **ask: Unpack[Ask]) -> Grant:
        """A token for a proof of identity (RFC 8693 §2); `ask` is told at `Ask`. Without one, the certificate is it.

        Raises:
            Refused: the daemon says no.
            Unavailable: nobody did.
        """
        return self._token(subject_token, actor_token, ask)

    def introspect(self, token: str) -> Introspection:
        """What a token stands for, and whether it lives (RFC 7662 §2).

        Raises:
            Refused, Unavailable: it cannot be told.
        """
        return calls.introspected(
            self._call("Introspect", partial(pb.IntrospectRequest, token=token), self._timeout, self._patience)
        )

    def revoke(self, token: str) -> None:
        """Gives a token back: its grant ends at once. An unknown one is no error (RFC 7009 §2.2).

        Raises:
            Refused, Unavailable: it may live still.
        """
        self._call("Revoke", partial(pb.RevokeRequest, token=token), self._timeout, self._patience)

    def credential(
        self, subject_token: Fresh | None = None, actor_token: Fresh | None = None, **ask: Unpack[Ask]
    ) -> "Credential":
        """A token that is renewed by itself while somebody asks for it, and given back when this client is closed."""
        subject, actor = calls.renewable(subject_token), calls.renewable(actor_token)

        def fetch(within: float | None) -> Grant:
            return self._token(subject, actor, ask, within)

        made = Credential(fetch)
        self._credentials.append(made)
        return made

    def close(self) -> None:
        """Gives back what credentials hold, as far as the daemon can be reached, and lets go of the connection.

        Calls that are under way end with RuntimeError; renewals are waited for, to be given back too.
        """
        self._closed.set()
        for each in self._credentials:
            each.end()
        until = time.monotonic() + calls.CLOSING_SECONDS
        held = [each.forget(max(0.0, until - time.monotonic())) for each in self._credentials]
        self._credentials.clear()
        if requests := [pb.RevokeRequest(token=each.token) for each in held if each]:
            with suppress(Exception):  # where a certificate comes from is foreign code
                self._give_back(requests)
        with self._lock:
            if self._opened is not None:
                self._opened[2].close()
                self._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_back(self, requests: list[pb.RevokeRequest]) -> None:
        """All at once, in threads of our own: where none can be had, a channel with futures of gRPC never closes."""
        stub, until = self._stub(closing=True), time.monotonic() + calls.CLOSING_SECONDS

        def revoke(request: pb.RevokeRequest) -> None:
            with suppress(grpc.RpcError, ValueError):
                stub.Revoke(request, timeout=max(0.0, until - time.monotonic()))

        begun = []
        for each in requests:
            thread = threading.Thread(target=revoke, args=(each,), name="exchanged-revocation", daemon=True)
            try:
                thread.start()
                begun.append(thread)
            except RuntimeError:  # there are no more threads, as when the program ends
                revoke(each)
        for under_way in begun:
            under_way.join()

    def _token(self, subject: Token, actor: Token, ask: Ask, within: float | None = None) -> Grant:
        """Within so many seconds, in one try; or as long as it may take."""
        fresh = callable(subject) and not (isinstance(actor, str) and actor)
        patience = self._patience if within is None and (fresh or subject == "") else 0.0
        timeout = self._timeout if within is None else min(self._timeout, within)
        return calls.granted(
            self._call("Exchange", lambda: calls.exchange(_read(subject), _read(actor), **ask), timeout, patience)
        )

    def _call(self, method: str, request: Callable[[], Any], timeout: float, patience: float) -> Any:
        until, attempt = time.monotonic() + patience, 0
        while not self._closed.is_set():
            attempt += 1
            try:
                message = request()
                return getattr(self._stub(), method)(message, timeout=timeout)
            except grpc.RpcError as error:
                failure = calls.failed(error)
                pause = schedule.pause(attempt, failure.retry_after)
                hopeless = not calls.may_pass(error, failure) or time.monotonic() + pause > until
                if hopeless and not self._closed.is_set():
                    raise failure from error
            except ValueError:
                # So gRPC calls a connection that was closed between the lines above.
                if not self._closed.is_set():
                    raise
                break
            self._closed.wait(pause)
        raise RuntimeError(calls.CLOSED)

    def _stub(self, *, closing: bool = False) -> Any:
        """The connection; a new one where what it was opened with is not what would open it now."""
        roots = Path(self._ca).read_bytes() if self._ca is not None else None
        certificate = self._certificate() if self._certificate is not None else None
        with self._lock:
            if self._closed.is_set() and not closing:
                raise RuntimeError(calls.CLOSED)
            if self._opened is None or self._opened[:2] != (roots, certificate):
                # The old one is let go of and not closed: other threads' calls are still on it.
                made = grpc.secure_channel(self._server, calls.credentials(roots, certificate), options=calls.OPTIONS)
                self._opened = (roots, certificate, made)
            return exchange_pb2_grpc.TokenExchangeStub(self._opened[2])  # type: ignore[no-untyped-call] # generated


class Credential:
    """A token that is always good: fetched when first asked for, replaced early, one request at a time."""

    def __init__(self, fetch: Callable[[float | None], Grant], clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._held = schedule.Held()
        self._lock = threading.Lock()
        self._closed = False

    def grant(self) -> Grant:
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
            with self._lock:
                return self._renewed()
        # Who has a good one does not wait for another.
        if held.is_due(now) and self._lock.acquire(blocking=False):
            self._renew_aside()
        return live

    def kubernetes(self) -> "client.Configuration":
        """A configuration for the `kubernetes` package: host and CA as granted, the token renewed by itself.

        Raises:
            Refused, Unavailable, OSError, RuntimeError: as `grant`.
        """
        return kubernetes.configuration(self.grant(), self.grant)

    def end(self) -> None:
        """Nobody is shown anything any more."""
        self._closed = True

    def forget(self, within: float) -> Grant | None:
        """Ends it: what is under way is waited for so long, and what may be used still is to be given back."""
        self.end()
        over = self._lock.acquire(timeout=within)
        held, self._held = self._held, schedule.Held()
        if over:
            self._lock.release()
        return held.live(self._clock())

    def _renew_aside(self) -> None:
        """In a thread, which lets go of the lock. No exit of the program waits for it."""

        def renew() -> None:
            try:
                # What went wrong is held, and told to who asks when nothing lives any more.
                with suppress(Exception):
                    self._renewed()
            finally:
                self._lock.release()

        try:
            threading.Thread(target=renew, name="exchanged-renewal", daemon=True).start()
        except RuntimeError:  # there are no more threads, as when the program ends
            self._lock.release()

    def _renewed(self) -> Grant:
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
            grant = self._fetch(None if live is None else schedule.SHARE_OF_REST * held.rest(now))
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


def _read(token: Token) -> str:
    return (token() if callable(token) else token).strip()
