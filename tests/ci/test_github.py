import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchanged.errors import Reason
from tests.ci.door import Answer, Door, door
from tests.ci.runner import Job, Step, advice, mode
from tests.fixtures import Running

ALLOWED = {"add-mask", "error", "warning"}


def _job(folder: Path, running: Running, **environment: str) -> Job:
    usual = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{running.issuer.url}/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": running.issuer.request_token,
        "NODE_EXTRA_CA_CERTS": str(running.issuer.certificate_authority),
    }
    return Job(folder, usual | environment)


@pytest.fixture
def job(tmp_path: Path, running: Running) -> Job:
    """A job that may ask for OIDC tokens."""
    return _job(tmp_path, running)


@pytest.fixture
def inputs(running: Running) -> dict[str, str]:
    """What a workflow gives the action to reach the daemon."""
    return {
        "server": running.daemon.url,
        "audience": running.issuer.audience,
        "certificate_authority": running.daemon.ca.read_text(),
        "cluster": "prod",
        "scope": "deploy-web/rollout",
    }


@pytest.fixture
def between(tmp_path: Path, running: Running) -> Iterator[Door]:
    """A door before the daemon's."""
    with door(tmp_path / "door", running.daemon) as made:
        yield made


@pytest.fixture
def by_door(inputs: dict[str, str], between: Door) -> dict[str, str]:
    """The same inputs, by way of that door."""
    return inputs | {"server": between.url, "certificate_authority": str(between.ca)}


def _lives(running: Running, token: str) -> bool:
    return bool(running.post("/introspect", {"token": token}).body["active"])


def _kubeconfig(step: Step) -> Any:
    return json.loads(Path(step.outputs["kubeconfig"]).read_text())


def _error(step: Step) -> str:
    assert step.code == 1
    (said,) = step.said("error")
    return said


def test_get_use_give_back(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The job has a kubeconfig for the grant, readable by itself alone; after the post step both are gone."""
    main = job.main(**inputs, lifetime="10m", intent="release 7")
    assert main.code == 0, main.output
    path = Path(main.outputs["kubeconfig"])
    assert job.exported == {"KUBECONFIG": str(path)}
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.parent.parent == job.temporary
    made = _kubeconfig(main)
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
    said = _error(main)
    assert f"refused: {reason} (request " in said
    assert words in said
    assert (main.env, main.outputs, main.state) == ({}, {}, {})
    post = job.post(main)
    assert (post.code, post.output) == (0, "There is no token to give back.\n")


def test_a_request_id_leads_to_the_record(job: Job, running: Running, inputs: dict[str, str]) -> None:
    """The id in the error is the one that the daemon's records have."""
    said = _error(job.main(**inputs | {"lifetime": "1h"}))
    request = said.partition("(request ")[2].partition(")")[0]
    assert request
    assert request in running.daemon.run("records", "list", "-o", "json").stdout


def test_a_job_without_permission(tmp_path: Path, running: Running, inputs: dict[str, str]) -> None:
    """Without `id-token: write` the error says so."""
    job = _job(tmp_path, running, ACTIONS_ID_TOKEN_REQUEST_URL="", ACTIONS_ID_TOKEN_REQUEST_TOKEN="")
    assert "id-token: write" in _error(job.main(**inputs))


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
    said = _error(job.main(**inputs | {name: value}))
    assert f'"{name.replace("_", "-")}"' in said
    assert not value or value not in said
    assert len(running.issuer.requests) == before


@pytest.mark.parametrize("answer", [Answer(503, {"reason": "KEYS_UNAVAILABLE"}), Answer(429, {}), Answer(502)])
def test_tried_again_with_a_fresh_token(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """What passes is tried again, after the delay that was asked for, each time with another OIDC token."""
    between.answers = [Answer(answer.status, answer.body, {"Retry-After": "2"}), answer]
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
    assert _error(job.main(**by_door))
    assert len(between.asked) == 1


def test_cancelled_while_the_daemon_answers(job: Job, running: Running, between: Door, by_door: dict[str, str]) -> None:
    """A token that was on its way when the job was cancelled is given back."""
    between.hold.clear()
    process, files = job.begin({name.replace("_", "-"): value for name, value in by_door.items()})
    assert between.arrived.wait(20)
    process.send_signal(signal.SIGINT)
    between.hold.set()
    main = job.end(process, files, by_door)
    assert _error(main) == "The job was cancelled."
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
    assert _error(job.end(process, files, by_door)) == "The job was cancelled."
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


def test_a_stranger_with_a_certificate(job: Job, between: Door, inputs: dict[str, str]) -> None:
    """A server that nobody vouches for is told nothing, and asked once."""
    said = _error(job.main(**inputs | {"server": between.url}))
    assert '"certificate-authority"' in said
    assert between.asked == []


def test_verification_cannot_be_switched_off(
    tmp_path: Path, running: Running, between: Door, inputs: dict[str, str]
) -> None:
    """An earlier step that sets NODE_TLS_REJECT_UNAUTHORIZED changes nothing."""
    job = _job(tmp_path, running, NODE_TLS_REJECT_UNAUTHORIZED="0")
    assert job.main(**inputs | {"server": between.url}).code == 1
    assert between.asked == []


def _good(**changes: Any) -> dict[str, Any]:
    cluster = {"name": "prod", "server": "https://127.0.0.1:6443"}
    usual: dict[str, Any] = {
        "access_token": "a.b.c",
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "deploy-web/rollout",
        "grant_id": "g-1",
        "authorization_details": [{"type": "kubernetes", "namespaces": ["web"]}],
        "cluster": cluster | changes.pop("cluster", {}),
    }
    return usual | changes


EVIL = "x\n::set-env name=PATH::/evil\n::warning::evil##[add-path]/evil\nPATH=/evil\nend_\r\n::stop-commands::x"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, EVIL),
        Answer(400, EVIL),
        Answer(200, "[]"),
        Answer(200, "null"),
        Answer(400, "null"),
        Answer(200, "[" * 100_000),
        Answer(200, "x" * 300_000),
        Answer(200, _good(access_token=EVIL)),
        Answer(200, _good(access_token=["a.b.c"])),
        Answer(200, _good(grant_id=EVIL)),
        Answer(200, _good(scope=EVIL)),
        Answer(200, _good(expires_in=EVIL)),
        Answer(200, _good(expires_in=1e300)),
        Answer(200, _good(authorization_details=EVIL)),
        Answer(200, _good(cluster={"name": EVIL})),
        Answer(200, _good(cluster={"server": EVIL})),
        Answer(200, _good(cluster={"server": "http://127.0.0.1:6443"})),
        Answer(200, _good(cluster={"certificate_authority": EVIL})),
        Answer(400, {"reason": EVIL, "request_id": EVIL, "error_description": EVIL, "parameter": EVIL}),
        Answer(400, {"reason": "NO_POLICY", "request_id": EVIL}),
        Answer(400, {"reason": "__PROTO__", "request_id": "constructor"}),
        Answer(400, {"reason": ["NO_POLICY"], "request_id": {}}),
        Answer(400, {"reason": "NO_POLICY\n::error::x"}),
    ],
)
def test_replies_inject_nothing(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """Whatever the other side answers, the step fails with an error of its own, and neither sets nor says more."""
    between.answers = [answer]
    main = job.main(**by_door)
    assert _error(main)
    assert {name for name, _ in main.commands} <= ALLOWED
    assert "##[" not in main.output
    assert "evil" not in main.output
    assert (main.env, main.outputs) == ({}, {})
    assert main.state.keys() <= {"token", "server", "authorities", "expires"}
    between.answers = [Answer(200, {})]
    assert job.post(main).code == 0


def test_an_odd_namespace_is_left_out(job: Job, between: Door, by_door: dict[str, str]) -> None:
    """A namespace that is none does not come into the kubeconfig."""
    between.answers = [Answer(200, _good(authorization_details=[{"namespaces": [EVIL]}]))]
    assert _kubeconfig(job.main(**by_door))["contexts"][0]["context"] == {"cluster": "prod", "user": "prod"}


@pytest.mark.parametrize("answer", [Answer(500, EVIL), Answer(400, {"reason": EVIL})])
def test_replies_inject_nothing_at_the_end(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """Nor does an answer to giving back."""
    main = job.main(**by_door)
    between.answers = [answer]
    post = job.post(main)
    assert {name for name, _ in post.commands} == {"add-mask", "warning"}
    assert "evil" not in post.output


def test_every_reason_has_advice() -> None:
    """A job is told what to do for each reason that it can meet: all but those of other callers, and of forms."""
    others = {each for each in Reason if each.startswith(("PARAMETER_", "CERTIFICATE_", "ACTOR_", "UNSUPPORTED_"))}
    others |= {Reason.MALFORMED, Reason.CLUSTER_AMBIGUOUS, Reason.TOKEN_NOT_LIVE, Reason.TOKEN_OWN}
    others |= {Reason.TOKEN_MALFORMED, Reason.TOKEN_SIGNATURE, Reason.TOKEN_ALGORITHM}
    assert set(advice()) == set(Reason) - others
