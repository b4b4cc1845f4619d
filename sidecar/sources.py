"""Where the proof of who asks comes from, had anew for each exchange."""

import asyncio
import errno
import functools
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sidecar.advice import why
from sidecar.child import printed
from sidecar.model import Subject

T = TypeVar("T")

PROJECTED = Path("/var/run/secrets/exchanged/token")
"""Where the documentation mounts a projected service account token."""
GITLAB_VARIABLE = "EXCHANGED_ID_TOKEN"
"""The name that the documentation gives to a job's token under `id_tokens`."""
SOCKET_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
"""Where the Workload API is (SPIFFE_Workload_Endpoint §4)."""
LARGEST = 64 * 1024
"""Bytes of a token; a tenth of it would be a long one."""
SECONDS = 20.0
"""For a command, and for any answer from outside."""
KINDS = ("file", "jwt-svid", "x509-svid", "github", "gitlab", "command")


class SourceFailed(Exception):
    """There is no proof now; the message says what to do. What was granted before holds on."""


class Source(Protocol):
    """Where a proof comes from."""

    async def subject(self) -> Subject:
        """The proof, as it is now.

        Raises:
            SourceFailed: there is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Which source, and what it needs.

    Attributes:
        kind: one of KINDS.
        path: of a token, for kind file.
        command: that prints a token; no shell reads it.
        audience: for whom GitHub or the Workload API makes a token out.
        spiffe_id: which SVID, where there are several.
        certificate: a JWT-SVID goes over the workload's own certificate.
    """

    kind: str = "file"
    path: Path = PROJECTED
    command: tuple[str, ...] = ()
    audience: str = ""
    spiffe_id: str = ""
    certificate: bool = False

    @property
    def certified(self) -> bool:
        """Whether the connection is opened with the workload's certificate."""
        return self.certificate or self.kind == "x509-svid"


def source(settings: SourceSettings, server: str, seconds: float = SECONDS) -> Source:
    """The source, for a daemon at `server` (host:port); what a thread waits for takes so many seconds at most."""
    audience = settings.audience or f"https://{server.removesuffix(':443')}"
    match settings.kind:
        case "file":
            return FileSource(settings.path)
        case "command":
            return CommandSource(settings.command)
        case "gitlab":
            return GitlabSource()
        case "github":
            return GithubSource(audience, seconds)
        case "jwt-svid":
            return SvidSource(audience, settings.spiffe_id, settings.certified, seconds)
        case "x509-svid":
            return SvidSource("", settings.spiffe_id, settings.certified, seconds)
    raise ValueError(f"no source is called {settings.kind!r}; there are {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file that somebody else keeps fresh: a projected service account token, a JWT-SVID from a helper."""

    path: Path

    async def subject(self) -> Subject:
        """What the file holds now: the kubelet swaps it, so it is opened each time."""
        try:
            raw = read_file(self.path)
        except OSError as error:
            raise SourceFailed(f"{self.path} cannot be read: {error.strerror}; is the token mounted there?") from error
        return Subject(token=_token(raw, str(self.path)))


@dataclass(frozen=True, slots=True)
class GitlabSource:
    """A GitLab job's token, which is in its environment from the start."""

    async def subject(self) -> Subject:
        """The token of the job."""
        told = os.environ.get(GITLAB_VARIABLE, "")
        return Subject(token=_token(told.encode(), f"the variable {GITLAB_VARIABLE}; see id_tokens in the job"))


@dataclass(frozen=True, slots=True)
class GithubSource:
    """The runner of a GitHub Actions job."""

    audience: str
    seconds: float = SECONDS

    async def subject(self) -> Subject:
        """A token of the job, for our audience."""
        from sidecar.github import id_token  # noqa: PLC0415 - in CI alone

        try:
            raw = await _aside(functools.partial(id_token, self.audience, self.seconds), self.seconds, "GitHub")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceFailed(f"GitHub gives no token: {error}") from error
        return Subject(token=_token(raw.encode(), "GitHub's answer"))


@dataclass(frozen=True, slots=True)
class CommandSource:
    """A command that prints a token."""

    command: tuple[str, ...]

    async def subject(self) -> Subject:
        """What it has printed when it ends."""
        try:
            async with asyncio.timeout(SECONDS):
                code, raw = await printed(self.command, LARGEST)
        except TimeoutError as error:
            raise SourceFailed(f"{self.command[0]} takes longer than {SECONDS:g} s") from error
        except (OSError, ValueError) as error:
            raise SourceFailed(f"{self.command[0]} cannot be run: {why(error)}") from error
        if code and len(raw) <= LARGEST:
            raise SourceFailed(f"{self.command[0]} ended with {code}; what it says is above")
        return Subject(token=_token(raw, f"what {self.command[0]} prints"))


@dataclass(frozen=True, slots=True)
class SvidSource:
    """The Workload API; `audience` is whom a JWT-SVID is for, "" for none."""

    audience: str
    spiffe_id: str
    certificate: bool
    seconds: float = SECONDS

    async def subject(self) -> Subject:
        """The SVIDs as they are now."""
        from sidecar.svid import subject  # noqa: PLC0415 - its library is large

        asking = functools.partial(
            subject, self.audience, self.spiffe_id, certificate=self.certificate, seconds=self.seconds
        )
        return await _aside(asking, self.seconds, "the Workload API")


def read_file(path: Path) -> bytes:
    """What a file holds, as far as a token goes and a byte more; what would have to be waited for (a FIFO) is none.

    Raises:
        OSError: it cannot be read.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return os.read(number, LARGEST + 1)
    finally:
        os.close(number)


async def _aside(work: Callable[[], T], seconds: float, who: str) -> T:
    """What a thread finds, which nobody waits for: not longer than so many seconds, and not at the end."""
    found: Future[T] = Future()
    found.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits has it
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    finding = asyncio.wrap_future(found)
    try:
        if not (await asyncio.wait({finding}, timeout=seconds))[0]:
            raise SourceFailed(f"{who} gives no answer within {seconds:g} s")
        return await finding
    finally:
        finding.cancel()


def _token(raw: bytes, where: str) -> str:
    if len(raw) > LARGEST:
        raise SourceFailed(f"more than {LARGEST} bytes in {where}: that is no token")
    try:
        token = raw.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise SourceFailed(f"no token in {where}: it is not text") from error
    if not token:
        raise SourceFailed(f"no token in {where}")
    if any(each.isspace() for each in token):
        raise SourceFailed(f"no token in {where}: there is more than one word")
    return token
