import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from exchanged.cli.main import app
from exchanged.cli.output import shown
from tests.cli.command import configuration, run
from tests.fixtures import Running

BINDINGS = {
    "mode": "bindings",
    "server": "https://managed.example",
    "credential": {"tokenFile": "token"},
    "namespaces": ["web"],
}


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_each_word_is_for(words: tuple[str, ...]) -> None:
    """Every command, argument and option has a text, and no two of a command have the same."""
    command = COMMANDS[words]
    texts = [parameter.help for parameter in command.params if parameter.name != "help"]
    assert command.help
    assert all(texts)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_can_speak_json(words: tuple[str, ...]) -> None:
    """`-o json` is understood by all but the daemon itself, whose log has a format of its own."""
    options = [option for parameter in COMMANDS[words].params for option in parameter.opts]
    assert ("-o" in options) == (words != ("serve",))


def test_help_says_how_errors_are_told() -> None:
    """The first help names the exit codes, and what becomes of errors with -o json."""
    told = " ".join(run("--help").out.split())
    for text in ("0 done, 1 refused", "Errors are a sentence on standard error", "one a line"):
        assert text in told


def test_a_cluster_is_set_up_in_json(tmp_path: Path) -> None:
    """The files that an administrator applies are names and texts, or names and paths where they were written."""
    config = configuration(tmp_path, clusters={"managed": BINDINGS}, issuers=_issuers())
    (tmp_path / "state").mkdir(mode=0o700)
    assert run("store", "new-epoch", "--config", config).code == 0, "the store is there"
    (file,) = run("cluster", "setup", "managed", "--config", config, "-o", "json").json["files"]
    assert file["name"] == "manifests.yaml"
    assert "kind: ValidatingAdmissionPolicy" in file["text"]
    common = ("cluster", "setup", "managed", "--config", config, "--output-directory", tmp_path / "made")
    path = str(tmp_path / "made" / "manifests.yaml")
    assert run(*common, "-o", "json").json == {"files": [{"name": "manifests.yaml", "path": path}]}
    assert Path(path).read_text() == file["text"]
    assert run(*common).out == f"{path}\n"


def _issuers() -> dict[str, Any]:
    return {"ci": {"type": "oidc", "issuer": "https://ci.example"}}


def test_a_cluster_cannot_be_set_up_before_the_daemon_has_its_ca(tmp_path: Path) -> None:
    """Without the CA of the daemon's state folder a sentence says where it comes from; no other one is made."""
    config = configuration(tmp_path)
    done = run("cluster", "setup", "prod", "--config", config)
    assert (done.code, done.out) == (3, "")
    assert f"{tmp_path / 'state' / 'ca' / 'ca.crt'} is not there: the daemon makes its CA when it first" in done.wrong
    assert not (tmp_path / "state").exists()


def test_a_cluster_cannot_be_set_up_without_knowing_who_vouches(tmp_path: Path) -> None:
    """A door with a certificate of somebody else's has to say whose."""
    tls = {"certificate": "a.crt", "key": "a.key"}
    doors: dict[str, Any] = {
        "grpc": {"listen": "127.0.0.1:8443", "tls": tls},
        "http": {"listen": "127.0.0.1:8444", "tls": tls},
        "authorizer": {"tls": tls},
    }
    done = run("cluster", "setup", "prod", "--config", configuration(tmp_path, doors=doors))
    assert (done.code, done.out) == (2, "")
    assert "doors.authorizer.tls.certificateAuthority says who vouches for the door; it is missing" in done.wrong
    doors["authorizer"]["tls"] = {**tls, "certificateAuthority": "nowhere.crt"}
    done = run("cluster", "setup", "prod", "--config", configuration(tmp_path, doors=doors))
    assert (done.code, f"{tmp_path / 'nowhere.crt'} is not there" in done.wrong) == (3, True)


def test_a_client_certificate_in_json(tmp_path: Path) -> None:
    """Where the certificate and its key lie, and until when it is good; the state folder is nobody else's."""
    common = ("cluster", "client-certificate", "prod", "--config", configuration(tmp_path))
    made = run(*common, "--directory", tmp_path / "made", "-o", "json").json
    assert made.keys() == {"certificate", "key", "not_after"}
    assert Path(made["key"]).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert run(*common, "--directory", tmp_path / "made").out.startswith(f"{made['certificate']} and client.key, valid")
    (tmp_path / "file").write_text("")
    done = run(*common, "--directory", tmp_path / "file")
    assert (done.code, "no certificate could be issued" in done.wrong) == (3, True)


def test_a_cluster_is_checked_beside_its_daemon(tmp_path: Path) -> None:
    """What is missing is named, with where it comes from; so is a cluster that is not there."""
    config = configuration(tmp_path)
    done = run("cluster", "check", "prod", "--config", config)
    assert (done.code, "has no signing keys; start the daemon once" in done.wrong) == (3, True)
    done = run("cluster", "check", "lost", "--config", config)
    assert (done.code, "no cluster is called 'lost'; the configuration has prod, managed" in done.wrong) == (2, True)


def test_a_new_epoch_in_json(running: Running, tmp_path: Path) -> None:
    """How many grants ended; while a daemon uses the store, and where there is none, a sentence instead."""
    config = configuration(tmp_path)
    done = run("store", "new-epoch", "--config", config)
    assert (done.code, "put the backup back first" in done.wrong) == (2, True)
    (tmp_path / "state").mkdir(mode=0o700)
    assert run("store", "new-epoch", "--config", config, "-o", "json").json == {"ended": 0}
    assert run("store", "new-epoch", "--config", config).out.startswith("0 live grants ended; subject tokens")
    done = run("store", "new-epoch", "--config", running.daemon.config, "-o", "json")
    assert (done.code, done.out, "another daemon uses" in done.wrong) == (3, "", True)


def test_a_grant_is_shown_to_people_and_to_programs(running: Running) -> None:
    """A table by default, nested values as JSON in it; JSON where it is asked for."""
    daemon = running.daemon
    grant = daemon.exchange(running.issuer.github_token(), cluster="prod", scope="deploy-web/rollout")["grant_id"]
    found = run("grants", "show", grant, "-o", "json", "--config", daemon.config).json
    assert (found["id"], found["decided"]["scope"]) == (grant, "rollout")
    table = run("grants", "show", grant, "--config", daemon.config).out
    assert table.splitlines()[0].split() == ["field", "value"]
    assert json.dumps(found["stated"]) in table
    assert "None" not in table
    assert "'" not in table


def test_what_is_nested_is_json() -> None:
    """Values for people: text is text, nothing is nothing, the rest is JSON."""
    values = ["a", None, True, 3, {"a": ["ü"]}]
    assert [shown(value) for value in values] == ["a", "", "true", "3", '{"a": ["ü"]}']


@pytest.mark.parametrize("command", [("show",), ("revoke", "--why", "a test")])
def test_a_grant_that_there_is_not(running: Running, command: tuple[str, ...]) -> None:
    """An id that nobody has is told with where ids are to be found, whatever it looks like."""
    for grant in ("nobody", "no/body?all=1"):
        done = run("grants", *command, "--config", running.daemon.config, "--", grant)
        assert (done.code, done.out) == (1, "")
        assert done.wrong == "exchanged: no such grant; `exchanged grants list --all` shows those that there are\n"


def test_no_daemon_answers(tmp_path: Path) -> None:
    """A socket that is not there is out of reach, and no daemon named at all is wrong usage."""
    done = run("status", "--socket", tmp_path / "admin.sock")
    assert (done.code, "is it running, and are you its user?" in done.wrong) == (3, True)
    done = run("status")
    assert (done.code, "Give --config, or --socket" in done.wrong) == (2, True)
