"""`sidecar exec-credential` as kubectl runs it: a process of its own, beside a real daemon."""

import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.policies import reading
from tests.unit.sidecar_kubectl.plugin import Plugin, aged, until

API_SERVER = "https://127.0.0.1:6443"
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
HIT_SECONDS = 0.05
V1 = "client.authentication.k8s.io/v1"


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


def test_a_hit_takes_little_time(plugin: Plugin) -> None:
    """Of the processor, and at its best: others may be at work here, and make all of it slower."""
    plugin.token()
    assert any(_seconds_of(plugin) <= HIT_SECONDS for _ in range(25))


def test_runs_at_once_make_one_exchange(plugin: Plugin) -> None:
    """Whoever comes while an exchange is under way gets what came of it."""
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: plugin.token(), range(8)))
    assert len(tokens) == 1


def test_it_is_replaced_before_it_ends(plugin: Plugin) -> None:
    """With a tenth of its life left, a token is not handed out any more."""
    first = plugin.token()
    plugin.change(aged)
    assert plugin.token() != first


def test_what_the_clock_makes_of_it(plugin: Plugin) -> None:
    """An entry from the future means that the clock was set back: nobody knows what it is worth."""
    first = plugin.token()
    plugin.change(lambda told: told.update(fetched_at=time.time() + 600, expires_at=time.time() + 900))
    assert plugin.token() != first


def test_an_outage_is_borne_while_the_token_lives(plugin: Plugin) -> None:
    """With the daemon away, what is there is used, with a word about it; where nothing is, there is no token."""
    first = plugin.token()
    plugin.change(aged)
    plugin.daemon.stop()
    try:
        done = plugin.run()
        assert json.loads(done.stdout)["status"]["token"] == first
        assert "the token at hand lives for" in done.stderr
        assert "nothing listens there" in done.stderr
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
    until(lambda: plugin.run(scope="other/pods").returncode == 0)
    plugin.change(aged)
    file.unlink()
    until(lambda: plugin.run("--no-cache", scope="other/pods").returncode == 1)
    done = plugin.run(scope="other/pods")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[NO_POLICY, request" in done.stderr
    assert "ask the owner of the policy" in done.stderr
    assert plugin.entries == []


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


def test_without_a_folder_there_is_no_cache(plugin: Plugin) -> None:
    """Where nothing can be kept there are tokens all the same, and a word about it."""
    (plugin.home / ".cache").touch()
    done = plugin.run()
    assert done.returncode == 0
    assert "no cache" in done.stderr


def _live(daemon: Daemon) -> int:
    return len(daemon.json("grants", "list")["grants"])


def _seconds_of(plugin: Plugin) -> float:
    """Processor seconds of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert plugin.run().stderr == ""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
