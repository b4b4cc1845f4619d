import json
import subprocess
from pathlib import Path
from typing import Any

from tests.cli.command import Done, configuration, run
from tests.daemon import COMMAND
from tests.fixtures import Running


def _told(running: Running, *words: str) -> Done:
    return run(*words, environment={"EXCHANGED_CONFIG": running.daemon.config})


def _granted(running: Running, subject: str) -> str:
    """A grant of a subject of its own, so that nobody else's is ended."""
    token = running.issuer.github_token(sub=subject)
    return str(running.daemon.exchange(token, cluster="prod", scope="deploy-web/rollout")["grant_id"])


def test_grants_are_listed_and_ended(running: Running) -> None:
    """List, revoke and revoke-subject say what they did, to people and to programs."""
    first, second, third = (_granted(running, "repo:acme/listed") for _ in range(3))
    common = ("grants", "list", "--subject", "repo:acme/listed")
    assert [grant["id"] for grant in _told(running, *common, "-o", "json").json["grants"]] == [third, second, first]
    older = _told(running, *common, "--before", third, "--limit", "1", "-o", "json").json["grants"]
    assert [grant["id"] for grant in older] == [second]
    assert first in _told(running, *common).out
    revoked = _told(running, "grants", "revoke", first, "-o", "json")
    assert (revoked.code, revoked.json["ended"], revoked.json["grant"]["id"]) == (0, True, first)
    again = _told(running, "grants", "revoke", first)
    assert (again.code, "was over already" in again.out) == (1, True)
    ended = _told(running, "grants", "revoke-subject", "github", "repo:acme/listed", "-o", "json").json["ended"]
    assert sorted(ended) == sorted([second, third])
    assert _told(running, *common).wrong == "no grants\n"
    assert _told(running, *common, "--all", "-o", "json").json["grants"][0]["state"] == "withdrawn"


def test_records_are_listed(running: Running) -> None:
    """The last ones without --after and --grant, the first ones with; a table for people."""
    grant = _granted(running, "repo:acme/recorded")
    records = _told(running, "records", "list", "--grant", grant, "-o", "json").json["records"]
    assert [record["kind"] for record in records] == ["intended", "issued"]
    first = _told(running, "records", "list", "--grant", grant, "--limit", "1", "-o", "json").json["records"]
    assert first == records[:1]
    after = str(records[0]["sequence"])
    later = _told(running, "records", "list", "--after", after, "--limit", "1", "-o", "json").json["records"]
    assert later[0]["sequence"] == records[0]["sequence"] + 1
    last = _told(running, "records", "list", "--limit", "1", "-o", "json").json["records"]
    assert last[0]["sequence"] >= records[1]["sequence"]
    assert "deploy-web/rollout at prod for github/repo:acme/recorded" in _told(running, "records", "list").out


def test_records_are_followed_an_object_a_line(running: Running) -> None:
    """`records follow -o json` writes each record on a line of its own, as it is written."""
    words = [str(COMMAND), "records", "follow", "--config", str(running.daemon.config), "-o", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        before: Any = json.loads(following.stdout.readline())
        grant = _granted(running, "repo:acme/followed")
        while (record := json.loads(following.stdout.readline()))["grant_id"] != grant:
            assert record["sequence"] > before["sequence"]
        following.terminate()
    assert record["kind"] == "intended"


def test_status_is_told(running: Running) -> None:
    """What listens and what is in force, to people and to programs."""
    told = _told(running, "status", "-o", "json").json
    assert (told["ready"], told["policies"]["count"], told["listening"]["grpc"]) == (True, 2, running.daemon.grpc)
    assert "2 in force, 0 faults" in _told(running, "status").out


def test_a_refusal_says_what_to_do(running: Running, tmp_path: Path) -> None:
    """The reason and the request's id, what the daemon adds, and one line on what to do; nothing on standard output."""
    (tmp_path / "job.jwt").write_text(running.issuer.github_token())
    common = ("token", "get", "--server", running.daemon.grpc, "--ca", str(running.daemon.ca), "-o", "json")
    done = run(*common, "--subject-token-file", tmp_path / "job.jwt", "--scope", "nothing")
    assert (done.code, done.out) == (1, "")
    assert "[SCOPE_UNKNOWN, request " in done.wrong
    assert "  The policy has no such scope.\n" in done.wrong
    (tmp_path / "job.jwt").write_text(running.issuer.github_token())
    done = run(
        *common, "--subject-token-file", tmp_path / "job.jwt", "--scope", "deploy-web/rollout", "--lifetime", "1h"
    )
    assert "  max_lifetime: 900s\n" in done.wrong


def test_a_faulty_configuration_stops_every_command(tmp_path: Path) -> None:
    """Each command that needs the configuration says what is wrong with it, by line; one that is not there is usage."""
    (tmp_path / "bad.yaml").write_text("kind: Configuration\n")
    done = run("status", "--config", tmp_path / "bad.yaml")
    assert (done.code, f"{tmp_path / 'bad.yaml'}:1: apiVersion: is required" in done.wrong) == (1, True)
    done = run("status", "--config", tmp_path / "nowhere.yaml")
    assert (done.code, "cannot be read" in done.wrong) == (2, True)


def test_a_door_that_cannot_be_served_is_told_with_where_to_look(tmp_path: Path) -> None:
    """A certificate that is none stops the daemon with a sentence, and with the command that finds out."""
    (tmp_path / "garbage").write_text("garbage")
    tls = {"certificate": "garbage", "key": "garbage"}
    config = configuration(tmp_path, doors={"authorizer": {"listen": "127.0.0.1:0", "tls": tls}})
    done = subprocess.run(
        [COMMAND, "serve", "--config", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, f"`exchanged config check {config}` may know more" in done.stderr) == (3, True)
    assert "Traceback" not in done.stderr
