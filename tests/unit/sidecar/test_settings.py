"""What a sidecar may be told, and what it says of the rest."""

import os
from pathlib import Path

import pytest

from sidecar import command, settings_file
from sidecar.model import Ask
from sidecar.settings import CHECK_SECONDS, MODE, Settings
from sidecar.sources import PROJECTED
from sidecar.strict import Faulty

HEADER = "apiVersion: exchanged.dev/v1alpha1\nkind: Sidecar\n"
WHOLE = f"""{HEADER}
server: exchanged.example:443
source: {{type: file, path: /var/run/secrets/exchanged/token}}
tokens:
- name: prod
  cluster: prod
  scope: read-pods/pods
  lifetime: 10m
  intent: watch over it
  details: [{{type: kubernetes, namespaces: [web], apiGroups: [""], verbs: [get]}}]
  files: {{directory: /var/run/prod, namespace: web, mode: 0440, owner: 1000, group: 2000}}
  onChange:
  - {{signal: HUP, process: web}}
  - {{signal: SIGUSR1, pidFile: /run/web.pid}}
  - {{command: [/bin/reload, now]}}
  - {{url: "http://127.0.0.1:8080/reload"}}
  check: 10s
  giveBack: true
- name: test
  server: other.example:443
  source: {{type: jwt-svid, audience: https://other.example, spiffeId: spiffe://a/b, certificate: true}}
  check: 0
health: {{listen: ":8081"}}
socket: {{path: /run/s.sock, users: [1000], groups: [2000]}}
"""


def _load(tmp_path: Path, text: str, **environment: str) -> Settings:
    (tmp_path / "sidecar.yaml").write_text(text)
    return settings_file.load(tmp_path / "sidecar.yaml", environment)


def _faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(Faulty) as faulty:
        _load(tmp_path, text)
    return faulty.value.faults


def test_all_that_can_be_said(tmp_path: Path) -> None:
    """Each key arrives where it belongs, and what stands at the top holds for tokens that say nothing else."""
    made = _load(tmp_path, WHOLE)
    prod, test = made.tokens
    assert (prod.server, test.server) == ("exchanged.example:443", "other.example:443")
    assert prod.ask == Ask(
        cluster="prod",
        scope="read-pods/pods",
        details=({"type": "kubernetes", "namespaces": ["web"], "api_groups": [""], "verbs": ["get"]},),
        lifetime=600,
        intent="watch over it",
    )
    assert prod.files is not None
    assert (prod.files.mode, prod.files.owner, prod.files.group) == (0o440, 1000, 2000)
    assert [hook.signal for hook in prod.hooks] == [1, 10, 0, 0]
    assert (prod.check, prod.give_back, test.check, test.give_back) == (10, True, 0, False)
    assert (prod.source.kind, test.source.kind, test.source.certificate) == ("file", "jwt-svid", True)
    assert made.health == ("", 8081)
    assert made.socket is not None
    assert (set(made.socket.uids), set(made.socket.gids)) == ({1000}, {2000})


def test_what_holds_without_being_said(tmp_path: Path) -> None:
    """The daemon may stand in the environment; the proof is where the documentation mounts it."""
    text = f"{HEADER}tokens: [{{name: a, files: {{directory: /a}}}}]"
    environment = {"EXCHANGED_SERVER": "e:1", "EXCHANGED_CA": "/ca", "EXCHANGED_AUDIENCE": "https://e"}
    (token,) = _load(tmp_path, text, **environment).tokens
    assert (token.server, token.ca, token.source.audience) == ("e:1", Path("/ca"), "https://e")
    assert (token.source.path, token.check) == (PROJECTED, CHECK_SECONDS)
    assert token.files is not None
    assert (token.files.mode, token.files.owner, token.files.group) == (MODE, None, None)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """With its place, and what there is instead."""
    text = WHOLE.replace("cluster: prod", "clustre: prod").replace("giveBack: true", "giveBack: yes")
    text = (
        text.replace("mode: 0440", "mode: 0666")
        .replace("group: 2000", "gruop: 2000")
        .replace("lifetime: 10m", "lifetime: 10")
    )
    found = _faults(tmp_path, text)
    assert [each.split(":")[0] for each in found] == [
        "tokens[0].lifetime",
        "tokens[0].files.mode",
        "tokens[0].files.gruop",
        "tokens[0].giveBack",
        "tokens[0].clustre",
    ]
    assert "there are name" not in found[0]
    assert "unknown key; there are directory, namespace, mode, owner, group" in found[2]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("kind: Sidecar", "apiVersion: must be exchanged.dev/v1alpha1"),
        ("apiVersion: exchanged.dev/v1alpha1\nkind: Policy", "kind: must be Sidecar"),
        (HEADER, "tokens: there is none"),
        (f"{HEADER}tokens: []", "tokens: there is none"),
        (f"{HEADER}tokens: 5", "tokens: must be a list"),
        (f"{HEADER}tokens: [5]", "tokens[0]: must be a mapping"),
        ("[]", "the file: must be a mapping"),
        (f"{HEADER}server: a:1\ntokens: [{{name: a}}]", "nobody would have it"),
        (f"{HEADER}tokens: [{{name: a, files: {{directory: /a}}}}]", "tokens[0].server"),
        (f"{HEADER}server: a:1\ntokens: [{{name: A, files: {{directory: /a}}}}]", "tokens[0].name"),
        (
            f"{HEADER}server: a:1\ntokens: [{{name: a, files: {{mode: 0440}}}}]",
            "tokens[0].files.directory: is required",
        ),
        (f"{HEADER}health: {{}}", "health.listen: is required"),
        (f"{HEADER}health: {{listen: no}}", "health.listen: must be HOST:PORT"),
        (f"{HEADER}socket: {{}}", "socket.path: is required"),
        (f"{HEADER}socket: {{path: /s, users: [nobody-is-called-so]}}", "socket.users: there is no user"),
        (f"{HEADER}source: {{type: command}}", "source.command: is there with type: command"),
        (f"{HEADER}source: {{type: magic}}", "source.type: must be one of file,"),
        (f"{HEADER}source: {{type: command, command: ['']}}", "source.command: begins with a program"),
        (f"{HEADER}source: {{certificate: [x]}}", "source.certificate: must be true or false"),
        (f"{HEADER}tokens: [{{giveBack: [x]}}]", "tokens[0].giveBack: must be true or false"),
        (f"{HEADER}tokens: [{{giveBack: {{}}}}]", "tokens[0].giveBack: must be true or false"),
        (f"{HEADER}socket: {{path: /s, groups: ['4294967295']}}", "socket.groups: a group is at most"),
        (f"{HEADER}a: 1\na: 2", "a key is there twice"),
        (f"{HEADER}a: [", "is no YAML"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, wrong: str, told: str) -> None:
    """It is said, and nothing starts."""
    assert any(told in each for each in _faults(tmp_path, wrong)), told


@pytest.mark.parametrize(
    "hook",
    [
        "{}",
        "{signal: HUP}",
        "{signal: NOTHING, process: a}",
        "{signal: HUP, process: a, pidFile: /b}",
        "{process: a}",
        "{command: [a], url: 'http://a/'}",
        "{url: 'https://a/'}",
        "{command: []}",
        "{command: [' ', a]}",
        "{url: 'http://127.0.0.1:70000/x'}",
        "{url: 'http://127.0.0.1:0/x'}",
        "{url: 'http://127.0.0.1:x/'}",
        "{url: 'http://a..b/x'}",
        "{url: 'http://[::1/x'}",
        "{url: 'http://user:password@127.0.0.1/x'}",
    ],
)
def test_what_is_no_hook(tmp_path: Path, hook: str) -> None:
    """One thing, and whole."""
    text = f"{HEADER}server: a:1\ntokens: [{{name: a, files: {{directory: /a}}, onChange: [{hook}]}}]"
    assert any(each.startswith("tokens[0].onChange[0]") for each in _faults(tmp_path, text))


@pytest.mark.parametrize(
    "detail", ["{}", "{type: other}", "{type: kubernetes, verbs: get}", "{type: kubernetes, verb: [get]}"]
)
def test_details_that_are_not_understood(tmp_path: Path, detail: str) -> None:
    """They might have been meant to narrow."""
    text = f"{HEADER}server: a:1\ntokens: [{{name: a, files: {{directory: /a}}, details: [{detail}]}}]"
    assert any(each.startswith("tokens[0].details") for each in _faults(tmp_path, text))


def test_two_that_are_in_each_others_way(tmp_path: Path) -> None:
    """Names and folders are one token's."""
    tokens = "[{name: a, files: {directory: /x}}, {name: a, files: {directory: /x/}}]"
    text = f"{HEADER}server: a:1\ntokens: {tokens}"
    found = _faults(tmp_path, text)
    assert found == ["tokens: two are called a", "tokens: two write to /x"]


def _run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    try:
        code = command.main(list(flags))
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    return code, told.err + told.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "nobody would have the token: give --directory"),
        (["--directory", "/a"], "give --server HOST:PORT"),
        (["--server", "a:1", "--directory", "/a", "--lifetime", "5"], "must be a number with s, m or h"),
        (["--server", "a:1", "--directory", "/a", "--mode", "0777"], "must not let others write"),
        (
            ["--server", "a:1", "--directory", "/a", "--source", "command"],
            "--subject-token-command goes with --source command",
        ),
        (
            ["--server", "a:1", "--directory", "/a", "--source", "github", "--subject-token-file", "x"],
            "--subject-token-file goes with",
        ),
        (["--server", "a:1", "--directory", "/a", "--subject-token-command", "echo 'x"], "No closing quotation"),
        (["--server", "a:1", "--directory", "/a", "--subject-token-command", " "], "begins with a program"),
        (["--server", "a:1", "--directory", "/a", "--subject-token-command", ""], "begins with a program"),
        (["--server", "a:1", "--directory", "/a", "--owner", "9" * 5000], "a user is at most"),
        (["--server", "a:1", "--directory", "/a", "--hook", "HUP:"], "a signal goes to a process"),
        (["--server", "a:1", "--directory", "/a", "--hook", "http://127.0.0.1:70000/x"], "url is http://HOST[:PORT]"),
        (["--server", "a:1", "--directory", "/a", "--hook", "https://127.0.0.1/x"], "url is http://HOST[:PORT]"),
        (["--server", "a:1", "--directory", "/a", "--authorization-details", "{"], "is a JSON array"),
        (["--server", "a:1", "--directory", "/a", "--ca", "/no/such"], "/no/such cannot be read"),
        (["--server", "a:1", "--directory", "/a", "--ca", "/dev/null"], "holds no certificate"),
        (["--server", "a:1", "--directory", "/proc/self"], "/proc/self"),
        (["--once", "--server", "a:1", "--socket", "/s"], "--socket is for a sidecar that goes on running"),
        (["--once", "--server", "a:1", "--directory", "/a", "--hook", "x"], "--hook is for a sidecar"),
        (["--once", "--server", "a:1", "--directory", "/a", "--check", "0"], "--check is for a sidecar"),
        (["--once", "--server", "a:1", "--directory", "/a", "--give-back"], "--give-back is for a sidecar"),
        (["--once", "--server", "a:1", "--directory", "/a", "--health-listen", ":1"], "--health-listen is for"),
        (["--config", "/a", "--scope", "x"], "--scope is for one token"),
        (["--config", "/no/such"], "/no/such cannot be read"),
        (["--server", "a:1", "--dir", "/a"], "unrecognized"),
    ],
)
def test_flags_that_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], told: str
) -> None:
    """Exit code 2, with what to give instead."""
    for name in [each for each in os.environ if each.startswith("EXCHANGED_")]:
        monkeypatch.delenv(name)
    code, said = _run(capsys, *flags)
    assert code == 2
    assert told in said


def test_a_password_in_a_url_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a log collects what is said."""
    code, said = _run(capsys, "--server", "a:1", "--directory", "/a", "--hook", "http://user:geheim@127.0.0.1/x")
    assert (code, "no user or password" in said, "geheim" in said) == (2, True, False)


def test_once_wants_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For nobody is there to be asked on a socket; what else a file says for a sidecar is no fault."""
    (tmp_path / "sidecar.yaml").write_text(
        f"{HEADER}server: 127.0.0.1:1\nsocket: {{path: {tmp_path}/s}}\nhealth: {{listen: ':0'}}\n"
        f"tokens: [{{name: a, giveBack: true, files: {{directory: {tmp_path}/a}}}}, {{name: b}}]\n"
    )
    code, said = _run(capsys, "--once", "--config", str(tmp_path / "sidecar.yaml"))
    assert (code, said.strip()) == (
        2,
        "sidecar: token b: with --once nobody would have it; give it files (a directory)",
    )
    (tmp_path / "sidecar.yaml").write_text((tmp_path / "sidecar.yaml").read_text().replace(", {name: b}", ""))
    assert _run(capsys, "--once", "--wait", "0", "--config", str(tmp_path / "sidecar.yaml"))[0] == 3


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag is explained, with examples and exit codes."""
    code, said = _run(capsys, "--help")
    assert code == 0
    for words in (
        "examples:",
        "sidecar run --once",
        "exit codes: 0",
        "--give-back",
        "--health-listen",
        "EXCHANGED_SERVER",
    ):
        assert words in said
