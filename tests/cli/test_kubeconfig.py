from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.execplugin_options import options
from tests.cli.command import Done, run
from tests.fixtures import Running

API_SERVER = "https://prod.example:6443"
NOTHING_ASKED = ("--server", "daemon.example:443", "--cluster", "prod", "--api-server", API_SERVER)


def _kubeconfig(running: Running, *more: str, scope: str = "read-pods/pods") -> Done:
    environment: dict[str, str | Path] = {
        "EXCHANGED_SERVER": running.daemon.grpc,
        "EXCHANGED_CA": running.daemon.ca,
        "EXCHANGED_AUDIENCE": running.issuer.audience,
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{running.issuer.url}/token",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": running.issuer.request_token,
        "ACTIONS_ID_TOKEN_CA": str(running.issuer.certificate_authority),
    }
    return run("kubeconfig", "--scope", scope, *more, environment=environment)


def _exec(text: str) -> dict[str, Any]:
    (user,) = yaml.safe_load(text)["users"]
    found: dict[str, Any] = user["user"]["exec"]
    return found


def test_it_is_for_the_cluster_that_the_daemon_names(running: Running) -> None:
    """Server and namespace are those of the grant; the plugin is the sidecar, which never asks a person."""
    done = _kubeconfig(running)
    assert done.code == 0
    told = yaml.safe_load(done.out)
    assert told["clusters"] == [{"name": "prod", "cluster": {"server": "https://127.0.0.1:6443"}}]
    assert told["contexts"] == [{"name": "prod", "context": {"cluster": "prod", "user": "prod", "namespace": "web"}}]
    assert told["current-context"] == "prod"
    plugin = _exec(done.out)
    assert (plugin["apiVersion"], plugin["command"]) == ("client.authentication.k8s.io/v1", "sidecar")
    assert (plugin["interactiveMode"], plugin["provideClusterInfo"]) == ("Never", True)
    assert "PATH" in plugin["installHint"]


def test_names_are_written_in_full(running: Running) -> None:
    """What is unambiguous today is asked for by its whole name, lest another policy make it ambiguous tomorrow."""
    told = options(_exec(_kubeconfig(running, scope="pods").out)["args"][1:])
    assert (told.ask.cluster, told.ask.scope) == ("prod", "read-pods/pods")


def test_it_holds_no_secret(running: Running) -> None:
    """Neither the proof nor a token is in it, and the grant that it was learned by is over."""
    live = _live(running)
    done = _kubeconfig(running, "--intent", "a kubeconfig")
    assert "eyJ" not in done.out
    assert running.issuer.request_token not in done.out
    assert _live(running) == live
    ended = running.daemon.json("grants", "list", "--all", "--limit", "1")["grants"]
    assert [grant["stated"]["intent"] for grant in ended] == ["a kubeconfig"]


def test_the_plugin_is_told_all_that_was_told_here(tmp_path: Path) -> None:
    """Each option reaches the plugin as it was meant, files by their whole path."""
    details = tmp_path / "details.json"
    details.write_text('[{"type": "kubernetes", "apiGroups": [""], "verbs": ["get"]}]')
    done = run(
        "kubeconfig", *NOTHING_ASKED, "--scope", "read-pods/pods", "--subject-token-file",
        str(tmp_path / "proof"), "--authorization-details", f"@{details}", "--intent", "look after it", "--lifetime",
        "90s", "--issuer-audience", "https://daemon.example", "--spiffe-id", "spiffe://a.example/b",
    )  # fmt: skip
    subcommand, *arguments = _exec(done.out)["args"]
    assert subcommand == "exec-credential"
    told = options(arguments)
    assert (told.server, told.proof, told.cached) == ("daemon.example:443", str(tmp_path / "proof"), True)
    assert (told.ask.cluster, told.ask.scope, told.ask.lifetime) == ("prod", "read-pods/pods", 90)
    assert told.ask.intent == "look after it"
    assert told.ask.details == ({"type": "kubernetes", "api_groups": [""], "verbs": ["get"]},)
    assert (told.source.audience, told.source.spiffe_id) == ("https://daemon.example", "spiffe://a.example/b")
    assert not told.source.certified


@pytest.mark.parametrize("source", [("--source", "jwt-svid", "--certificate"), ("--source", "x509-svid")])
def test_a_trust_domain_vouches_for_the_daemon(source: tuple[str, ...]) -> None:
    """As it does here; the plugin has its bundle with its certificate."""
    told = _exec(run("kubeconfig", *NOTHING_ASKED, "--ca", "spiffe", *source).out)["args"][1:]
    assert "--ca=spiffe" in told
    assert (options(told).source.certified, options(told).roots) == (True, None)


def test_a_command_is_a_source_too() -> None:
    """Whoever has their proof from a program of their own names it."""
    done = run("kubeconfig", *NOTHING_ASKED, "--subject-token-command", "my-token --for 'us all'")
    told = options(_exec(done.out)["args"][1:])
    assert (told.source.kind, told.source.command) == ("command", ("my-token", "--for", "us all"))


def test_a_command_is_run_to_learn_the_cluster(running: Running, tmp_path: Path) -> None:
    """It prints the proof, here as in the plugin."""
    proof = tmp_path / "proof"
    proof.write_text(running.issuer.github_token())
    done = _kubeconfig(running, "--subject-token-command", f"cat {proof}")
    assert (done.code, done.wrong) == (0, "")
    done = _kubeconfig(running, "--subject-token-command", "cat /nowhere")
    assert done.code == 2
    assert "cat /nowhere" in done.wrong


def test_where_the_cluster_is_can_be_told(running: Running, tmp_path: Path) -> None:
    """With the API server's URL nothing is exchanged; its CA comes along as it is."""
    pem = running.daemon.ca.read_text()
    ca = tmp_path / "ca.crt"
    ca.write_text(pem)
    done = run("kubeconfig", *NOTHING_ASKED, "--certificate-authority", ca, "-n", "web", "-o", "json")
    (cluster,) = done.json["clusters"]
    assert cluster["cluster"]["server"] == API_SERVER
    assert b64decode(cluster["cluster"]["certificate-authority-data"]).decode() == pem
    assert done.json["contexts"][0]["context"]["namespace"] == "web"


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_it_is_written_to_a_file(tmp_path: Path, output: str) -> None:
    """In the form that was asked for, and nothing is printed."""
    file = tmp_path / "kubeconfig"
    done = run("kubeconfig", *NOTHING_ASKED, "--output-file", file, "-o", output)
    assert (done.code, done.out) == (0, "")
    assert yaml.safe_load(file.read_text())["kind"] == "Config"
    assert (output == "json") == file.read_text().startswith("{")
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    """A kubeconfig of all clusters of a person stays as it is, unless they say that it may go; a link to it stays."""
    file, link = tmp_path / "config", tmp_path / "link"
    file.write_text("precious: yes")
    link.symlink_to(file)
    for name in (file, link):
        done = run("kubeconfig", *NOTHING_ASKED, "--output-file", name)
        assert (done.code, done.out, file.read_text()) == (2, "", "precious: yes")
        assert f"KUBECONFIG={name}:OTHER kubectl config view --flatten" in done.wrong
        assert "--force" in done.wrong
    done = run("kubeconfig", *NOTHING_ASKED, "--output-file", link, "--force")
    assert (done.code, done.out, link.is_symlink()) == (0, "", True)
    assert yaml.safe_load(file.read_text())["kind"] == "Config"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [file, link]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "stdin"), "a plugin has no standard input"),
        (("--scope", "read-pods/pods"), "a plugin has no standard input"),  # which is what auto comes to
        ((*NOTHING_ASKED, "--ca", "spiffe"), "give --ca FILE"),
        ((*NOTHING_ASKED, "--subject-token-file", "proof", "--certificate"), "name --source jwt-svid"),
        ((*NOTHING_ASKED, "--subject-token-command", "proof", "--certificate"), "name --source jwt-svid"),
        (("--api-server", API_SERVER), "Add --cluster NAME"),
        (("-o", "toml"), "yaml or json"),
        ((*NOTHING_ASKED, "--lifetime", "soon"), "--lifetime is a number"),
        ((*NOTHING_ASKED, "--authorization-details", "[{}]"), '"type": "kubernetes"'),
        ((*NOTHING_ASKED, "--certificate-authority", "/nowhere"), "--certificate-authority /nowhere cannot be read"),
        ((*NOTHING_ASKED, "--output-file", "/nowhere/kubeconfig"), "there is no folder /nowhere"),
        ((*NOTHING_ASKED, "--output-file", "/dev/null", "--force"), "/dev/null is not a file"),
        (("--subject-token-file", "/nowhere"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_said(options: tuple[str, ...], message: str) -> None:
    """Wrong usage ends with a sentence, and no kubeconfig that would fail later."""
    done = run("kubeconfig", *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.wrong


def test_a_refusal_is_told(running: Running) -> None:
    """Who gets no token gets no kubeconfig either."""
    done = _kubeconfig(running, scope="read-pods/nothing")
    assert (done.code, done.out) == (1, "")
    assert "SCOPE_UNKNOWN" in done.wrong


def _live(running: Running) -> int:
    return len(running.daemon.json("grants", "list", "--limit", "1000")["grants"])
