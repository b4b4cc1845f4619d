"""Where proofs come from."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar import sources
from sidecar.model import Subject
from sidecar.sources import LARGEST, CommandSource, FileSource, GithubSource, GitlabSource, SourceFailed, SourceSettings
from sidecar.sources import source as made
from tests.issuers import FakeIssuer
from tests.lab.pki import Authority
from tests.sidecar import eventually
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

AUDIENCE = "https://exchanged.example"


async def test_a_file_is_opened_each_time(tmp_path: Path) -> None:
    """The kubelet swaps it under us."""
    file = tmp_path / "token"
    file.write_text("first\n")
    source = FileSource(file)
    assert await source.subject() == Subject(token="first")
    (tmp_path / "next").write_text("second")
    (tmp_path / "next").replace(file)
    assert await source.subject() == Subject(token="second")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no token"),
        (b" \n", "no token"),
        (b"\xff", "not text"),
        (b"a b", "one word"),
        (b"x" * (LARGEST + 1), "more than"),
    ],
)
async def test_what_is_no_token(tmp_path: Path, content: bytes, told: str) -> None:
    """It is said, and never what was found."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SourceFailed, match=told):
        await FileSource(tmp_path / "token").subject()


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is said what may be missing."""
    with pytest.raises(SourceFailed, match="is the token mounted there"):
        await FileSource(tmp_path / "token").subject()


async def test_what_would_have_to_be_waited_for_is_no_file(tmp_path: Path) -> None:
    """Nobody writes into this FIFO, and a folder is no token either."""
    os.mkfifo(tmp_path / "token")
    for path in (tmp_path / "token", tmp_path):
        with pytest.raises(SourceFailed, match="no regular file"):
            await FileSource(path).subject()


async def test_a_command() -> None:
    """What it prints."""
    assert await CommandSource(("/bin/echo", "proof")).subject() == Subject(token="proof")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such",), "cannot be run"),
        (("/bin/sh", "-c", "echo proof; exit 4"), "ended with 4"),
        (("/bin/true",), "no token"),
        (("/bin/echo", "\0"), "cannot be run"),
        (("/bin/sh", "-c", f"head -c {LARGEST * 3} /dev/zero"), "more than|ended with"),
    ],
)
async def test_a_command_that_gives_none(command: tuple[str, ...], told: str) -> None:
    """It is said why."""
    with pytest.raises(SourceFailed, match=told):
        await CommandSource(command).subject()


async def test_a_command_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, with what it started."""
    monkeypatch.setattr(sources, "SECONDS", 0.3)
    script = f"sleep 100 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(SourceFailed, match="takes longer"):
        await CommandSource(("/bin/sh", "-c", script)).subject()
    number = int((tmp_path / "pid").read_text())
    eventually(lambda: _state(number) in {"", "Z"})


async def test_a_command_that_leaves_something_in_the_background() -> None:
    """What it had printed when it ended is the token, whoever holds its standard output."""
    began = time.monotonic()
    background = "sleep 100 & echo $! >&2; echo proof; exit 0"
    read, write = os.pipe()
    with os.fdopen(read) as said:
        source = CommandSource(("/bin/sh", "-c", background.replace("&2", f"/proc/{os.getpid()}/fd/{write}")))
        assert await source.subject() == Subject(token="proof")
        assert time.monotonic() - began < sources.SECONDS / 2
        os.close(write)
        os.kill(int(said.read()), signal.SIGKILL)


def _state(number: int) -> str:
    """Of a process, as proc(5) has it; "" for none."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


ORPHANS = """
import asyncio, os
from sidecar.child import ran

async def main():
    assert await ran(("/bin/sh", "-c", "sleep 0.01 &"), stdout=2) == 0
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    assert await ran(("/bin/sh", "-c", "exit 3"), stdout=2) == 3
    try:
        print(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    except ChildProcessError:
        print("none is left")

assert os.getpid() == 1
asyncio.run(main())
"""


def test_orphans_are_buried() -> None:
    """As process 1 of a container, by the next that runs; whose end somebody waits for are not among them."""
    own = ["unshare", "--pid", "--fork", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no process namespaces for us here")
    done = subprocess.run([*own, sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("none is left\n", "")


async def test_gitlab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's variable; without one, what the job lacks."""
    monkeypatch.setenv("EXCHANGED_ID_TOKEN", "proof")
    assert await GitlabSource().subject() == Subject(token="proof")
    monkeypatch.delenv("EXCHANGED_ID_TOKEN")
    with pytest.raises(SourceFailed, match="id_tokens"):
        await GitlabSource().subject()


async def test_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner is asked for our audience, each time anew."""
    with FakeIssuer.served(tmp_path) as issuer:
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{issuer.url}/token?v=1")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", issuer.request_token)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_CA", str(issuer.certificate_authority))
        first, second = [await GithubSource(AUDIENCE).subject() for _ in range(2)]
        assert first.token != second.token
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong")
        with pytest.raises(SourceFailed, match="401"):
            await GithubSource(AUDIENCE).subject()
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(SourceFailed, match="id-token: write"):
        await GithubSource(AUDIENCE).subject()


@asynccontextmanager
async def _runner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    """A job in GitHub Actions whose runner gives this answer."""
    authority = Authority("runner")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(folder, "runner"))
    (folder / "ca.crt").write_bytes(authority.pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"https://127.0.0.1:{port}/token")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a job's")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_CA", str(folder / "ca.crt"))
        yield


async def test_an_answer_that_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a byte comes, it takes so many seconds in all."""
    stop = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stop.is_set():
            writer.write(b" ")
            await asyncio.wait({asyncio.ensure_future(stop.wait())}, timeout=0.05)
        writer.write(b"{}")

    threads = threading.active_count()
    async with _runner(tmp_path, monkeypatch, drip):
        with pytest.raises(SourceFailed, match="GitHub gives no answer within"):
            await GithubSource(AUDIENCE, 0.5).subject()
        stop.set()
        await asyncio.to_thread(eventually, lambda: threading.active_count() <= threads + 1)


@pytest.mark.parametrize("answer", [b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", b""])
async def test_an_answer_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """It is the source that failed, and it may be asked again."""

    async def broken(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with _runner(tmp_path, monkeypatch, broken):
        with pytest.raises(SourceFailed):
            await GithubSource(AUDIENCE).subject()


async def test_svids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for the daemon's audience, a certificate with its key and its trust domain's bundle, or both."""
    domain = TrustDomain("prod.example")
    identities = [Identity(path="/first"), Identity(path="/second")]
    with WorkloadApi.served(tmp_path / "api.sock", domain, identities=identities) as api:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", api.address)
        second = "spiffe://prod.example/second"
        token = await made(SourceSettings(kind="jwt-svid", spiffe_id=second), "exchanged.example:443").subject()
        assert token.token
        assert not token.certificate
        certificate = await made(SourceSettings(kind="x509-svid", spiffe_id=second), "exchanged.example:443").subject()
        assert not certificate.token
        assert certificate.certificate == api.svid(identities[1]).chain_pem
        assert certificate.roots.strip() == domain.x509_pem.strip()
        both = SourceSettings(kind="jwt-svid", certificate=True)
        subject = await made(both, "exchanged.example:443").subject()
        assert subject.token
        assert subject.key
        with pytest.raises(SourceFailed, match="no SVID"):
            await made(SourceSettings(kind="x509-svid", spiffe_id="spiffe://prod.example/third"), "e:1").subject()
    with pytest.raises(SourceFailed, match="Workload API at"):
        await made(SourceSettings(kind="x509-svid"), "e:1").subject()
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET")
    with pytest.raises(SourceFailed, match="SPIFFE_ENDPOINT_SOCKET is not set"):
        await made(SourceSettings(kind="x509-svid"), "e:1").subject()


def test_no_proof_is_shown() -> None:
    """Not where a value is printed."""
    assert "proof" not in repr(Subject(token="proof", key=b"proof"))
    assert os.environ.get("EXCHANGED_ID_TOKEN") is None
