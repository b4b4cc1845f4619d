import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.door import Answer, Door, door
from tests.ci.pipeline import FOLDER, TEMPLATE, GitlabJob, component
from tests.ci.runner import mode
from tests.daemon import Daemon
from tests.fixtures import Running
from tests.issuers import FakeIssuer
from tests.lab.build import tool
from tests.lab.pki import Authority
from tests.policies import policy

NUMBERS = itertools.count(1)
CLUSTER = Authority("prod")
SUBJECTS = [{"issuer": "gitlab", "claims": {"project_id": "20"}}]


@pytest.fixture(scope="module")
def gitlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon that trusts a GitLab."""
    folder = tmp_path_factory.mktemp("gitlab")
    (folder / "prod.crt").write_bytes(b'# Issuer: CN="prod"\nCertificate:\n    Data:\n' + CLUSTER.pem)
    prod = {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = Daemon.make(
            folder / "daemon",
            issuers={"gitlab": issuer.settings(profile="gitlab")},
            clusters={"prod": {**prod, "certificateAuthority": str(folder / "prod.crt")}},
            policies={"web.yaml": policy("deploy-web", subjects=SUBJECTS)},
        )
        with daemon.running():
            yield Running(daemon, issuer)


@pytest.fixture
def between(tmp_path: Path, gitlab: Running) -> Iterator[Door]:
    """A door before the daemon's."""
    with door(tmp_path / "door", gitlab.daemon) as made:
        yield made


def _job(
    folder: Path,
    running: Running,
    changes: dict[str, str] | None = None,
    *,
    interpreter: str = "sh",
    by: Door | None = None,
) -> GitlabJob:
    inputs = {
        "server": by.url if by else running.daemon.url,
        "audience": running.issuer.audience,
        "cluster": "prod",
        "scope": "deploy-web/rollout",
    }
    made = component(**inputs | (changes or {}))[".exchanged"]
    token = running.issuer.gitlab_token(aud=made["id_tokens"]["EXCHANGED_ID_TOKEN"]["aud"])
    job = GitlabJob(folder, made, token, str(next(NUMBERS)), interpreter)
    job.environment["EXCHANGED_CA"] = str(by.ca if by else running.daemon.ca)
    return job


def _token(job: GitlabJob) -> str:
    return (job.state / "token").read_text()


def _lives(running: Running, token: str) -> bool:
    return bool(running.post("/introspect", {"token": token}).body["active"])


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("script", ["true", "false", "exit 3"])
def test_get_use_give_back(tmp_path: Path, gitlab: Running, shell: str, script: str) -> None:
    """The script has a kubeconfig; when it ended, well or not, the token is given back and nothing of it is left."""
    job = _job(tmp_path, gitlab, {"lifetime": "10m", "intent": "release 7; echo $HOME `id` \"'"}, interpreter=shell)
    shown = "kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server} {..namespace} {..user.tokenFile}'"
    ran = job.run(shown, script)
    assert (ran.returncode == 0) == (script == "true")
    assert f"https://127.0.0.1:6443 web {job.state}/token" in ran.stdout
    assert (job.state / "ca.crt").read_bytes() == CLUSTER.pem
    assert {mode(path) for path in job.state.iterdir()} == {0o600}
    assert mode(job.state) == 0o700
    token = _token(job)
    told = gitlab.post("/introspect", {"token": token}).body
    assert 590 < told["exp"] - told["iat"] <= 600
    after = job.after()
    assert after.stdout == "exchanged: the token is given back\n"
    assert not _lives(gitlab, token)
    assert not job.state.exists()
    assert [path for path in (tmp_path / "builds").rglob("*") if path.is_file()] == []


def test_the_token_is_not_shown(tmp_path: Path, gitlab: Running) -> None:
    """Not even with CI_DEBUG_TRACE, which has the shell tell each command."""
    job = _job(tmp_path, gitlab)
    shown = job.run("true", options="x").stdout
    token = _token(job)
    shown += job.after(options="x").stdout
    assert "+ " in shown
    assert token not in shown


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"scope": "deploy-web/other"}, "SCOPE_UNKNOWN", "mend the inputs"),
        ({"audience": "https://other.example"}, "TOKEN_AUDIENCE", "audience"),
        ({"lifetime": "1h"}, "LIFETIME_EXCEEDS_POLICY", "shorter"),
    ],
)
def test_refused(tmp_path: Path, gitlab: Running, change: dict[str, str], reason: str, words: str) -> None:
    """A refusal ends the job before its script, with the reason, the request's id and what to do."""
    job = _job(tmp_path, gitlab, change)
    ran = job.run("echo the script")
    assert ran.returncode != 0
    assert f"refused with {reason} (request " in ran.stdout
    assert words in ran.stdout
    assert "the script" not in ran.stdout
    assert job.after().stdout == "exchanged: there is no token to give back\n"
    assert not job.state.exists()


def test_cancelled(tmp_path: Path, gitlab: Running) -> None:
    """A job that is cancelled in the middle of its script gives back."""
    job = _job(tmp_path, gitlab)
    process = job.start("echo now", "exec sleep 60")
    assert process.stdout is not None
    until = time.monotonic() + 20
    while process.stdout.readline() != "now\n":
        assert time.monotonic() < until
    token = _token(job)
    process.kill()
    process.wait()
    process.stdout.close()
    assert job.after().returncode == 0
    assert not _lives(gitlab, token)


def test_ended_in_between(tmp_path: Path, gitlab: Running) -> None:
    """A token that came, and that nobody took out of the answer any more, is given back."""
    job = _job(tmp_path, gitlab)
    answer = gitlab.post("/token", gitlab.form(subject_token=job.token)).body
    job.state.mkdir(parents=True)
    (job.state / "reply").write_text(json.dumps(answer))
    assert job.after().stdout == "exchanged: the token is given back\n"
    assert not _lives(gitlab, answer["access_token"])
    assert not job.state.exists()


@pytest.mark.parametrize("answer", [Answer(status) for status in (429, 500, 502, 503, 504)])
def test_tried_again(tmp_path: Path, gitlab: Running, between: Door, answer: Answer) -> None:
    """What curl takes for passing is tried again, after the delay that was asked for, with the job's one token."""
    between.answers = [replace(answer, headers={"Retry-After": "2"})]
    job = _job(tmp_path, gitlab, by=between)
    began = time.monotonic()
    ran = job.run("true")
    assert ran.returncode == 0, ran.stdout
    assert time.monotonic() - began >= 2
    assert len(between.asked) == 2
    assert job.after().returncode == 0


@pytest.mark.parametrize(("answers", "status"), [([Answer(400)], "400"), ([], "000")])
def test_a_token_that_cannot_be_given_back(
    tmp_path: Path, gitlab: Running, between: Door, answers: list[Answer], status: str
) -> None:
    """The job's log says so, and the files are gone all the same: refused, or nobody there whom one could trust."""
    job = _job(tmp_path, gitlab, interpreter="bash", by=between)
    job.run("true")
    between.answers = list(answers)
    if not answers:
        job.environment["EXCHANGED_CA"] = str(gitlab.daemon.ca)
    after = job.after()
    assert f"not given back ({status})" in after.stdout
    assert not job.state.exists()


def test_a_stranger_with_a_certificate(tmp_path: Path, gitlab: Running, between: Door) -> None:
    """A server that nobody vouches for is told nothing."""
    job = _job(tmp_path, gitlab, by=between)
    job.environment["EXCHANGED_CA"] = str(gitlab.daemon.ca)
    ran = job.run("true")
    assert ran.returncode != 0
    assert "EXCHANGED_CA" in ran.stdout
    assert between.asked == []


def test_verification_cannot_be_switched_off(tmp_path: Path, gitlab: Running, between: Door) -> None:
    """What the image's .curlrc says changes nothing, neither for getting nor for giving back."""
    (tmp_path / ".curlrc").write_text("insecure\nlocation\n")
    job = _job(tmp_path, gitlab, by=between)
    job.environment["EXCHANGED_CA"] = str(gitlab.daemon.ca)
    assert job.run("true").returncode != 0
    (job.state / "token").write_text("a.b.c")
    assert "not given back (000)" in job.after().stdout
    assert between.asked == []


def test_somebody_elses_folder(tmp_path: Path, gitlab: Running, between: Door) -> None:
    """A folder that is there already is not trusted."""
    job = _job(tmp_path, gitlab, by=between)
    job.state.mkdir(parents=True)
    assert job.run("true").returncode != 0
    assert between.asked == []


def test_an_image_without_curl(tmp_path: Path, gitlab: Running) -> None:
    """It is said, rather than that nothing works."""
    job = _job(tmp_path, gitlab)
    job.environment["PATH"] = str(tmp_path)
    job.shell = "/bin/sh"
    ran = job.run("true")
    assert ran.returncode != 0
    assert "no curl in this image" in ran.stdout


EVIL = 'x"\n\x1b[0Ksection_start:1:x\r$(touch evil)`touch evil`\n'


def _good(**changes: Any) -> dict[str, Any]:
    cluster = {"name": "prod", "server": "https://127.0.0.1:6443"} | changes.pop("cluster", {})
    return {"access_token": "a.b.c", "scope": "x", "grant_id": "g", "cluster": cluster} | changes


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, EVIL),
        Answer(200, "{}"),
        Answer(200, _good(access_token=EVIL)),
        Answer(200, _good(cluster={"server": EVIL})),
        Answer(200, _good(cluster={"server": "http://127.0.0.1:6443"})),
        Answer(200, _good(cluster={"certificate_authority": EVIL})),
        Answer(400, {"reason": EVIL, "request_id": EVIL}),
        Answer(400, EVIL),
    ],
)
def test_replies_inject_nothing(tmp_path: Path, gitlab: Running, between: Door, answer: Answer) -> None:
    """Whatever the other side answers, the job ends, says nothing that is not its own, and runs none of it."""
    between.answers = [answer]
    job = _job(tmp_path, gitlab, by=between)
    ran = job.run("echo the script")
    assert ran.returncode != 0
    assert all(line.startswith("exchanged: ") for line in ran.stdout.splitlines())
    assert "section_start" not in ran.stdout
    between.answers = [Answer(200)]
    assert job.after().returncode == 0
    assert list(tmp_path.rglob("evil*")) == []


@pytest.mark.parametrize("indent", [None, 2])
def test_any_json_is_read(tmp_path: Path, gitlab: Running, between: Door, indent: int | None) -> None:
    """Blanks and line breaks change nothing, in a grant or in a refusal."""
    reply = _good(
        cluster={"certificate_authority": CLUSTER.pem.decode()},
        authorization_details=[{"type": "kubernetes", "namespaces": ["web"]}],
    )
    refusal = {"reason": "NO_POLICY", "request_id": "r-1"}
    between.answers = [Answer(200, json.dumps(reply, indent=indent)), Answer(400, json.dumps(refusal, indent=indent))]
    job = _job(tmp_path, gitlab, by=between)
    ran = job.run("cat $KUBECONFIG")
    assert ran.returncode == 0, ran.stdout
    assert _token(job) == "a.b.c"
    assert (job.state / "ca.crt").read_bytes() == CLUSTER.pem
    assert 'namespace: "web"' in ran.stdout
    assert "refused with NO_POLICY (request r-1)" in _job(tmp_path, gitlab, by=between).run("true").stdout


@pytest.mark.parametrize(
    ("namespaces", "default"),
    [
        ([["web"]], "web"),
        ([["web"], ["web"]], "web"),
        ([["web"], ["db"]], ""),
        ([["web"], ["db", "web"]], ""),
        ([["db", "web"]], ""),
        ([["web"], []], ""),
        ([[]], ""),
        ([[EVIL]], ""),
    ],
)
def test_the_namespace(
    tmp_path: Path, gitlab: Running, between: Door, namespaces: list[list[str]], default: str
) -> None:
    """Kubectl takes a grant's namespace where it has one alone; a detail without any is for the whole cluster."""
    details = [{"type": "kubernetes", "namespaces": each, "verbs": ["get"]} for each in namespaces]
    between.answers = [Answer(200, json.dumps(_good(authorization_details=details), separators=(",", ":")))]
    ran = _job(tmp_path, gitlab, by=between).run("kubectl config view --minify -o jsonpath='<{..context.namespace}>'")
    assert f"<{default}>" in ran.stdout


def test_a_ca_that_cannot_be_read(tmp_path: Path, gitlab: Running, between: Door) -> None:
    """The job ends, rather than ask public roots who the cluster is; the token is given back."""
    between.answers = [Answer(200, _good(cluster={"certificate_authority": "# Issuer: x\n" + CLUSTER.pem.decode()}))]
    job = _job(tmp_path, gitlab, by=between)
    ran = job.run("echo the script")
    assert ran.returncode != 0
    assert "CA in the answer cannot be read" in ran.stdout
    assert "granted" not in ran.stdout
    assert not job.kubeconfig.exists()
    assert job.after().stdout == "exchanged: the token is given back\n"
    assert between.asked[-1] == ("/revoke", {"token": "a.b.c"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", "http://exchanged.example"),
        ("server", "https://x$(id)"),
        ("cluster", ""),
        ("scope", "a b"),
        ("lifetime", "10"),
        ("lifetime", "010m"),
        ("intent", "a\nb"),
        ("job", "deploy"),
    ],
)
def test_inputs_are_checked(name: str, value: str) -> None:
    """GitLab refuses a pipeline whose inputs make no sense."""
    inputs = {"server": "https://x", "audience": "https://x", "cluster": "prod", "scope": "a/b"}
    component(**inputs)
    with pytest.raises(AssertionError, match="does not match"):
        component(**inputs | {name: value})


def test_the_example() -> None:
    """The example gives the component what it asks for, and extends the job that it has."""
    example = yaml.safe_load((FOLDER / "example.gitlab-ci.yml").read_text())
    (include,) = example["include"]
    assert Path(include["file"].removeprefix("/")) == TEMPLATE
    assert example["deploy"]["extends"] in component(**include["inputs"])


@pytest.mark.parametrize("part", ["before_script", "after_script"])
def test_shellcheck(part: str) -> None:
    """The scripts are good POSIX shell."""
    job = component(server="https://x", audience="x", cluster="prod", scope="a/b")[".exchanged"]
    text = "\n".join(job[part])
    command: list[str | Path] = [tool("shellcheck"), "--shell=sh", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
