"""`sidecar exec-credential` as kubectl runs it: a process of its own, beside a real daemon."""

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.policies import reading

COMMAND = Path(sysconfig.get_path("scripts")) / "sidecar"
API_SERVER = "https://127.0.0.1:6443"
PATIENCE_SECONDS = 10
NOT_FOR_A_HIT = {
    "asyncio",
    "argparse",
    "dataclasses",
    "grpc",
    "hashlib",
    "ssl",
    "socket",
    "typing",
    "sidecar.execplugin_ask",
}
V1 = "client.authentication.k8s.io/v1"


@dataclass(slots=True)
class Plugin:
    """A user with a cache folder, who runs the plugin for one ask."""

    daemon: Daemon
    issuer: FakeIssuer
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *more: str, info: Any = None, scope: str = "read-pods/pods") -> subprocess.CompletedProcess[str]:
        """Runs it as kubectl does; `info` is KUBERNETES_EXEC_INFO."""
        command: list[str | Path] = [
            COMMAND,
            "exec-credential",
            f"--server={self.daemon.grpc}",
            f"--ca={self.daemon.ca}",
        ]
        command += ["--cluster=prod", f"--scope={scope}", "--source=github", *more]
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer.url}/token",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.issuer.request_token,
            "ACTIONS_ID_TOKEN_CA": str(self.issuer.certificate_authority),
            "EXCHANGED_AUDIENCE": self.issuer.audience,
            **({"KUBERNETES_EXEC_INFO": info if isinstance(info, str) else json.dumps(info)} if info else {}),
            **self.environment,
        }
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def token(self, *more: str, **options: Any) -> str:
        """The token that it gives."""
        done = self.run(*more, **options)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["status"]["token"])

    @property
    def entry(self) -> Path:
        """The one file with a token in its cache."""
        (found,) = (file for file in (self.home / ".cache" / "exchanged").iterdir() if not file.suffix)
        return found

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Its entry as it would be in other circumstances."""
        told = json.loads(self.entry.read_text())
        change(told)
        self.entry.write_text(json.dumps(told))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeIssuer]]:
    """A daemon of this module's own, which its tests stop and start."""
    folder = tmp_path_factory.mktemp("plugin")
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = Daemon.make(
            folder / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            policies={
                "pods.yaml": reading(),
                "brief.yaml": reading("brief", lifetime={"default": "60s", "max": "60s"}),
            },
            limits={"liveGrantsPerSubject": 10_000},
        )
        with daemon.running():
            yield daemon, issuer


@pytest.fixture
def plugin(served: tuple[Daemon, FakeIssuer], tmp_path: Path) -> Plugin:
    """A user whose cache is empty."""
    return Plugin(*served, home=tmp_path)


def _aged(told: dict[str, Any]) -> None:
    """With a tenth of its life left."""
    age = 0.9 * (told["expires_at"] - told["fetched_at"])
    told["fetched_at"] -= age
    told["expires_at"] -= age
    told["boot_seconds"] -= age


def _unchecked(told: dict[str, Any]) -> None:
    told["checked_at"] -= 60


def _info(server: str = API_SERVER, **more: Any) -> dict[str, Any]:
    spec = {"interactive": False, "cluster": {"server": server}}
    return {"apiVersion": V1, "kind": "ExecCredential", "spec": spec, **more}


@pytest.mark.parametrize(("scope", "life", "early"), [("read-pods/pods", 300, 30), ("brief/pods", 60, 6)])
def test_what_client_go_reads(plugin: Plugin, scope: str, life: int, early: int) -> None:
    """An ExecCredential of version v1 with a token, and an end that is a little before the grant's."""
    started = time.time()
    done = plugin.run(scope=scope, info=_info())
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["apiVersion"], told["kind"], set(told)) == (V1, "ExecCredential", {"apiVersion", "kind", "status"})
    assert set(told["status"]) == {"token", "expirationTimestamp"}
    ends = datetime.strptime(told["status"]["expirationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert life - early - 2 <= ends.timestamp() - started <= life - early + 5


def test_the_second_run_makes_no_exchange(plugin: Plugin) -> None:
    """The token comes from the cache, which is the user's alone; another ask has another token."""
    assert plugin.token() == plugin.token()
    assert plugin.entry.stat().st_mode & 0o777 == 0o600
    assert plugin.token() != plugin.token("--lifetime=2m")
    assert plugin.token() != plugin.token("--no-cache")


def test_a_hit_imports_next_to_nothing(plugin: Plugin) -> None:
    """It is waited for at each start of kubectl: no event loop, no gRPC, no TLS, and not the parser of options."""
    plugin.token()
    plugin.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    imported = {line.rsplit("|", 1)[1].strip() for line in plugin.run().stderr.splitlines() if "|" in line}
    assert "sidecar.cache" in imported
    assert imported & NOT_FOR_A_HIT == set()


def test_runs_at_once_make_one_exchange(plugin: Plugin) -> None:
    """Whoever comes while an exchange is under way gets what came of it."""
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: plugin.token(), range(8)))
    assert len(tokens) == 1


def test_it_is_replaced_before_it_ends(plugin: Plugin) -> None:
    """With a tenth of its life left, a token is not handed out any more."""
    first = plugin.token()
    plugin.change(_aged)
    assert plugin.token() != first


def test_what_the_clock_makes_of_it(plugin: Plugin) -> None:
    """An entry from the future means that the clock was set back: nobody knows what it is worth."""
    first = plugin.token()
    plugin.change(lambda told: told.update(fetched_at=time.time() + 600, expires_at=time.time() + 900))
    assert plugin.token() != first


def test_an_outage_is_borne_while_the_token_lives(plugin: Plugin) -> None:
    """With the daemon away, what is there is used, with a word about it; where nothing is, there is no token."""
    first = plugin.token()
    plugin.change(_aged)
    plugin.daemon.stop()
    try:
        done = plugin.run()
        assert json.loads(done.stdout)["status"]["token"] == first
        assert "the token at hand lives for" in done.stderr
        assert plugin.run().stderr == ""  # the next one does not try again at once
        plugin.entry.unlink()
        done = plugin.run()
        assert (done.returncode, done.stdout) == (3, "")
        assert "Nothing was granted" in done.stderr
    finally:
        plugin.daemon.start()
        plugin.daemon.wait_ready()
    plugin.token()


def test_a_refusal_ends_what_is_there(plugin: Plugin) -> None:
    """Who may not any more has no token from the cache, and is told why and what to do."""
    file = plugin.daemon.folder / "policies" / "other.yaml"
    file.write_text(reading("other"))
    _until(lambda: plugin.run(scope="other/pods").returncode == 0)
    plugin.change(_aged)
    file.unlink()
    _until(lambda: plugin.run("--no-cache", scope="other/pods").returncode == 1)
    done = plugin.run(scope="other/pods")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[NO_POLICY, request" in done.stderr
    assert "ask the owner of the policy" in done.stderr
    assert [file for file in (plugin.home / ".cache" / "exchanged").iterdir() if not file.suffix] == []


def test_a_token_does_not_go_to_another_api_server(plugin: Plugin) -> None:
    """A kubeconfig whose cluster is not the grant's gets nothing, also when the grant is in the cache; it ends."""
    plugin.token(info=_info(f"{API_SERVER}/"))
    before = _live(plugin.daemon)
    done = plugin.run(info=_info("https://elsewhere.example:6443"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "https://elsewhere.example:6443, but the grant is for prod" in done.stderr
    assert "exchanged kubeconfig" in done.stderr
    assert _live(plugin.daemon) == before


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (_info(apiVersion="client.authentication.k8s.io/v1beta1"), f"write apiVersion: {V1}"),
        ("{", "is no JSON"),
        ("[]", f"write apiVersion: {V1}"),
        ("[" * 100_000, "is no JSON"),
        ({"apiVersion": V1, "spec": "x"}, "has no spec.cluster"),
        ({"apiVersion": V1, "spec": {"cluster": [1]}}, "has no spec.cluster"),
    ],
)
def test_what_is_not_understood_is_said(plugin: Plugin, info: Any, message: str) -> None:
    """Another version of the contract, or none at all, is wrong usage."""
    done = plugin.run(info=info)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_who_is_answered_401_gets_another_token(plugin: Plugin) -> None:
    """client-go asks again after a 401: a token that was revoked is replaced, for whoever asks next as well."""
    first = plugin.token()
    plugin.change(_unchecked)
    assert plugin.token() == first  # it lives; the daemon said so
    plugin.daemon.run("token", "revoke", stdin=first)
    assert plugin.token() == first  # the daemon is not asked each time
    plugin.change(_unchecked)
    second = plugin.token()
    assert second != first
    assert plugin.token() == second


def test_another_proof_is_another_token(plugin: Plugin, tmp_path: Path) -> None:
    """A token is for whom the proof is of: with another proof in its file there is another exchange."""
    file = tmp_path / "proof"
    file.write_text(plugin.issuer.github_token())
    own = ("--source=file", f"--subject-token-file={file}")
    first = plugin.token(*own)
    assert plugin.token(*own) == first
    file.write_text(plugin.issuer.github_token())
    assert plugin.token(*own) != first
    file.write_text("nothing")
    assert plugin.run(*own).returncode == 1
    file.unlink()
    done = plugin.run(*own)
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be read" in done.stderr


def test_without_a_folder_there_is_no_cache(plugin: Plugin) -> None:
    """Where nothing can be kept there are tokens all the same, and a word about it."""
    (plugin.home / ".cache").touch()
    done = plugin.run()
    assert done.returncode == 0
    assert "no cache" in done.stderr


def _live(daemon: Daemon) -> int:
    return len(daemon.json("grants", "list")["grants"])


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
