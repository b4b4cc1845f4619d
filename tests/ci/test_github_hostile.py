import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exchanged.errors import Reason
from tests.ci.door import Answer, Door
from tests.ci.runner import ACTION, Job, Step, advice
from tests.fixtures import Running
from tests.lab.npm import node

ALLOWED = {"add-mask", "error", "warning"}


def test_a_stranger_with_a_certificate(job: Job, between: Door, inputs: dict[str, str]) -> None:
    """A server that nobody vouches for is told nothing, and asked once."""
    said = job.main(**inputs | {"server": between.url}).error
    assert '"certificate-authority"' in said
    assert between.asked == []


def test_verification_cannot_be_switched_off(
    tmp_path: Path, running: Running, between: Door, inputs: dict[str, str]
) -> None:
    """An earlier step that sets NODE_TLS_REJECT_UNAUTHORIZED changes nothing."""
    job = Job.of(tmp_path, running.issuer, NODE_TLS_REJECT_UNAUTHORIZED="0")
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
        Answer(200, _good(more="x" * 300_000)),
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
    assert main.error
    assert {name for name, _ in main.commands} <= ALLOWED
    assert "##[" not in main.output
    assert "evil" not in main.output
    assert (main.env, main.outputs) == ({}, {})
    assert main.state.keys() <= {"token", "server", "authorities", "expires"}
    between.answers = [Answer(200, {})]
    assert job.post(main).code == 0


def test_inputs_inject_nothing(job: Job, inputs: dict[str, str]) -> None:
    """Lines that stand beside a certificate go into the state as they are, and end nothing there."""
    beside = inputs["certificate_authority"] + f"\nEOF\nend_\nPATH=/evil\ntoken<<x\n{EVIL}\nx"
    main = job.main(**inputs | {"certificate_authority": beside})
    assert main.code == 0, main.output
    assert main.state.keys() == {"token", "server", "authorities", "expires", "folder"}
    assert main.env.keys() == {"KUBECONFIG"}
    assert job.post(main).said("warning") == []


@pytest.mark.parametrize("namespaces", [[[EVIL]], [["web"], []], [[]], [["web"], ["db"]], [["db", "web"]]])
def test_no_namespace(job: Job, between: Door, by_door: dict[str, str], namespaces: list[list[str]]) -> None:
    """The kubeconfig names none where the grant has several, or the whole cluster, or what is no namespace."""
    details = [{"type": "kubernetes", "namespaces": each} for each in namespaces]
    between.answers = [Answer(200, _good(authorization_details=details))]
    made = job.main(**by_door).kubeconfig
    assert made["contexts"][0]["context"] == {"cluster": "prod", "user": "prod"}


@pytest.mark.parametrize("answer", [Answer(500, EVIL), Answer(400, {"reason": EVIL})])
def test_replies_inject_nothing_at_the_end(job: Job, between: Door, by_door: dict[str, str], answer: Answer) -> None:
    """Nor does an answer to giving back."""
    main = job.main(**by_door)
    between.answers = [answer]
    post = job.post(main)
    assert {name for name, _ in post.commands} == {"add-mask", "warning"}
    assert "evil" not in post.output


def test_bugs_inject_nothing() -> None:
    """The text of an error that nobody expected stays within its command, line breaks and all."""
    module = json.dumps(str(ACTION / "lib" / "workflow.mjs"))
    script = f"import({module}).then(m => m.asStep(() => {{ throw new Error({json.dumps('100%0A' + EVIL)}); }}))"
    done = subprocess.run([node(), "-e", script], capture_output=True, text=True, timeout=20, check=False)
    step = Step(done.returncode, done.stdout + done.stderr)
    assert [name for name, _ in step.commands] == ["error"]
    assert "100%0A" + EVIL in step.error
    assert len(done.stdout.splitlines()) == 1


def test_every_reason_has_advice() -> None:
    """A job is told what to do for each reason that it can meet: all but those of other callers, and of forms."""
    others = {each for each in Reason if each.startswith(("PARAMETER_", "CERTIFICATE_", "ACTOR_", "UNSUPPORTED_"))}
    others |= {Reason.MALFORMED, Reason.CLUSTER_AMBIGUOUS, Reason.TOKEN_NOT_LIVE, Reason.TOKEN_OWN}
    others |= {Reason.TOKEN_MALFORMED, Reason.TOKEN_SIGNATURE, Reason.TOKEN_ALGORITHM}
    assert set(advice()) == set(Reason) - others
