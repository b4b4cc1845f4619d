"""What `sidecar exec-credential` does when something is out of reach, with a token at hand and without."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import exchange, execplugin, execplugin_ask
from sidecar.cache import Cache, Entry
from sidecar.model import Ask, Credential, Fault, Refused, Subject
from tests.unit.sidecar_kubectl.plugin import Plugin, token_of

SECONDS = 0.5
CHANGED = "The request was denied. [POLICY_CHANGED, request 7]"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user whose cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    return monkeypatch


@pytest.fixture(params=["github", "jwt-svid"])
def hung(request: pytest.FixtureRequest, tmp_path: Path, user: pytest.MonkeyPatch) -> Iterator[str]:
    """A source of which the other side takes connections and says nothing."""
    user.setattr(execplugin_ask, "SECONDS_WITH_TOKEN", SECONDS)
    path = tmp_path / "api.sock"
    with socket.create_server(("127.0.0.1", 0)) as endpoint, socket.socket(socket.AF_UNIX) as api:
        api.bind(str(path))
        api.listen()
        user.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{path}")
        user.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"https://127.0.0.1:{endpoint.getsockname()[1]}/token")
        user.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a job's")
        yield str(request.param)


def _arguments(source: str) -> list[str]:
    return ["--server=127.0.0.1:1", "--cluster=prod", "--scope=read-pods/pods", f"--source={source}"]


def _cache(arguments: list[str], rest: float, life: float = 100.0) -> Cache:
    """With a token that lives for so many seconds more, of so many."""
    cache = Cache("", *execplugin._identity(arguments))
    cache.write(Entry.of("a token", time.time() - life + rest, life))
    return cache


def test_a_source_that_hangs_is_not_waited_for(hung: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With a token that lives, kubectl waits some seconds, and then not again at once; the source is named."""
    cache = _cache(_arguments(hung), rest=15)
    started = time.time()
    assert execplugin.main(_arguments(hung)) == 0
    assert time.time() - started < SECONDS + 3
    answered, said = capfd.readouterr()
    assert token_of(answered) == "a token"
    assert {"github": "GitHub", "jwt-svid": "Workload API"}[hung] in said or f"source {hung}" in said
    assert "127.0.0.1:1" not in said
    entry = cache.read()
    assert entry is not None
    assert entry.again_at >= started + SECONDS + execplugin_ask.PAUSE


def test_a_token_that_ends_meanwhile_is_none(hung: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What was waited for too long is not handed out dead."""
    _cache(_arguments(hung), rest=SECONDS / 2)
    assert execplugin.main(_arguments(hung)) == 3
    answered, said = capfd.readouterr()
    assert answered == ""
    assert "no token is at hand" in said


@pytest.mark.parametrize(
    ("hint", "rest", "least", "most"),
    [(-1_000, 100, 10, 11), (5, 100, 10, 11), (30, 100, 30, 31), (36_000, 100, 45, 50), (36_000, 400, 60, 61)],
)
def test_a_hint_has_bounds(
    plugin: Plugin, user: pytest.MonkeyPatch, hint: int, rest: int, least: int, most: int
) -> None:
    """The daemon may say when to come again; a minute at the most, and in time to replace the token."""

    class Busy(exchange.Daemon):
        async def exchange(self, *_: Any, **__: Any) -> Credential:
            """None now."""
            raise Fault("OVERLOADED", "busy", retry_after=hint)

    for name, value in plugin.variables().items():
        user.setenv(name, value)
    user.setattr(exchange, "Daemon", Busy)
    cache = _cache(plugin.arguments(), rest=rest, life=10.0 * rest)
    started = time.time()
    assert execplugin.main(plugin.arguments()) == 0
    entry = cache.read()
    assert entry is not None
    assert least <= entry.again_at - started
    assert entry.again_at - time.time() <= most


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_policy_that_changes_is_no_refusal(
    plugin: Plugin, user: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], times: int
) -> None:
    """It is asked once more; if that is no better, the token at hand stays, and the daemon is asked later."""
    asked: list[str] = []

    class Changing(exchange.Daemon):
        async def exchange(self, ask: Ask, subject: Subject) -> Credential:
            """As while somebody writes policies."""
            asked.append(subject.token)
            if len(asked) <= times:
                raise Refused("POLICY_CHANGED", CHANGED)
            return await super().exchange(ask, subject)

    for name, value in plugin.variables().items():
        user.setenv(name, value)
    user.setattr(exchange, "Daemon", Changing)
    _cache(plugin.arguments(), rest=15)
    assert execplugin.main(plugin.arguments()) == 0
    answered, said = capfd.readouterr()
    assert len(set(asked)) == 2  # each time with a proof of its own
    assert (token_of(answered) == "a token") == (times > 1)
    told = f"{CHANGED}; the policy changed at this very moment; try again\n"
    assert said.partition(" s more; ")[2] == (told if times > 1 else "")


def test_what_is_wrong_with_a_connection_is_said(plugin: Plugin) -> None:
    """Who is asked at the wrong place, or is not trusted, is told so; trying again would not help."""
    for wrong, told in {
        "--server=127.0.0.1:1": "127.0.0.1:1 cannot be asked: nothing listens there",
        f"--server=127.0.0.1:{plugin.daemon.ports['http']}": "the server is the address of doors.grpc",
        f"--ca={plugin.issuer.certificate_authority}": "is it the right ca?",
    }.items():
        done = plugin.run(wrong)
        assert (done.returncode, done.stdout) == (3, "")
        assert told in done.stderr
        assert "ipv4:" not in done.stderr
        assert "Nothing was granted, and no token is at hand\n" in done.stderr
