from pathlib import Path
from typing import Any

import pytest

from exchanged.authenticate.jws import unverified
from exchanged.cli import token
from exchanged.cli.source import default_audience
from exchanged.model import PresentedToken
from exchanged.v1 import exchange_pb2 as pb
from tests.cli.command import Done, run
from tests.fixtures import Running
from tests.issuers import FakeIssuer
from tests.lab.pki import Authority


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a daemon would have been asked; it answers with nothing."""
    requests: list[Any] = []

    def called(server: str, ca: Path | None, method: str, request: Any, own: Any = None) -> Any:
        del server, ca, method, own
        requests.append(request)
        return pb.ExchangeResponse(access_token="a token")

    monkeypatch.setattr(token, "called", called)
    return requests


def _get(*options: str) -> Done:
    return run("token", "get", "--source", "stdin", *options, stdin="a proof")


@pytest.mark.parametrize(
    ("server", "audience"),
    [
        ("exchanged.example:443", "https://exchanged.example"),
        ("exchanged.example", "https://exchanged.example"),
        ("exchanged.example:8443", "https://exchanged.example:8443"),
        ("[::1]:443", "https://[::1]"),
        ("exchanged.example:4430", "https://exchanged.example:4430"),
    ],
)
def test_the_audience_of_a_server(server: str, audience: str) -> None:
    """Without being told, a daemon's audience is its URL as people write it: no port where it is that of https."""
    assert default_audience(server) == audience


@pytest.mark.parametrize(
    ("options", "audience"),
    [((), "https://exchanged.example"), (("--issuer-audience", "https://other.example"), "https://other.example")],
)
def test_what_github_is_asked_for(tmp_path: Path, asked: list[Any], options: Any, audience: str) -> None:
    """A job in GitHub Actions gets its token for the daemon's audience: the README's, or as told."""
    with FakeIssuer.served(tmp_path) as issuer:
        environment = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/token",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": issuer.request_token,
            "ACTIONS_ID_TOKEN_CA": str(issuer.certificate_authority),
        }
        done = run("token", "get", "--server", "exchanged.example:443", *options, environment=environment)
    assert (done.code, done.out) == (0, "a token\n")
    assert unverified(PresentedToken(text=asked[0].subject_token)).claims["aud"] == audience


def test_details_and_lifetime_go_into_the_request(tmp_path: Path, asked: list[Any]) -> None:
    """Authorization details in the words of RFC 9396 become the message's, from the command line and from a file."""
    text = '[{"type": "kubernetes", "apiGroups": ["apps"], "resourceNames": ["web"], "verbs": ["get"]}]'
    (tmp_path / "details.json").write_text(text)
    for given in (text, f"@{tmp_path / 'details.json'}"):
        assert _get("--authorization-details", given, "--lifetime", "2m").code == 0
    for request in asked:
        assert list(request.authorization_details) == [
            pb.AuthorizationDetail(type="kubernetes", api_groups=["apps"], resource_names=["web"], verbs=["get"])
        ]
        assert request.requested_lifetime.seconds == 120


@pytest.mark.parametrize(
    ("details", "told"),
    [
        (
            '[{"type": "kubernetes", "nonsense": ["a"]}]',
            "knows no 'nonsense'; there are namespaces, apiGroups, resources",
        ),
        ('[{"type": "kubernetes", "api_groups": ["a"]}]', "knows no 'api_groups'"),
        ('[{"type": "kubernetes", "clusterRole": "a"}]', "knows no 'clusterRole'"),
        ('[{"type": "kubernetes", "verbs": "get"}]', 'wants a list of texts for verbs: "verbs": ["…"]'),
        ('[{"type": "kubernetes", "verbs": [1]}]', "wants a list of texts for verbs"),
        ('[{"type": "kubernetes", "verbs": null}]', "wants a list of texts for verbs"),
        ('[{"verbs": ["get"]}]', 'holds objects with "type": "kubernetes"'),
        ('{"type": "kubernetes"}', "is a JSON array"),
        ('["kubernetes"]', "holds objects"),
        ("[", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("@nowhere.json", "nowhere.json cannot be read: No such file or directory"),
    ],
)
def test_details_that_say_nothing(asked: list[Any], details: str, told: str) -> None:
    """What cannot be meant is told in a sentence, and nothing is asked: narrowing is never lost or misread."""
    done = _get("--authorization-details", details)
    assert (done.code, done.out, asked) == (2, "", [])
    assert done.wrong.startswith("exchanged: --authorization-details")
    assert told in done.wrong


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--lifetime", "2 minutes"), "--lifetime is a number with s, m or h"),
        (("-o", "yaml"), "--output is token or json"),
        (("--source", "file", "--subject-token-file", "nowhere"), "nowhere cannot be read"),
        (("--source", "github"), "permissions: id-token: write"),
        (("--source", "gitlab"), "EXCHANGED_ID_TOKEN; see id_tokens"),
    ],
)
def test_wrong_usage_says_what_is_right(asked: list[Any], options: tuple[str, ...], told: str) -> None:
    """Each is told with what would have been right."""
    done = _get(*options)
    assert (done.code, told in done.wrong, asked) == (2, True, [])


def test_the_help_names_what_has_to_be_known() -> None:
    """The variable that GitLab's job needs and the audience that GitHub is asked for stand in the help."""
    told = " ".join(run("token", "get", "--help").out.split())
    for text in ("EXCHANGED_ID_TOKEN", "EXCHANGED_AUDIENCE", "https://HOST where the port is 443", "RFC 9396"):
        assert text in told


def _introspect(server: str, *options: str | Path) -> Done:
    return run("token", "introspect", "--server", server, *options, stdin="no token")


def test_a_ca_that_is_wrong_or_missing(running: Running, tmp_path: Path) -> None:
    """Whoever does not trust the daemon's certificate is told of --ca, and of a file that is none."""
    (tmp_path / "other.crt").write_bytes(Authority("other").pem)
    (tmp_path / "garbage").write_text("garbage")
    for options in ((), ("--ca", tmp_path / "other.crt")):
        done = _introspect(running.daemon.grpc, *options)
        assert (done.code, "give --ca FILE" in done.wrong) == (3, True), done.wrong
    for name, told in (("garbage", "holds no certificate (PEM)"), ("nowhere", "cannot be read: No such file")):
        done = _introspect(running.daemon.grpc, "--ca", tmp_path / name)
        assert (done.code, f"--ca {tmp_path / name} {told}" in done.wrong) == (2, True), done.wrong


def test_a_server_that_is_another(running: Running) -> None:
    """A port where nothing listens, the HTTP door, and a name that the certificate has not are told apart."""
    ca, ports = running.daemon.ca, running.daemon.ports
    for server, told in (
        ("127.0.0.1:1", "nothing listens there"),
        (f"127.0.0.1:{ports['http']}", "that is no gRPC door"),
        (f"0.0.0.0:{ports['grpc']}", "for other names"),
    ):
        done = _introspect(server, "--ca", ca)
        assert (done.code, told in done.wrong) == (3, True), done.wrong


def test_every_token_command_speaks_json(running: Running) -> None:
    """get, introspect and revoke print one JSON value each where they are asked to."""
    daemon = running.daemon
    reply = daemon.exchange(running.issuer.github_token(), cluster="prod", scope="deploy-web/rollout")
    given = reply["access_token"]
    known = {"EXCHANGED_SERVER": daemon.grpc, "EXCHANGED_CA": str(daemon.ca)}

    def told(*words: str) -> Done:
        return run("token", *words, stdin=given, environment=known)

    for_people = told("introspect")
    assert (for_people.code, for_people.out.splitlines()[1].split()) == (0, ["active", "true"])
    assert '[{"type": "kubernetes"' in for_people.out
    assert told("introspect", "-o", "json").json["active"] is True
    assert told("revoke", "-o", "json").json == {"given_back": True}
    ended = told("introspect", "-o", "json")
    assert (ended.code, ended.json.get("active", False)) == (1, False)
    again = told("revoke")
    assert (again.code, again.out, again.wrong) == (0, "", "given back\n")
