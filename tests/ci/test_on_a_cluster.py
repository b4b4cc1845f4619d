"""The examples as they stand, step by step, on a cluster that obeys the daemon."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.pipeline import FOLDER, GitlabJob, component
from tests.ci.runner import ACTION, Job
from tests.ci.test_docs import block
from tests.issuers import FakeIssuer
from tests.lab.worlds import World, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MODE = {"mode": "authorizer", "allow": ["workloads"]}


@dataclass(slots=True)
class Forges:
    """A cluster and its daemon, which trusts a GitHub and a GitLab."""

    made: World
    gitlab: FakeIssuer


@pytest.fixture(scope="module")
def forges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forges]:
    """One world for both."""
    folder = tmp_path_factory.mktemp("forges")
    with FakeIssuer.served(folder / "gitlab", number=1) as gitlab:
        issuers = {"gitlab": gitlab.settings(profile="gitlab")}
        policies = {"web.yaml": policy("deploy-web", subjects=block("subjects")["subjects"])}
        with world(folder, {"prod": MODE}, policies, issuers=issuers) as made:
            yield Forges(made, gitlab)


def _forget_restarts(made: World) -> None:
    """Kubectl refuses a restart within a second of another, which may be another test's."""
    forgotten = '{"spec": {"template": {"metadata": {"annotations": null}}}}'
    made.cluster.kubectl("patch", "deployment/web", "-n", "web", "--type=merge", "-p", forgotten)


def _restarted(made: World) -> bool:
    _, deployment = made.cluster.request("GET", "/apis/apps/v1/namespaces/web/deployments/web")
    return "kubectl.kubernetes.io/restartedAt" in deployment["spec"]["template"]["metadata"].get("annotations", {})


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_github(tmp_path: Path, forges: Forges) -> None:
    """The example restarts the deployment, may not delete it, and when the job ends the token is worth nothing."""
    made, issuer = forges.made, forges.made.issuer
    job = Job.of(tmp_path, issuer)
    get, use = _read(ACTION / "example.yml")["jobs"]["deploy"]["steps"]
    here = {"server": made.daemon.url, "certificate-authority": str(made.daemon.ca)}
    main = job.main(**get["with"] | here)
    assert main.code == 0, main.output
    _forget_restarts(made)
    used = job.run(use["run"])
    assert used.code == 0, used.output
    assert _restarted(made)
    refused = job.run("kubectl delete deployment/web")
    assert refused.code == 1
    assert "Forbidden" in refused.output
    assert job.post(main).code == 0
    ended = made.cluster.kubectl("get", "deployment/web", "-n", "web", token=main.state["token"], check=False)
    assert ended.returncode != 0
    assert "(Forbidden)" in ended.stderr or "Unauthorized" in ended.stderr


def test_gitlab(tmp_path: Path, forges: Forges) -> None:
    """The same for GitLab's example, whose script fails at its end."""
    made = forges.made
    example = _read(FOLDER / "example.gitlab-ci.yml")
    (include,) = example["include"]
    jobs = component(**include["inputs"] | {"server": made.daemon.url})
    extended = jobs[example["deploy"]["extends"]]
    token = forges.gitlab.gitlab_token(aud=extended["id_tokens"]["EXCHANGED_ID_TOKEN"]["aud"])
    job = GitlabJob(tmp_path, extended, token, "1", "sh", {"EXCHANGED_CA": str(made.daemon.ca)})
    _forget_restarts(made)
    used = job.run(*example["deploy"]["script"], "kubectl delete deployment/web")
    assert used.returncode == 1
    assert "deployment.apps/web restarted" in used.stdout
    assert "Forbidden" in used.stdout
    assert _restarted(made)
    token = (job.state / "token").read_text()
    assert job.after().returncode == 0
    ended = made.cluster.kubectl("get", "deployment/web", "-n", "web", token=token, check=False)
    assert ended.returncode != 0
    assert "(Forbidden)" in ended.stderr or "Unauthorized" in ended.stderr
