import json
import signal
import time
from pathlib import Path

import jwt
import pytest

from tests.ci.door import Answer, Door, proxy
from tests.ci.runner import Job, Step, mode
from tests.fixtures import Running


def _lives(running: Running, token: str) -> bool:
    return bool(running.post("/introspect", {"token": token}).body["active"])


def test_get_use_give_back(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The job has a kubeconfig for the grant, readable by itself alone; after the post step both are gone."""
    main = job.main(**inputs, lifetime="10m", intent="release 7")
    assert main.code == 0, main.output
    path = Path(main.outputs["kubeconfig"])
    assert job.exported == {"KUBECONFIG": str(path)}
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.parent.parent == job.temporary
    made = main.kubeconfig
    token = made["users"][0]["user"]["token"]
    assert made["contexts"][0]["context"] == {"cluster": "prod", "user": "prod", "namespace": "web"}
    told = running.post("/introspect", {"token": token}).body
    assert told["grant_id"] == main.outputs["grant-id"]
    assert 590 < told["exp"] - told["iat"] <= 600
    assert main.outputs["expires-at"] == main.state["expires"]
    post = job.post(main)
    assert post.code == 0, post.output
    assert not _lives(running, token)
    assert not path.parent.exists()


def test_tokens_are_masked_before_anything_else(job: Job, inputs: dict[str, str]) -> None:
    """Neither GitHub's token nor the cluster's is ever printed but to have it masked, nor is it an output."""
    main = job.main(**inputs)
    post = job.post(main)
    subject, granted = main.said("add-mask")
    assert granted == main.state["token"]
    for token in (subject, granted):
        assert token not in main.shown + post.shown
        assert token not in json.dumps([main.outputs, main.env])


def test_kubectl_reads_the_kubeconfig(job: Job, inputs: dict[str, str]) -> None:
    """Kubectl takes the kubeconfig from the environment of the steps that follow."""
    job.main(**inputs)
    shown = job.run("kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server} {..namespace}'")
    assert (shown.code, shown.output) == (0, "https://127.0.0.1:6443 web")


def test_narrowed(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """A job may ask for less than its policy has."""
    main = job.main(**inputs, authorization_details='[{"type": "kubernetes", "verbs": ["get"]}]')
    told = running.post("/introspect", {"token": main.state["token"]}).body
    assert told["authorization_details"][0]["verbs"] == ["get"]


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"scope": "deploy-web/other"}, "SCOPE_UNKNOWN", 'mend "scope"'),
        ({"cluster": "other"}, "CLUSTER_UNKNOWN", 'mend "cluster"'),
        ({"audience": "https://other.example"}, "TOKEN_AUDIENCE", '"audience" has to be'),
        ({"lifetime": "1h"}, "LIFETIME_EXCEEDS_POLICY", 'a shorter "lifetime"'),
    ],
)
def test_refused(job: Job, inputs: dict[str, str], change: dict[str, str], reason: str, words: str) -> None:
    """A refusal fails the step with its reason, the request's id and what to do; there is nothing to give back."""
    main = job.main(**inputs | change)
    said = main.error
    assert f"refused: {reason} (request " in said
    assert words in said
    assert (main.env, main.outputs, main.state) == ({}, {}, {})
    post = job.post(main)
    assert (post.code, post.output) == (0, "There is no token to give back.\n")


def test_a_request_id_leads_to_the_record(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The id in the error is the one that the daemon's records have."""
    said = job.main(**inputs | {"lifetime": "1h"}).error
    request = said.partition("(request ")[2].partition(")")[0]
    assert request
    assert request in running.daemon.run("records", "list", "-o", "json").stdout


def test_a_job_without_permission(tmp_path: Path, running: Running, inputs: dict[str, str]) -> None:
    """Without `id-token: write` the error says so."""
    job = Job.of(tmp_path, running.issuer, ACTIONS_ID_TOKEN_REQUEST_URL="", ACTIONS_ID_TOKEN_REQUEST_TOKEN="")
    assert "id-token: write" in job.main(**inputs).error


def test_github_refuses(tmp_path: Path, running: Running, inputs: dict[str, str]) -> None:
    """Where GitHub gives no token, the error has its status."""
    job = Job.of(tmp_path, running.issuer, ACTIONS_ID_TOKEN_REQUEST_TOKEN="wrong")
    assert job.main(**inputs).error == "GitHub's OIDC endpoint gave no token (401)."


def test_github_is_out_of_order(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """And where it has none now, it is asked again."""
    before = len(running.issuer.requests)
    running.issuer.broken = True
    try:
        process, files = job.begin({name.replace("_", "-"): value for name, value in inputs.items()})
        while "/token" not in running.issuer.requests[before:]:
            assert process.poll() is None
    finally:
        running.issuer.broken = False
    assert job.end(process, files, inputs).code == 0
    assert running.issuer.requests[before:].count("/token") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", ""),
        ("server", "http://127.0.0.1"),
        ("server", "https://user:secret@127.0.0.1"),
        ("server", "https://127.0.0.1/?x=y"),
        ("server", "127.0.0.1:8443"),
        ("cluster", ""),
        ("cluster", "a b"),
        ("scope", ""),
        ("scope", "a b"),
        ("audience", "a\nb"),
        ("lifetime", "77"),
        ("lifetime", "-1m"),
        ("intent", "a\nb"),
        ("intent", "x" * 501),
        ("authorization_details", "{}"),
        ("authorization_details", "[::error::x]"),
        ("certificate_authority", "/nowhere"),
        ("certificate_authority", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----"),
    ],
)
def test_inputs_are_checked_first(job: Job, running: Running, inputs: dict[str, str], name: str, value: str) -> None:
    """An input that makes no sense is named before anybody is asked for anything."""
    before = len(running.issuer.requests)
    said = job.main(**inputs | {name: value}).error
    assert f'"{name.replace("_", "-")}"' in said
    assert not value or value not in said
    assert len(running.issuer.requests) == before


@pytest.mark.parametrize(
    "answer", [Answer(503, {"reason": "KEYS_UNAVAILABLE"}), Answer(429, {}), Answer(502), Answer(0)]
)
def test_tried_again_with_a_fresh_token(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """What passes is tried again, after the delay that was asked for, each time with another OIDC token."""
    between.answers = [Answer(503, answer.body, {"Retry-After": "2"}), answer]
    began = time.monotonic()
    main = job.main(**by_door)
    assert main.code == 0, main.output
    assert time.monotonic() - began >= 2
    tokens = [form["subject_token"] for _, form in between.asked]
    ids = {jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens}
    assert (len(tokens), len(ids)) == (3, 3)
    assert set(tokens) < set(main.said("add-mask"))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, {"reason": "JOB_EXHAUSTED"}),
        Answer(500, {"reason": "INTERNAL"}),
        Answer(400, {"reason": "NO_POLICY"}),
        Answer(404),
        Answer(503, {"reason": "STORE_UNAVAILABLE"}, {"Retry-After": "3600"}),
        Answer(302, headers={"Location": "https://127.0.0.1:1/token"}),
    ],
)
def test_not_tried_again(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """What does not pass, or not while a job waits, ends the step at once; a redirect is not followed."""
    between.answers = [answer]
    assert job.main(**by_door).error
    assert len(between.asked) == 1


def test_cancelled_while_the_daemon_answers(job: Job, running: Running, between: Door, by_door: dict[str, str]) -> None:
    """A token that was on its way when the job was cancelled is given back."""
    between.hold.clear()
    process, files = job.begin({name.replace("_", "-"): value for name, value in by_door.items()})
    assert between.arrived.wait(20)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "Cancelled." not in process.stdout.readline():
        assert process.poll() is None
    between.hold.set()
    main = job.end(process, files, by_door)
    assert main.error == "The job was cancelled."
    assert "KUBECONFIG" not in main.env
    assert _lives(running, main.state["token"])
    assert job.post(main).code == 0
    assert not _lives(running, main.state["token"])


def test_cancelled_between_tries(job: Job, between: Door, by_door: dict[str, str]) -> None:
    """A job that is cancelled waits no longer."""
    between.answers = [Answer(503, headers={"Retry-After": "60"})]
    process, files = job.begin({name.replace("_", "-"): value for name, value in by_door.items()})
    assert between.arrived.wait(20)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert job.end(process, files, by_door).error == "The job was cancelled."
    assert time.monotonic() - began < 20


def test_given_back_when_no_kubeconfig_can_be_written(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """A step that fails half way has said what the post step needs."""
    job.environment["RUNNER_TEMP"] = str(job.folder / "nowhere")
    main = job.main(**inputs)
    assert main.code == 1
    assert _lives(running, main.state["token"])
    assert job.post(main).code == 0
    assert not _lives(running, main.state["token"])


def test_giving_back_is_tried_again(job: Job, running: Running, between: Door, by_door: dict[str, str]) -> None:
    """The post step insists."""
    main = job.main(**by_door)
    between.answers = [Answer(503)]
    assert job.post(main).code == 0
    assert not _lives(running, main.state["token"])


def test_a_token_that_cannot_be_given_back(job: Job, between: Door, by_door: dict[str, str]) -> None:
    """The job's result stays; a warning says when the token ends, and the file is gone all the same."""
    main = job.main(**by_door)
    between.answers = [Answer(500)]
    post = job.post(main)
    assert post.code == 0
    (said,) = post.said("warning")
    assert main.state["expires"] in said
    assert not Path(main.outputs["kubeconfig"]).exists()


def test_the_post_step_deletes_nothing_else(job: Job) -> None:
    """Whatever a step made of the folder, only the kubeconfig goes."""
    kept = job.folder / "kept"
    kept.mkdir()
    (kept / "other").touch()
    (kept / "kubeconfig").touch()
    assert job.post(Step(0, "", state={"folder": str(kept)})).code == 0
    assert [path.name for path in kept.iterdir()] == ["other"]


def test_a_kubeconfig_that_cannot_be_deleted(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The token is given back all the same, and the job's result stays; a warning says what is left where."""
    main = job.main(**inputs)
    path = Path(main.outputs["kubeconfig"])
    path.unlink()
    path.mkdir()
    post = job.post(main)
    assert (post.code, post.said("error")) == (0, [])
    (said,) = post.said("warning")
    assert str(path.parent) in said
    assert not _lives(running, main.state["token"])


def test_through_a_proxy(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The proxy that the environment names is used, for GitHub and for the daemon, and looks into nothing."""
    with proxy() as (url, asked):
        job.environment["https_proxy"] = url
        main = job.main(**inputs)
        assert job.post(main).code == 0
    assert main.code == 0, main.output
    github, daemon = (each.url.removeprefix("https://") for each in (running.issuer, running.daemon))
    assert asked == [github, daemon, daemon]
