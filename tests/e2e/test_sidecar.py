"""The sidecar beside a real daemon: over several lifetimes, outages, refusals and revocations."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.lab.process import free_ports
from tests.policies import reading
from tests.sidecar import Sidecar, eventually
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

SHORT, LONG = {"default": "10s", "max": "15m"}, {"default": "5m", "max": "15m"}
SUBJECTS = [{"issuer": "plain", "claims": {"sub": "deployer"}}]
MEMORY_MIB, MEMORY_WITH_SPIFFE_MIB = 40, 60
AGENT = "/agent/reporter"


@dataclass(slots=True)
class Place:
    """A daemon, and workloads whose proof may be shown again, as pods' may."""

    daemon: Daemon
    issuer: FakeIssuer
    folder: Path
    made: list[Sidecar] = field(default_factory=list)

    def sidecar(self, name: str, scope: str, *flags: str) -> Sidecar:
        """One with a subject token; it is gone with the place."""
        sidecar = Sidecar(self.folder / name, self.daemon, ("--cluster", "prod", "--scope", scope, *flags))
        self.prove(sidecar.subject_token)
        self.made.append(sidecar)
        return sidecar

    def prove(self, file: Path) -> None:
        """Puts a subject token where a sidecar looks, as a kubelet does."""
        file.parent.mkdir(exist_ok=True)
        file.write_text(self.issuer.token(sub="deployer", exp=int(time.time()) + 1800))

    def policy(self, name: str, lifetime: dict[str, str]) -> Path:
        """A policy of a test's own."""
        file = self.daemon.folder / "policies" / f"{name}.yaml"
        file.write_text(reading(name, subjects=SUBJECTS, lifetime=lifetime))
        return file

    def lives(self, token: str) -> bool:
        """What the daemon says of a token."""
        done = self.daemon.run("token", "introspect", "-o", "json", stdin=token, check=False)
        return bool(json.loads(done.stdout).get("active"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Shared; each test has a sidecar of its own, and a policy where it changes one."""
    folder = tmp_path_factory.mktemp("sidecar")
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = _daemon(folder / "daemon", issuer)
        with daemon.running():
            made = Place(daemon, issuer, folder)
            try:
                yield made
            finally:
                for sidecar in made.made:
                    sidecar.kill()


def _daemon(folder: Path, issuer: FakeIssuer) -> Daemon:
    return Daemon.make(
        folder,
        issuers={"plain": issuer.settings(singleUse=False)},
        clusters={name: {"mode": "authorizer", "server": f"https://{name}.example:6443"} for name in ("prod", "test")},
        policies={
            "short.yaml": reading("short", subjects=SUBJECTS, lifetime=SHORT, clusters=["prod", "test"]),
            "long.yaml": reading("long", subjects=SUBJECTS, lifetime=LONG),
        },
        limits={"liveGrantsPerSubject": 1000},
    )


@dataclass(slots=True)
class Reader:
    """What somebody finds who reads all files as fast as they can."""

    tokens: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def _reading(directory: Path) -> Iterator[Reader]:
    reader, done = Reader(), threading.Event()

    def loop() -> None:
        while not done.is_set():
            try:
                number = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
                found = {}
                for name in ("token", ".grant.json", "namespace", "kubeconfig"):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=number)) as file:
                        found[name] = file.read()
                os.close(number)
                plain = (directory / "token").read_text()
            except OSError as error:
                reader.wrong.append(str(error))
                continue
            grant = json.loads(found[".grant.json"])["grant_id"]
            if reader.tokens[-1:] != [plain]:
                reader.tokens.append(plain)
            if not plain or not grant or found["namespace"] != "web":
                reader.wrong.append(str(found))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield reader
    finally:
        done.set()
        thread.join()


def test_over_several_lifetimes(place: Place) -> None:
    """Fresh tokens, one after the other, each before its predecessor ends; nobody ever finds none, or half of one."""
    sidecar = place.sidecar("several", "short/pods")
    milliseconds = sidecar.first_token_ms()
    with _reading(sidecar.files) as reader:
        sidecar.until("granted", times=5)
        last = sidecar.events("granted")[-1]
        eventually(lambda: place.lives(sidecar.token() or ""))
    print(f"first token after {milliseconds:.0f} ms; {sidecar.rss_mib():.1f} MiB")
    assert reader.wrong == []
    assert len(set(reader.tokens)) == len(reader.tokens) >= 4
    assert last["scope"] == "short/pods"
    assert sidecar.rss_mib() <= MEMORY_MIB
    kubeconfig = json.loads((sidecar.files / "kubeconfig").read_text())
    assert kubeconfig["clusters"][0]["cluster"]["server"] == "https://prod.example:6443"
    token = sidecar.token()
    assert sidecar.stop() == 0
    assert sidecar.token() == token
    assert sidecar.events("expired; removed") == []
    said = sidecar.log.read_text()
    assert not any(each in said for each in reader.tokens)


def test_all_that_is_said_is_an_event(place: Place) -> None:
    """From the start to the end nothing is on standard error but lines of JSON, for collectors to read."""
    sidecar = place.sidecar("said", "long/pods", "--hook", "/bin/sh -c 'exit 3'")
    with sidecar.running():
        assert sidecar.until("started")["tokens"] == ["default"]
        sidecar.until("granted")
        sidecar.until("hook failed")
        assert sidecar.stop() == 0
    told = [json.loads(line)["event"] for line in sidecar.log.read_text().splitlines()]
    assert (told[0], told[-1]) == ("started", "stopping")


def test_a_daemon_that_is_away_for_a_moment(tmp_path: Path) -> None:
    """What lives is kept; when the daemon is back it is replaced, on a connection of its own, at once."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = _daemon(tmp_path / "daemon", issuer)
        place = Place(daemon, issuer, tmp_path)
        sidecar = place.sidecar("away", "short/pods", "--check", "1s")
        with daemon.running():
            with sidecar.running():
                sidecar.until("granted")
                token = sidecar.token()
                daemon.kill()
                sidecar.until("failed")
                assert sidecar.token() == token
                # Nobody says that it is over, but it is.
                sidecar.until("expired; removed")
                assert sidecar.token() is None
                assert sidecar.left() == set()
                daemon.start()
                sidecar.until("granted", times=2)
                assert eventually(sidecar.token) != token
            # A sidecar that starts anew while the daemon is away goes on with what the last one left.
            left = sidecar.token()
            daemon.kill()
            with sidecar.running():
                failures = len(sidecar.events("failed"))
                eventually(lambda: len(sidecar.events("failed")) > failures)
                assert sidecar.token() == left
                sidecar.until("expired; removed", times=2)
                assert sidecar.token() is None
            daemon.start()


def test_a_policy_that_is_taken_away(place: Place) -> None:
    """The files go with the daemon's no, before what is in them has ended; why, and what to do, is said."""
    file = place.policy("gone", SHORT)
    sidecar = place.sidecar("gone", "gone/pods")
    with sidecar.running():
        sidecar.until("granted")
        file.unlink()
        told = sidecar.until("refused; removed")
        assert sidecar.events("expired; removed") == []
        assert (told["reason"], told["level"]) == ("NO_POLICY", "error")
        assert told["what_to_do"].startswith("ask the owner of the policy")
        assert sidecar.left() == set()
        assert sidecar.stop() == 0


def test_a_grant_that_is_revoked(place: Place) -> None:
    """It is noticed, and another is there."""
    sidecar = place.sidecar("revoked", "long/pods", "--check", "1s")
    with sidecar.running():
        grant = sidecar.until("granted")["grant"]
        token = sidecar.token()
        place.daemon.run("grants", "revoke", grant)
        assert sidecar.until("revoked; asking for another")["grant"] == grant
        sidecar.until("granted", times=2)
        assert eventually(lambda: sidecar.token() not in {token, None})


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        ((), 0, "granted"),
        (("--scope", "nothing/pods"), 1, "request "),
        (("--mode", "rw"), 2, "permissions as chmod has them"),
        (("--server", "127.0.0.1:1", "--wait", "1s"), 3, "UNAVAILABLE"),
        (("--subject-token-file", "/no/such/token", "--wait", "1s"), 3, "is the token mounted there?"),
    ],
)
def test_once(place: Place, flags: tuple[str, ...], code: int, told: str) -> None:
    """Before a workload: the files are there, or the exit code says why not."""
    sidecar = place.sidecar(f"once-{code}-{len(flags)}", "long/pods")
    done = sidecar.once(*flags)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert (sidecar.token() is not None) == (code == 0)


def test_a_folder_has_one_sidecar(place: Place) -> None:
    """A second one says so and touches nothing; whoever comes when the first is killed goes on with what it left."""
    sidecar = place.sidecar("claimed", "long/pods")
    with sidecar.running():
        sidecar.until("granted")
        token = eventually(sidecar.token)
        second = sidecar.once()
        assert (second.returncode, "another sidecar writes there" in second.stderr) == (2, True), second.stderr
        assert sidecar.token() == token
    with sidecar.running():
        sidecar.until("going on with what an earlier run left")


def test_a_token_is_given_back(place: Place) -> None:
    """SIGTERM: exit code 0, no files, nothing that lives, and the workload is told."""
    told = place.folder / "back-told"
    hook = f"/bin/sh -c 'echo $SIDECAR_EVENT $SIDECAR_GRANT_ID >> {told}'"
    sidecar = place.sidecar("back", "long/pods", "--give-back", "--hook", hook)
    sidecar.start()
    grant = sidecar.until("granted")["grant"]
    token = eventually(sidecar.token)
    eventually(told.exists)
    assert place.lives(token)
    assert sidecar.stop() == 0
    assert not place.lives(token)
    assert sidecar.token() is None
    assert told.read_text().splitlines() == [f"granted {grant}", f"removed {grant}"]


def test_the_end_comes_quickly_while_the_daemon_is_out_of_reach(place: Place) -> None:
    """SIGTERM while nobody answers is exit code 0 all the same, with tokens to give back or not."""
    sidecar = place.sidecar("unreachable", "long/pods", "--give-back", "--server", "127.0.0.1:1")
    sidecar.start()
    sidecar.until("failed")
    began = time.monotonic()
    assert sidecar.stop() == 0
    assert time.monotonic() - began < 3


def test_the_end_comes_quickly_while_a_source_hangs(place: Place) -> None:
    """SIGTERM while the Workload API says nothing: nobody waits for it, and nothing else is said."""
    sidecar = place.sidecar("hanging", "long/pods", "--source", "jwt-svid")
    sidecar.environment["SPIFFE_ENDPOINT_SOCKET"] = f"unix://{place.folder}/hung.sock"
    with socket.socket(socket.AF_UNIX) as api:
        api.bind(f"{place.folder}/hung.sock")
        api.listen()
        api.settimeout(30)
        with sidecar.running():
            connection, _ = api.accept()
            with connection:
                began = time.monotonic()
                assert sidecar.stop() == 0
                assert time.monotonic() - began < 3
    told = [json.loads(line)["event"] for line in sidecar.log.read_text().splitlines()]
    assert told == ["started", "stopping"]


CONFIG = """
apiVersion: exchanged.dev/v1alpha1
kind: Sidecar
source: {{path: {subject}}}
tokens:
- name: one
  cluster: prod
  scope: short/pods
  files: {{directory: {folder}/one, mode: 0444, namespace: elsewhere}}
  onChange:
  - command: [/bin/sh, -c, 'echo $SIDECAR_EVENT $SIDECAR_NAME >> {folder}/told']
  giveBack: true
- name: two
  cluster: test
  scope: short/pods
- name: never
  scope: nothing/at-all
  files: {{directory: {folder}/never}}
health: {{listen: "127.0.0.1:{port}"}}
socket: {{path: {folder}/asked.sock}}
"""


def test_several_tokens_in_one_process(place: Place) -> None:
    """Each has its cluster, its files or none, its hooks; one that is refused takes nothing from the others."""
    (port,) = free_ports(1)
    folder = place.folder / "many"
    sidecar = Sidecar(folder, place.daemon, ("--config", str(folder / "sidecar.yaml")))
    place.prove(sidecar.subject_token)
    config = CONFIG.format(subject=sidecar.subject_token, folder=folder, port=port)
    (folder / "sidecar.yaml").write_text(config)
    place.made.append(sidecar)
    with sidecar.running():
        sidecar.until("granted", times=2)
        sidecar.until("refused")
        assert (folder / "one" / "namespace").read_text() == "elsewhere"
        assert (folder / "one" / "token").stat().st_mode & 0o777 == 0o444
        assert _asked(folder / "asked.sock", "/token/one")["token"] == (folder / "one" / "token").read_text()
        assert _asked(folder / "asked.sock", "/token/two")["server"] == "https://test.example:6443"
        assert _asked(folder / "asked.sock", "/token/never")["error"]
        assert not (folder / "never" / "token").exists()
        assert eventually(lambda: (folder / "told").exists() and (folder / "told").read_text()) == "granted one\n"
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/healthz").status_code == 200
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, ready.text.startswith("never: ")) == (503, True)
        assert 'sidecar_token_ready{token="two"} 1' in httpx.get(f"{url}/metrics").text
        (folder / "sidecar.yaml").write_text(config.replace("never", "other").replace("nothing/at-all", "long/pods"))
        assert sidecar.stop() == 0
        assert not (folder / "asked.sock").exists()
        sidecar.start()
        assert eventually(lambda: _status(f"{url}/readyz") == 200)
        assert sidecar.rss_mib() <= MEMORY_MIB


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.ConnectError:
        return 0


def _asked(path: Path, what: str) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"GET {what} HTTP/1.1\r\nHost: sidecar\r\n\r\n".encode())
        raw = b""
        while more := connection.recv(65536):
            raw += more
    return json.loads(raw.partition(b"\r\n\r\n")[2])


def test_by_svids(tmp_path: Path) -> None:
    """A JWT-SVID, and an X.509-SVID at the door mtls that is renewed meanwhile, are proofs as good as a file."""
    domain = TrustDomain("prod.example")
    own, agent = Identity(path="/exchanged", dns=("localhost",)), Identity(path=AGENT)
    subjects = [{"issuer": "mesh", "path": "/agent/*"}]
    with (
        WorkloadApi.served(tmp_path / "daemon.sock", domain, identities=[own]) as daemons,
        WorkloadApi.served(tmp_path / "agent.sock", domain, identities=[agent]) as agents,
    ):
        daemon = Daemon.make(
            tmp_path / "daemon",
            issuers={"mesh": {"type": "spiffe", "trustDomain": domain.name}},
            policies={"agents.yaml": reading("agents", subjects=subjects, lifetime=SHORT)},
            doors={name: {"svid": True} for name in ("grpc", "http", "authorizer", "mtls")},
            workloadApi={"socket": daemons.address},
        )
        (tmp_path / "bundle.pem").write_bytes(domain.x509_pem)
        environment = {"SPIFFE_ENDPOINT_SOCKET": agents.address, "EXCHANGED_CA": ""}
        usual = ("--scope", "agents/pods", "--check", "1s")
        certificate = (*usual, "--source", "x509-svid", "--server", daemon.mtls)
        token = (*usual, "--source", "jwt-svid", "--issuer-audience", daemon.url)
        at = ("--ca", str(tmp_path / "bundle.pem"), "--server", f"localhost:{daemon.ports['grpc']}")
        first = Sidecar(tmp_path / "x509", daemon, certificate, environment)
        second = Sidecar(tmp_path / "jwt", daemon, (*token, *at), environment)
        with daemon.running(), first.running(), second.running():
            first.until("granted")
            second.until("granted")
            agents.rotate_svid()
            first.until("granted", times=3)
            second.until("granted", times=2)
            assert first.events("failed") == second.events("failed") == []
            print(f"x509-svid {first.rss_mib():.1f} MiB, jwt-svid {second.rss_mib():.1f} MiB")
            assert max(first.rss_mib(), second.rss_mib()) <= MEMORY_WITH_SPIFFE_MIB
            assert (first.stop(), second.stop()) == (0, 0)
