"""The Python client against a daemon, and its credentials against a cluster."""

import asyncio
import copy
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes import aio
from kubernetes.client import ApiClient, Configuration, CoreV1Api

from exchanged.client import (
    AsyncExchange,
    Certificate,
    Detail,
    Exchange,
    Reason,
    Refused,
    Unavailable,
)
from tests.daemon import Daemon
from tests.fixtures import Running
from tests.issuers import FakeIssuer
from tests.lab.worlds import World, world
from tests.policies import policy, reading
from tests.spiffe.pki import TrustDomain

SCOPE = "deploy-web/rollout"
PATIENCE_SECONDS = 30
BLOCKS = re.findall(r"```python\n(.*?)```", Path("docs/clients.md").read_text(), re.DOTALL)


@pytest.fixture
def exchange(running: Running) -> Iterator[Exchange]:
    """A client of the daemon that tests share."""
    with Exchange(running.daemon.grpc, ca=running.daemon.ca) as made:
        yield made


def _state(daemon: Daemon, grant_id: str) -> str:
    return str(daemon.json("grants", "show", grant_id)["state"])


def test_from_a_proof_to_giving_back(running: Running, exchange: Exchange) -> None:
    """A token with all that a caller needs, what it stands for, and its end."""
    grant = exchange.token(
        running.issuer.github_token,
        cluster="prod",
        scope=SCOPE,
        lifetime=timedelta(minutes=2),
        details=[Detail(verbs=["get"])],
        intent="release 7",
    )
    assert (grant.cluster, grant.scope, grant.server) == ("prod", SCOPE, "https://127.0.0.1:6443")
    assert 115 <= grant.expires_in <= 120
    assert [each.verbs for each in grant.details] == [("get",)]
    assert grant.token not in repr(grant)
    told = exchange.introspect(grant.token)
    assert (told.active, told.grant_id, told.owner, told.mode) == (
        True,
        grant.grant_id,
        "team-web@example.com",
        "authorizer",
    )
    assert told.expires_at == grant.expires_at
    exchange.revoke(grant.token)
    exchange.revoke(grant.token)
    ended = exchange.introspect(grant.token)
    assert (ended.active, ended.grant_id, ended.expires_at) == (False, "", None)


async def test_from_a_proof_to_giving_back_in_coroutines(running: Running) -> None:
    """The same, awaited; the subject token may be awaited too."""

    async def subject() -> str:
        await asyncio.sleep(0)
        return running.issuer.github_token()

    async with AsyncExchange(running.daemon.grpc, ca=running.daemon.ca) as exchange:
        grant = await exchange.token(subject, cluster="prod", scope=SCOPE)
        assert (await exchange.introspect(grant.token)).grant_id == grant.grant_id
        await exchange.revoke(grant.token)
        assert not (await exchange.introspect(grant.token)).active
        with pytest.raises(Refused) as refused:
            await exchange.token(subject, cluster="prod", scope="deploy-web/other")
        assert refused.value.reason == Reason.SCOPE_UNKNOWN


def test_a_refusal_says_why_and_which_request(running: Running, exchange: Exchange) -> None:
    """The reason is one of the constants; the id finds the record; a token for one use is not taken twice."""
    # A subject of this test's own: of each only so many refusals a minute are on record.
    token = running.issuer.github_token(sub="repo:acme/web:client")
    exchange.token(token, cluster="prod", scope=SCOPE)
    with pytest.raises(Refused) as replayed:
        exchange.token(token, cluster="prod", scope=SCOPE)
    assert (replayed.value.reason, replayed.value.retry_after) == (Reason.TOKEN_REPLAYED, None)
    assert token not in str(replayed.value)
    records = running.daemon.json("records", "list", "--limit", "200")["records"]
    assert replayed.value.request_id in str(records)
    with pytest.raises(Refused) as unknown:
        exchange.token(running.issuer.github_token, cluster="nowhere", scope=SCOPE)
    assert unknown.value.reason == Reason.CLUSTER_UNKNOWN
    assert unknown.value.metadata["oauth_error"] == "invalid_target"
    with pytest.raises(TypeError):
        exchange.token(token, namespace="web")  # type: ignore[call-arg] # what nobody knows
    with pytest.raises(TypeError, match="give a callable"):
        exchange.credential(token)  # type: ignore[arg-type] # that could not be renewed


def test_a_daemon_that_comes_later(tmp_path: Path) -> None:
    """What may pass is tried again, each time with a fresh subject token; a text is shown once."""
    asked = threading.Semaphore(0)
    with FakeIssuer.served(tmp_path / "issuer") as issuer:

        def subject() -> str:
            asked.release()
            return issuer.github_token()

        issuers = {"github": issuer.settings(profile="github")}
        clusters = {"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}}
        daemon = Daemon.make(
            tmp_path / "daemon", issuers=issuers, clusters=clusters, policies={"web.yaml": policy("deploy-web")}
        )
        # Its own CA is there when it has been there.
        daemon.start()
        daemon.stop()
        with Exchange(daemon.grpc, ca=daemon.ca, patience=PATIENCE_SECONDS) as exchange, ThreadPoolExecutor(1) as pool:
            with pytest.raises(Unavailable) as away:
                exchange.token(subject(), cluster="prod", scope=SCOPE)
            assert (away.value.reason, away.value.request_id) == ("", "")
            waiting = pool.submit(exchange.token, subject, cluster="prod", scope=SCOPE)
            for _ in range(3):
                assert asked.acquire(timeout=PATIENCE_SECONDS)
            with daemon.running():
                assert waiting.result(PATIENCE_SECONDS).cluster == "prod"


def test_a_daemon_that_cannot_answer(tmp_path: Path) -> None:
    """Keys that it cannot fetch are nobody's refusal: which it was, and when to come again, is told."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        issuer.broken = True
        daemon = Daemon.make(tmp_path / "daemon", issuers={"github": issuer.settings(profile="github")})
        try:
            daemon.start()
            with Exchange(daemon.grpc, ca=daemon.ca, patience=0) as exchange, pytest.raises(Unavailable) as told:
                exchange.token(issuer.github_token, cluster="prod", scope=SCOPE)
        finally:
            daemon.stop()
    assert (told.value.reason, told.value.retry_after) == (Reason.KEYS_UNAVAILABLE, 5)
    assert told.value.request_id


class Network:
    """Between client and daemon, until it forgets a connection: nothing arrives any more, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections: list[tuple[socket.socket, socket.socket]] = []
        self.forgotten: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends."""
        self._listening.shutdown(socket.SHUT_RDWR)
        for each in (self._listening, *itertools.chain(*self.connections)):
            each.close()

    def forget(self) -> None:
        """All connections that there are."""
        self.forgotten.update(itertools.chain(*self.connections))

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, far = self._listening.accept()[0], socket.create_connection(("127.0.0.1", self._to))
                self.connections.append((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source not in self.forgotten:
                    target.sendall(data)


def test_a_connection_that_the_network_forgot(running: Running) -> None:
    """A kept connection of which nobody knows any more costs one try, and not every one until the kernel notices."""
    network = Network(running.daemon.ports["grpc"])
    with Exchange(f"127.0.0.1:{network.port}", ca=running.daemon.ca, patience=PATIENCE_SECONDS) as exchange:
        exchange.introspect("a token")
        network.forget()
        before = time.monotonic()
        assert not exchange.introspect("a token").active
        # Ten seconds until gRPC looks, five that it waits, and the pause after.
        assert time.monotonic() - before < 18
    assert len(network.connections) == 2
    network.close()


def test_who_vouches_is_read_each_time(running: Running, tmp_path: Path) -> None:
    """A CA that is wrong, and then mended, without a new client."""
    authority = tmp_path / "ca.crt"
    with Exchange(running.daemon.grpc, ca=authority, patience=0) as exchange:
        with pytest.raises(FileNotFoundError):
            exchange.introspect("a token")
        authority.write_bytes(TrustDomain("other.example").x509_pem)
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            exchange.introspect("a token")
        authority.write_bytes(running.daemon.ca.read_bytes())
        assert not exchange.introspect("a token").active
    with pytest.raises(RuntimeError, match="closed"):
        exchange.introspect("a token")


def test_a_certificate_is_the_proof_and_may_be_renewed(tmp_path: Path) -> None:
    """At the door `mtls` no subject token is needed; another certificate has a connection of its own."""
    domain = TrustDomain("prod.example")
    (tmp_path / "bundle.json").write_text(json.dumps(domain.bundle()))
    issuers = {
        "mesh": {"type": "spiffe", "trustDomain": domain.name, "bundle": {"file": str(tmp_path / "bundle.json")}}
    }
    policies = {"agents.yaml": reading("agents", subjects=[{"issuer": "mesh", "path": "/agent/*"}])}
    daemon = Daemon.make(tmp_path / "daemon", issuers=issuers, policies=policies, doors={"mtls": {}})
    paths = ["/agent/one"]

    def certificate() -> Certificate:
        svid = domain.svid(paths[-1])
        return Certificate(chain=svid.chain_pem, key=svid.key_pem, roots=daemon.ca.read_bytes())

    with daemon.running(), Exchange(daemon.mtls, certificate=certificate) as exchange:
        grant = exchange.token(scope="agents/pods")
        assert exchange.introspect(grant.token).subject == "mesh/spiffe://prod.example/agent/one"
        paths.append("/agent/two")
        grant = exchange.token(scope="agents/pods")
        assert exchange.introspect(grant.token).subject == "mesh/spiffe://prod.example/agent/two"
        paths.append("/elsewhere")
        with pytest.raises(Refused) as refused:
            exchange.token(scope="agents/pods")
        assert refused.value.reason == Reason.NO_POLICY


def test_a_configuration_renews_its_token_and_gives_it_back(running: Running) -> None:
    """Before each request it is looked at; copies share it; at the end of the client so ends the grant."""
    with Exchange(running.daemon.grpc, ca=running.daemon.ca) as exchange:
        credential = exchange.credential(running.issuer.github_token, cluster="prod", scope=SCOPE)
        configuration = credential.kubernetes()
        copied = copy.deepcopy(configuration)
        assert (configuration.host, configuration.verify_ssl) == ("https://127.0.0.1:6443", True)
        first = credential.grant()
        assert _shown(configuration) == _shown(copied) == f"Bearer {first.token}"
        credential._held.due_at = 0
        assert _shown(configuration) == f"Bearer {first.token}"
        with credential._lock:  # the renewal that this began is over
            pass
        assert _shown(configuration) == _shown(copied) == f"Bearer {credential.grant().token}"
        second = credential.grant()
        assert second.grant_id != first.grant_id
    # What it replaced ends by itself: requests may be under way with it.
    assert _state(running.daemon, first.grant_id) == "issued"
    assert _state(running.daemon, second.grant_id) in {"revoked", "withdrawn"}
    with pytest.raises(RuntimeError, match="closed"):
        _shown(configuration)


def _shown(configuration: Configuration) -> str:
    return str(configuration.auth_settings()["BearerToken"]["value"])


@dataclass(frozen=True, slots=True)
class Lab:
    """A cluster in mode authorizer, a daemon, and an issuer whose tokens may be shown twice."""

    made: World
    issuer: FakeIssuer


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`quick/pods` is for ten seconds, `read-pods/pods` for five minutes."""
    folder = tmp_path_factory.mktemp("clients")
    with FakeIssuer.served(folder / "plain") as issuer:
        policies = {
            "quick.yaml": reading("quick", lifetime={"default": "10s", "max": "15s"}),
            "pods.yaml": reading(subjects=[{"issuer": "plain", "claims": {"sub": "somebody"}}]),
        }
        # The key is made here: two issuers that are asked for it at the same time would make two.
        issuer.token()
        issuers = {"plain": issuer.settings()}
        with world(folder, {"prod": {"mode": "authorizer"}}, policies, issuers=issuers) as made:
            yield Lab(made, issuer)


@pytest.mark.lab
async def test_pods_are_listed_across_refreshes(lab: Lab) -> None:
    """With tokens of ten seconds, threads and coroutines list pods for longer than one lives: none is denied."""
    daemon, proof, until = lab.made.daemon, lab.made.issuer.github_token, time.monotonic() + 13
    with Exchange(daemon.grpc, ca=daemon.ca) as exchange:
        async with AsyncExchange(daemon.grpc, ca=daemon.ca) as awaited:
            of_threads = exchange.credential(proof, cluster="prod", scope="quick/pods")
            of_loop = awaited.credential(proof, cluster="prod", scope="quick/pods")
            configuration = await asyncio.to_thread(of_threads.kubernetes)
            listed = await asyncio.gather(
                *(asyncio.to_thread(_list, configuration, until) for _ in range(2)),
                _list_in_loop(await of_loop.kubernetes(), until),
            )
            assert min(listed) > 20
            # One request in flight, and only when it is time: two or three tokens each.
            assert 4 <= len(daemon.json("grants", "list", "--all", "--policy", "quick")["grants"]) <= 6


@pytest.mark.lab
@pytest.mark.parametrize("block", BLOCKS)
def test_what_the_page_shows_works(lab: Lab, tmp_path: Path, block: str) -> None:
    """Each piece of Python in docs/clients.md runs as it stands, but for where the daemon and the proof are."""
    proof, script = tmp_path / "token", tmp_path / "script.py"
    proof.write_text(lab.issuer.token())
    for shown, ours in (
        ("exchanged.example:443", lab.made.daemon.grpc),
        ("/etc/exchanged/ca.crt", str(lab.made.daemon.ca)),
        ("/var/run/secrets/exchanged/token", str(proof)),
    ):
        assert shown in block
        block = block.replace(shown, ours)
    script.write_text(block)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    if "introspect" in block:
        assert lines[1] == "team-web@example.com"


def _list(configuration: Configuration, until: float) -> int:
    """How often pods were listed until then, from one thread."""
    count = 0
    with ApiClient(configuration) as client:
        while time.monotonic() < until:
            assert CoreV1Api(client).list_namespaced_pod("web").items == []
            count += 1
    return count


async def _list_in_loop(configuration: Any, until: float) -> int:
    count = 0
    async with aio.client.ApiClient(configuration) as client:
        while time.monotonic() < until:
            assert (await aio.client.CoreV1Api(client).list_namespaced_pod("web")).items == []
            count += 1
    return count
