"""What `sidecar exec-credential` does when the cache has no answer: an exchange, one for all who wait for it."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidecar.advice import advice, cause
from sidecar.cache import Cache, Entry
from sidecar.execplugin import answer, asker, doubtful
from sidecar.execplugin_options import Options, options
from sidecar.model import Credential, ExchangeFailed, Fault, Refused, Subject
from sidecar.schedule import LONGEST_PAUSE, SHARE_OF_REST
from sidecar.sources import SECONDS, SourceFailed, source

if TYPE_CHECKING:
    from sidecar.exchange import Daemon

PATIENCE = 25.0
"""Seconds for another run's exchange; then this one asks too."""
SECONDS_WITH_TOKEN = 5.0
"""For the source, and for the daemon, where there is a token that lives."""
PAUSE = 10.0
"""Seconds, at the least, before the daemon is asked again after it was out of reach; the token at hand is good."""
_REFUSED, _UNAVAILABLE = 1, 3
_HTTPS = 443


def run(arguments: list[str], cache: Cache, api_server: str) -> int:
    """The command; its exit code."""
    told = options(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if not told.cached:
        return _Asking(told, None, api_server).run()
    try:
        lock = cache.locked(PATIENCE)
    except OSError as error:
        _say(f"no cache: {error}")
        return _Asking(told, None, api_server).run()
    with lock:
        return _Asking(told, cache, api_server).run()


class _Asking:
    """One run that has the lock, or needs none."""

    def __init__(self, told: Options, cache: Cache | None, api_server: str) -> None:
        self._told = told
        self._cache = cache
        self._api_server = api_server

    def run(self) -> int:
        """Answers with what another run left meanwhile, with a new token, or with the one that still lives."""
        now = time.time()
        entry = self._living(now)
        try:
            if entry is not None and entry.fresh(now) and self._doubted(entry, now):
                entry = self._checked(entry, now)
            if entry is None or not entry.fresh(now):
                entry = self._exchanged(now, within=SECONDS_WITH_TOKEN if entry else None)
        except Refused as refused:
            if self._cache:
                self._cache.remove()
            _say(f"{refused.message}\n  {advice(refused.reason)}" if refused.reason else refused.message)
            return _REFUSED
        except (Fault, SourceFailed) as fault:
            entry = self._borne(fault, entry)
            if entry is None:
                return _UNAVAILABLE
        answer(entry, time.time())
        return 0

    def _borne(self, fault: Fault | SourceFailed, entry: Entry | None) -> Entry | None:
        """The token at hand, if it lives now; nobody is asked for a while. Says what is wrong and what to do."""
        failed = time.time()
        what, to_do = self._wrong(fault)
        if entry is None or entry.rest(failed) <= 0:
            _say(f"{what}\n  Nothing was granted, and no token is at hand{to_do and '; '}{to_do}")
            return None
        _say(f"the token at hand lives for {entry.rest(failed):.0f} s more; {what}{to_do and '; '}{to_do}")
        entry.checked_at = failed
        hint = getattr(fault, "retry_after", None) or 0.0
        entry.again_at = failed + max(PAUSE, min(hint, LONGEST_PAUSE, SHARE_OF_REST * entry.rest(failed)))
        self._keep(entry)
        return entry

    def _wrong(self, fault: Fault | SourceFailed) -> tuple[str, str]:
        """What went wrong, and what to do if that does not say it."""
        if isinstance(fault, SourceFailed):
            return str(fault), ""
        if fault.reason:
            return fault.message, advice(fault.reason)
        known = cause(fault.message)
        return f"{self._told.server} cannot be asked: {known or fault.message}", "" if known else "try again"

    def _living(self, now: float) -> Entry | None:
        entry = self._cache.read() if self._cache else None
        return entry if entry is not None and entry.rest(now) > 0 else None

    def _doubted(self, entry: Entry, now: float) -> bool:
        return self._cache is not None and doubtful(self._cache, entry, now)

    def _checked(self, entry: Entry, now: float) -> Entry | None:
        """The same, if the daemon says that it lives."""
        if asyncio.run(self._lives(entry.token)):
            entry.checked_at = now
            self._keep(entry)
            return entry
        if self._cache:
            self._cache.remove()
        return None

    def _exchanged(self, now: float, within: float | None) -> Entry:
        credential, shown = asyncio.run(self._exchange(within))
        entry = Entry.of(credential.token, now, credential.seconds, self._told.proof, shown)
        self._keep(entry)
        return entry

    def _keep(self, entry: Entry) -> None:
        if self._cache is None:
            return
        try:
            self._cache.write(entry)
            self._cache.had(asker(), entry)
        except OSError as error:
            _say(f"the token is not kept: {error}")

    async def _exchange(self, within: float | None) -> tuple[Credential, str]:
        """What the daemon gives, and the subject token that it gives it for."""
        from sidecar.exchange import Daemon  # noqa: PLC0415 - grpc, for who has to ask

        daemon = Daemon(self._told.server, self._told.roots)
        try:
            credential, subject = await self._granted(daemon, within)
            if self._api_server and not _same(self._api_server, credential.server):
                with contextlib.suppress(ExchangeFailed):
                    await daemon.give_back(credential.token, subject)
                raise Refused(
                    "",
                    f"the kubeconfig's cluster is {self._api_server}, but the grant is for {credential.cluster}, "
                    f"which is {credential.server}: a token goes to its own cluster alone, so none is given. "
                    "Write the kubeconfig anew with `exchanged kubeconfig` [API_SERVER_DIFFERS]",
                )
            return credential, subject.token
        finally:
            await daemon.close()

    async def _granted(self, daemon: "Daemon", within: float | None) -> tuple[Credential, Subject]:
        """A grant, and the proof that it is for; asked for once more where the policy changed meanwhile."""
        changed = None
        for _ in range(2):
            subject = await self._subject(within)
            try:
                async with _patience(within):
                    return await daemon.exchange(self._told.ask, subject), subject
            except Refused as refused:
                if refused.reason != "POLICY_CHANGED":
                    raise
                changed = refused
        raise Fault("POLICY_CHANGED", str(changed)) from changed

    async def _lives(self, token: str) -> bool:
        from sidecar.exchange import Daemon  # noqa: PLC0415 - as above

        daemon = Daemon(self._told.server, self._told.roots)
        try:
            subject = await self._subject(SECONDS_WITH_TOKEN) if self._told.source.certified else Subject()
            async with _patience(SECONDS_WITH_TOKEN):
                return await daemon.lives(token, subject)
        finally:
            await daemon.close()

    async def _subject(self, within: float | None) -> Subject:
        """The proof."""
        kind = self._told.source.kind
        try:
            async with asyncio.timeout(within):
                return await source(self._told.source, self._told.server, within or SECONDS).subject()
        except TimeoutError as error:
            raise SourceFailed(f"source {kind} has no proof within {within:g} s; does what it asks hang?") from error


@contextlib.asynccontextmanager
async def _patience(within: float | None) -> AsyncIterator[None]:
    """A daemon that does not answer in time is one that is out of reach."""
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError as error:
        raise Fault("", f"no answer within {within:g} s") from error


def _same(one: str, other: str) -> bool:
    """Whether two URLs are of the same API server."""
    return _parts(one) == _parts(other)


def _parts(url: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _HTTPS, parts.path.rstrip("/")
    except ValueError:
        return "", url, 0, ""


def _say(what: str) -> None:
    sys.stderr.write(f"exec-credential: {what}\n")
