"""`make bench`: figures as ratios within one run, into build/bench.json, and as a table.

The server is one process, pinned to one core, with its durable store on a disk; load comes from another core.
"""

import http.client
import json
import os
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
from rich.console import Console
from rich.table import Table

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.clients.exec_hit import exec_cache_hit
from tests.daemon import Daemon
from tests.fixtures import JWT, TOKEN_EXCHANGE
from tests.issuers import FakeIssuer
from tests.lab.build import LOAD, built
from tests.lab.cluster import Cluster
from tests.lab.worlds import POD_READER, World, world
from tests.policies import for_repository, reading
from tests.sidecar import Sidecar
from tests.spiffe.pki import TrustDomain

SERVER_CORE, CLIENT_CORE = "0", "1"
PINNED = (
    sys.executable,
    "-c",
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])",
)
EXCHANGES = 8_000
TURNS = 4
SUBJECTS = 500
STARTS = 7
"""Of a sidecar, one after another."""
REST_SECONDS = 2.0
"""After which a sidecar has nothing to do for a while."""
TARGETS: dict[str, tuple[str, float]] = {
    "in_process_over_floor": (">=", 0.16),
    "unary_over_empty_rpc": (">=", 0.4),
    "http_over_floor": (">=", 0.12),
    "jwt_svid_over_floor": (">=", 0.2),
    "mtls_kept_over_unary": (">=", 0.9),
    "decide_100k_over_100": ("<=", 1.5),
    "bindings_grant_over_bare": ("<=", 4),
    "bindings_grants_per_s": (">=", 60),
    "revoke_p99_ms_authorizer": ("<=", 50),
    "revoke_p99_ms_bindings": ("<=", 50),
    "reload_100k_in_force_s": ("<=", 1),
    "reload_100k_longest_exchange_ms": ("<=", 50),
    "rss_mib": ("<=", 150),
    "sidecar_rss_mib": ("<=", 40),
    "sidecar_first_token_ms": ("<=", 300),
    "exec_cache_hit_ms": ("<=", 80),
    "refresh_peak_over_mean": ("<=", 3),
    "refresh_expired": ("<=", 0),
}
CLUSTER = {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}
LIMITS = {"liveGrantsPerSubject": 100_000, "liveGrants": 1_000_000}
console = Console()


def main() -> int:
    """Runs everything; 0 whatever the figures are, for noise is no failure."""
    build = Path("build").resolve()
    build.mkdir(exist_ok=True)
    load = built(LOAD)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        folder = Path(scratch)
        _in_process(figures, folder)
        _doors(figures, folder, load)
        _mutual(figures, folder, load)
        _clusters(figures, folder, load)
        _many_policies(figures, folder)
        _sidecars(figures, folder)
        _herd(figures, folder)
    (build / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    _show(figures)
    return 0


def _in_process(figures: dict[str, float], folder: Path) -> None:
    _say("the crypto floors, the exchange in process, decisions among 100 and 100,000 policies")
    figures |= _measured(folder, "rates", "svid", "decide")


def _measured(folder: Path, *what: str) -> dict[str, float]:
    """Figures of a process of its own, on the server's core."""
    command = [sys.executable, "-m", "tests.bench.inprocess", SERVER_CORE, str(folder), *what]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return told


def _doors(figures: dict[str, float], folder: Path, load: Path) -> None:
    _say("the doors: an empty RPC, unary gRPC, HTTP, the authorizer")
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = Daemon.make(
            folder / "doors",
            issuers={"github": issuer.settings(profile="github", maxLifetime="2h")},
            clusters={"prod": CLUSTER},
            policies={f"{number}.yaml": for_repository(number) for number in range(100)},
            limits=LIMITS,
        )
        try:
            daemon.start(prefix=(*PINNED, SERVER_CORE))
            daemon.wait_ready()
            call = _caller(load, folder, daemon)
            _grpc(figures, daemon, issuer, call)
            _http(figures, folder, daemon, issuer, call)
            _authorizer(figures, daemon, issuer, call)
            figures["rss_mib"] = _peak_rss(daemon)
        finally:
            daemon.kill()


def _mutual(figures: dict[str, float], folder: Path, load: Path) -> None:
    """X.509-SVIDs over connections that are kept, in turns with tokens over TLS; and a connection for each exchange."""
    _say("mutual TLS: kept connections, and new ones")
    domain = TrustDomain("prod.example")
    bundle = folder / "bundle.json"
    bundle.write_text(json.dumps(domain.bundle()))
    svid = domain.svid("/agent").write(folder, "agent")
    with FakeIssuer.served(folder / "other-issuer") as issuer:
        mesh = {"type": "spiffe", "trustDomain": domain.name, "bundle": {"file": str(bundle)}}
        agents = reading("agents", subjects=[{"issuer": "mesh", "path": "/agent"}])
        daemon = Daemon.make(
            folder / "mutual",
            issuers={"github": issuer.settings(profile="github", maxLifetime="2h"), "mesh": mesh},
            clusters={"prod": CLUSTER},
            policies={"agents.yaml": agents, **{f"{number}.yaml": for_repository(number) for number in range(100)}},
            doors={"mtls": {}},
            limits={**LIMITS, "liveGrantsPerSubject": 1_000_000},
        )
        try:
            daemon.start(prefix=(*PINNED, SERVER_CORE))
            daemon.wait_ready()
            call = _caller(load, folder, daemon)
            tokens = [_message(issuer, number).SerializeToString() for number in range(EXCHANGES)]
            bare = [pb.ExchangeRequest(audience=["prod"], scope="agents/pods").SerializeToString()] * EXCHANGES
            mutual = f"127.0.0.1:{daemon.ports['mtls']}"
            method, pair = "/exchanged.v1.TokenExchange/Exchange", tuple(map(str, svid))
            unary, kept = [], []
            for turn in range(TURNS):
                unary.append(call("grpc", daemon.grpc, method, tokens[turn::TURNS], 64))
                kept.append(call("grpc", mutual, method, bare[turn::TURNS], 64, *pair))
            figures["mtls_kept_per_s"] = _rate(kept)
            figures["mtls_kept_over_unary"] = _rate(kept) / _rate(unary)
            new = call("calls", mutual, method, bare[: EXCHANGES // 8], 16, *pair)
            figures["mtls_new_connections_per_s"] = new["per_s"]
        finally:
            daemon.kill()


def _grpc(figures: dict[str, float], daemon: Daemon, issuer: FakeIssuer, call: Callable[..., Any]) -> None:
    """Unary calls between empty ones, so that the machine's moods are in both."""
    messages = [_message(issuer, number).SerializeToString() for number in range(EXCHANGES)]
    empty, unary = [], []
    for turn in range(TURNS):
        empty.append(call("grpc", daemon.grpc, "/grpc.health.v1.Health/Check", [b""] * (EXCHANGES // TURNS), 64))
        unary.append(call("grpc", daemon.grpc, "/exchanged.v1.TokenExchange/Exchange", messages[turn::TURNS], 64))
    empty_rate, unary_rate = _rate(empty), _rate(unary)
    figures |= {
        "empty_rpc_per_s": empty_rate,
        "unary_per_s": unary_rate,
        "unary_p99_ms": statistics.median(told["p99_ms"] for told in unary),
        "unary_over_empty_rpc": unary_rate / empty_rate,
    }


def _http(
    figures: dict[str, float], folder: Path, daemon: Daemon, issuer: FakeIssuer, call: Callable[..., Any]
) -> None:
    """Exchanges between measurements of the floor, for the same reason."""
    forms = [_form(issuer, number) for number in range(EXCHANGES)]
    floors, told = [], []
    for turn in range(TURNS):
        floors.append(_measured(folder, "floor")["floor_per_s"])
        told.append(call("http", f"{daemon.url}/token", "application/x-www-form-urlencoded", forms[turn::TURNS], 64))
    rate = _rate(told)
    figures |= {
        "http_per_s": rate,
        "http_p99_ms": statistics.median(each["p99_ms"] for each in told),
        "http_over_floor": rate / statistics.harmonic_mean(floors),
    }


def _rate(told: list[dict[str, float]]) -> float:
    """Of several loads of one size, how many a second over all."""
    return statistics.harmonic_mean([each["per_s"] for each in told])


def _authorizer(figures: dict[str, float], daemon: Daemon, issuer: FakeIssuer, call: Callable[..., Any]) -> None:
    files = daemon.folder / "client"
    daemon.run("cluster", "client-certificate", "prod", "--directory", str(files))
    bodies = []
    for number in range(20):
        reply = daemon.exchange(_token(issuer, number), scope=f"repository-{number % 100}/rollout", cluster="prod")
        told = json.loads(daemon.run("token", "introspect", "-o", "json", stdin=reply["access_token"]).stdout)
        bodies.append(json.dumps(_review(told)).encode())
    url = f"https://127.0.0.1:{daemon.ports['authorizer']}/authorize"
    pair = (str(files / "client.crt"), str(files / "client.key"))
    steady = call("http", url, "application/json", bodies * 300, 8, *pair)
    full = call("http", url, "application/json", bodies * 500, 64, *pair)
    figures |= {"authorizer_p99_ms": steady["p99_ms"], "authorizer_decisions_per_s": full["per_s"]}


def _review(told: dict[str, Any]) -> dict[str, Any]:
    attributes = {"namespace": "web", "verb": "get", "group": "apps", "resource": "deployments", "name": "web"}
    spec = {
        "user": told["username"],
        "uid": told["grant_id"],
        "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={told['jti']}"]},
        "resourceAttributes": attributes,
    }
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def _clusters(figures: dict[str, float], folder: Path, load: Path) -> None:
    _say("the lab clusters: a grant until usable, revocation until the first 403")
    modes: dict[str, dict[str, Any]] = {
        "bound": {"mode": "bindings", "namespaces": ["web"], "clusterRoles": ["pod-reader"]},
        "asked": {"mode": "authorizer"},
    }
    policies = {
        "bound.yaml": reading("bound", clusters=["bound"], rules=None, clusterRole="pod-reader"),
        "asked.yaml": reading("asked", clusters=["asked"]),
    }
    with ExitStack() as stack:
        made = stack.enter_context(world(folder / "clusters", modes, policies, limits=LIMITS))
        cluster = made.clusters["bound"]
        cluster.apply(POD_READER)
        while made.daemon.json("status")["clusters"]["bound"] is not None:
            time.sleep(0.1)
        call = _caller(load, folder, made.daemon)
        method = "/exchanged.v1.TokenExchange/Exchange"
        bare, one = [], []
        for _ in range(TURNS):
            bare += _bare_token_requests(cluster, 100 // TURNS)
            one.append(call("grpc", made.daemon.grpc, method, _grants(made, "bound", 100 // TURNS), 1)["p50_ms"])
        many = call("grpc", made.daemon.grpc, method, _grants(made, "bound", 400), 16)
        figures |= {
            "bare_token_request_ms": statistics.median(bare),
            "bindings_grant_ms": statistics.median(one),
            "bindings_grant_over_bare": statistics.median(one) / statistics.median(bare),
            "bindings_grants_per_s": many["per_s"],
            "revoke_p99_ms_authorizer": _revocations(made, "asked"),
            "revoke_p99_ms_bindings": _revocations(made, "bound"),
        }


def _bare_token_requests(cluster: Cluster, count: int) -> list[float]:
    """How long each TokenRequest for an account that is there takes, in ms, over a kept connection."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [cluster.issuer], "expirationSeconds": 600},
    }
    connection = _connected(cluster)
    path = "/api/v1/namespaces/web/serviceaccounts/web/token"
    headers = {"Authorization": f"Bearer {cluster.admin_token}", "Content-Type": "application/json"}
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("POST", path, json.dumps(body), headers)
        reply = connection.getresponse()
        reply.read()
        samples.append((time.perf_counter() - began) * 1_000)
        assert reply.status == 201
    return samples


def _revocations(made: World, name: str, count: int = 100) -> float:
    """The 99th percentile, in ms, from asking for a revocation to the first 403 of a warm token."""
    cluster, samples = made.clusters[name], []
    credentials = grpc.ssl_channel_credentials(made.daemon.ca.read_bytes())
    with grpc.secure_channel(made.daemon.grpc, credentials) as channel:
        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
        connection = _connected(cluster)
        for message in _grants(made, name, count):
            reply = stub.Exchange(pb.ExchangeRequest.FromString(message), timeout=20)
            assert _status(connection, reply.access_token) == 200
            began = time.perf_counter()
            stub.Revoke(pb.RevokeRequest(token=reply.access_token), timeout=20)
            while _status(connection, reply.access_token) == 200:
                pass
            samples.append((time.perf_counter() - began) * 1_000)
    return sorted(samples)[int(0.99 * (len(samples) - 1))]


def _connected(cluster: Cluster) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cadata=cluster.ca_pem)
    return http.client.HTTPSConnection("127.0.0.1", cluster.port, context=context)


def _status(connection: http.client.HTTPSConnection, token: str) -> int:
    connection.request("GET", "/api/v1/namespaces/web/pods", headers={"Authorization": f"Bearer {token}"})
    reply = connection.getresponse()
    reply.read()
    return reply.status


def _many_policies(figures: dict[str, float], folder: Path) -> None:
    _say("100,000 policy files: memory, and a changed file while exchanges go on")
    texts = {f"{number}.yaml": for_repository(number) for number in range(100_000)}
    with FakeIssuer.served(folder / "issuer2") as issuer:
        issuers = {"github": issuer.settings(profile="github")}
        daemon = Daemon.make(
            folder / "many", issuers=issuers, policies=texts, clusters={"prod": CLUSTER}, limits=LIMITS
        )
        try:
            began = time.perf_counter()
            daemon.start(patience=600)
            figures["load_100k_policies_s"] = time.perf_counter() - began
            daemon.wait_ready()
            figures |= _reload(daemon, issuer)
            figures["rss_mib_100k_policies"] = _peak_rss(daemon)
        finally:
            daemon.kill()


def _reload(daemon: Daemon, issuer: FakeIssuer, changes: int = 5) -> dict[str, float]:
    """How long until a changed file is in force, and how long exchanges took meanwhile, beside a quiet time."""
    credentials = grpc.ssl_channel_credentials(daemon.ca.read_bytes())
    with grpc.secure_channel(daemon.grpc, credentials) as channel:
        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated

        def exchange() -> float:
            message = _message(issuer, 7)
            began = time.perf_counter()
            stub.Exchange(message, timeout=20)
            return (time.perf_counter() - began) * 1_000

        quiet = [exchange() for _ in range(200)]
        in_force, busy = [], []
        for number in range(changes):
            file = daemon.folder / "policies" / f"{1_000 + number}.yaml"
            file.write_text(file.read_text().replace("name: rollout", "name: renamed"))
            message = _message(issuer, 0)
            began = time.perf_counter()
            while time.perf_counter() - began < 20:
                busy.append(exchange())
                message.subject_token = issuer.github_token(repository_id=str(1_000 + number))
                message.scope = f"repository-{1_000 + number}/renamed"
                try:
                    stub.Exchange(message, timeout=20)
                except grpc.RpcError:
                    continue
                break
            in_force.append(time.perf_counter() - began)
    return {
        "reload_100k_in_force_s": max(in_force),
        "reload_100k_longest_exchange_ms": max(busy),
        "quiet_longest_exchange_ms": max(quiet),
    }


def _sidecars(figures: dict[str, float], folder: Path) -> None:
    """One beside a daemon that answers at once: memory at rest, and how long a workload waits for its first token."""
    _say("the sidecar, and the credential plugin with a warm cache")
    with FakeIssuer.served(folder / "issuer-of-sidecars") as issuer:
        daemon = Daemon.make(
            folder / "beside",
            issuers={"github": issuer.settings(profile="plain")},
            clusters={"prod": CLUSTER},
            policies={"pods.yaml": reading()},
        )
        with daemon.running():
            first, rss = [], []
            for number in range(STARTS):
                sidecar = Sidecar(
                    folder / f"sidecar-{number}", daemon, ("--cluster", "prod", "--scope", "read-pods/pods")
                )
                sidecar.subject_token.parent.mkdir(parents=True, exist_ok=True)
                sidecar.subject_token.write_text(issuer.github_token())
                first.append(sidecar.first_token_ms())
                time.sleep(REST_SECONDS)
                rss.append(sidecar.rss_mib())
                sidecar.stop()
            figures |= {"sidecar_first_token_ms": statistics.median(first), "sidecar_rss_mib": max(rss)}
            proofs = folder / "plugin"
            proofs.mkdir()
            figures |= exec_cache_hit(proofs, daemon, issuer, "read-pods/pods")


def _herd(figures: dict[str, float], folder: Path) -> None:
    _say("5,000 sidecars' refreshes over five minutes, with a restart of the daemon")
    command = [sys.executable, "-m", "tests.bench.refreshes", str(folder)]
    figures |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _caller(load: Path, folder: Path, daemon: Daemon) -> Callable[..., Any]:
    def call(kind: str, target: str, what: str, bodies: Iterable[bytes], in_flight: int, *pair: str) -> Any:
        file = folder / "requests"
        file.write_bytes(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
        command = [
            *PINNED,
            CLIENT_CORE,
            str(load),
            kind,
            target,
            str(daemon.ca),
            what,
            str(file),
            str(in_flight),
            *pair,
        ]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "GOMAXPROCS": "1"}
        )
        told = json.loads(done.stdout)
        if told["failed"]:
            raise AssertionError(f"{told['failed']:.0f} requests failed: {done.stderr}")
        return told

    return call


def _token(issuer: FakeIssuer, number: int) -> str:
    claims = {"repository_id": str(number % 100), "sub": f"repo:acme/{number % SUBJECTS}"}
    return issuer.github_token(**claims, exp=int(time.time()) + 3_600)


def _message(issuer: FakeIssuer, number: int) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(
        subject_token=_token(issuer, number),
        subject_token_type=JWT,
        audience=["prod"],
        scope=f"repository-{number % 100}/rollout",
    )


def _form(issuer: FakeIssuer, number: int) -> bytes:
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": _token(issuer, number),
        "subject_token_type": JWT,
        "audience": "prod",
        "scope": f"repository-{number % 100}/rollout",
    }
    return urlencode(form).encode()


def _grants(made: World, cluster: str, count: int) -> list[bytes]:
    return [
        pb.ExchangeRequest(
            subject_token=made.issuer.github_token(),
            subject_token_type=JWT,
            audience=[cluster],
            scope=f"{cluster}/pods",
        ).SerializeToString()
        for _ in range(count)
    ]


def _peak_rss(daemon: Daemon) -> float:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _say(what: str) -> None:
    print(f"Measuring {what} …", file=sys.stderr, flush=True)


def _show(figures: dict[str, float]) -> None:
    table = Table("figure", "value", "to reach", "")
    for name, value in figures.items():
        sign, target = TARGETS.get(name, ("", 0.0))
        reached = "" if not sign else "yes" if (value >= target if sign == ">=" else value <= target) else "NO"
        table.add_row(name, f"{value:,.3f}", f"{sign} {target}" if sign else "", reached)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
