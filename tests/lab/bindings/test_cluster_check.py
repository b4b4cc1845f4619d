import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exchanged.app import now
from exchanged.clusters import checked
from exchanged.config_file import load
from exchanged.model import ClusterName
from tests.daemon import Daemon
from tests.lab.worlds import FENCED_MODE, POD_READER, World, until_fenced, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

GRANTS = "exchanged-grants"
NEVER = {"namespaceSelector": {"matchLabels": {"never": "true"}}}
NOTHING = {
    "excludeResourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]
}
MOVES: list[tuple[str, str, dict[str, Any]]] = [
    ("policy", "exchanged-daemon", {"matchConstraints": NEVER}),
    ("policy", "exchanged-grants", {"matchConstraints": NOTHING}),
    ("policy", "exchanged-pods", {"matchConditions": [{"name": "never", "expression": "false"}]}),
    ("policy", "exchanged-templates", {"failurePolicy": "Ignore"}),
    ("policybinding", "exchanged-daemon", {"matchResources": NEVER}),
    ("policybinding", "exchanged-grants", {"paramRef": {"name": "x", "parameterNotFoundAction": "Allow"}}),
    ("policybinding", "exchanged-pods", {"validationActions": ["Warn"]}),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with fenced roles, set up as printed."""
    with world(tmp_path_factory.mktemp("check"), {"prod": FENCED_MODE}, {"web.yaml": policy("deploy-web")}) as running:
        running.cluster.apply(POD_READER)
        until_fenced(running)
        yield running


def _found(daemon: Daemon, level: str = "wrong") -> list[str]:
    """What the check tells."""
    findings = asyncio.run(checked(load(daemon.config), ClusterName("prod"), now))
    return [finding.what for finding in findings if finding.level == level]


def _manifests(daemon: Daemon, name: str = "setup-prod", **changes: Any) -> Path:
    """What setup prints, for a configuration with these changes to the cluster."""
    settings = json.loads(json.dumps(daemon.settings))
    settings["clusters"]["prod"] |= changes
    config, files = daemon.folder / f"{name}.yaml", daemon.folder / name
    config.write_text(json.dumps(settings))
    arguments = ("cluster", "setup", "prod", "--output-directory", str(files))
    daemon.run(*arguments, environment={"EXCHANGED_CONFIG": str(config)})
    return files / "manifests.yaml"


def _apply(made: World, text: str) -> None:
    made.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)


def _restore(made: World) -> None:
    """The remedy that the check names."""
    made.cluster.kubectl("replace", "-f", str(_manifests(made.daemon)))
    until_fenced(made)


def test_check_finds_nothing_wrong_in_what_setup_printed(made: World) -> None:
    """A cluster that is set up as printed has no finding of level wrong, and the command says so."""
    assert _found(made.daemon) == []
    assert made.daemon.run("cluster", "check", "prod", "-o", "json", check=False).returncode == 0


def test_the_fence_is_printed_before_what_it_bounds(made: World) -> None:
    """Applied in order, no right is there before the fence around it."""
    kinds = [document["kind"] for document in yaml.safe_load_all(_manifests(made.daemon).read_text())]
    last_of_fence = max(index for index, kind in enumerate(kinds) if kind.startswith("ValidatingAdmission"))
    assert set(kinds[: last_of_fence + 1]) == {
        "Namespace",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    assert {"ServiceAccount", "ClusterRole", "Role", "RoleBinding"} <= set(kinds[last_of_fence:])


@pytest.mark.parametrize(("kind", "name", "change"), MOVES, ids=[f"{each[1]} {next(iter(each[2]))}" for each in MOVES])
def test_a_moved_fence_is_seen_and_put_back(made: World, kind: str, name: str, change: dict[str, Any]) -> None:
    """Whatever was changed in the fence or added to it is found, and gone after the remedy."""
    patch = json.dumps({"spec": change})
    made.cluster.kubectl("patch", f"validatingadmission{kind}", name, "--type=merge", "-p", patch)
    try:
        told = [what for what in _found(made.daemon) if "the fence was moved" in what]
        assert len(told) == 1
        assert name in told[0]
        assert next(iter(change)) in told[0]
    finally:
        _restore(made)
    assert _found(made.daemon) == []


def test_a_fence_of_another_daemon_is_seen(made: World) -> None:
    """A fence that was printed for another store refuses this daemon, and the check says why."""
    text = _manifests(made.daemon).read_text()
    _apply(made, text.replace(made.daemon.json("status")["instance"], "000000000000"))
    try:
        (what,) = (what for what in _found(made.daemon) if "the fence was moved" in what)
        assert "spec.variables" in what
    finally:
        _restore(made)


def test_check_tells_which_rights_are_missing(made: World) -> None:
    """Each right that setup prints and the cluster does not give is named."""
    made.cluster.kubectl("delete", "clusterrolebinding", "exchanged-daemon")
    made.cluster.kubectl("delete", "rolebinding", "exchanged-daemon", "-n", "web")
    try:
        told = _found(made.daemon)
        for right in (
            "create tokenreviews",
            "create subjectaccessreviews",
            "watch clusterroles",
            "create roles in web",
            "delete roles in web",
            "run-as serviceaccounts in web",
            "bind clusterroles pod-reader in web",
            "escalate roles in web",
        ):
            assert f"the daemon may not {right}" in told
    finally:
        _apply(made, _manifests(made.daemon).read_text())


def test_check_tells_what_is_wrong_and_what_is_wide(made: World) -> None:
    """A gap in the fence, a right that everybody has, foreign accounts and needless rights are found."""
    made.cluster.apply(f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: everybody-views}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:authenticated"}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: too-much, namespace: web}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}
subjects: [{{kind: ServiceAccount, name: exchanged, namespace: exchanged}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: foreign, namespace: {GRANTS}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: of-another, namespace: {GRANTS}, labels: {{exchanged.dev/instance: "000000000000"}}}}
""")
    made.cluster.kubectl("delete", "validatingadmissionpolicybinding", "exchanged-daemon")
    try:
        done = made.daemon.run("cluster", "check", "prod", "-o", "json", check=False)
        assert done.returncode == 1
        wrong, wide = " ".join(_found(made.daemon)), " ".join(_found(made.daemon, "wide"))
        for expected in ("foreign", "of-another", "the fence has a gap", "the fence does not hold"):
            assert expected in wrong
        for expected in ("everybody-views", "read secrets in web", "make pods in web", "patch rolebindings in web"):
            assert expected in wide
    finally:
        made.cluster.kubectl("delete", "serviceaccount", "foreign", "of-another", "-n", GRANTS)
        made.cluster.kubectl("delete", "clusterrolebinding", "everybody-views")
        made.cluster.kubectl("delete", "rolebinding", "too-much", "-n", "web")
        _apply(made, _manifests(made.daemon).read_text())
        until_fenced(made)


def test_another_daemon_at_the_cluster_leaves_the_first_ones_fence_alone(made: World) -> None:
    """What is set up for a daemon in another namespace takes nothing from this one's fence and rights."""
    second = {"daemonNamespace": "exchanged-b", "grantsNamespace": "grants-b", "namespaces": ["other", "web"]}
    _apply(made, _manifests(made.daemon, "second", **second).read_text())
    until_fenced(made)
    assert _found(made.daemon) == []


def test_a_daemon_of_another_name_is_seen_and_fenced_by_it(made: World, tmp_path: Path) -> None:
    """Where the API server knows the daemon by another name, the check says so; `daemonUser` fences it."""
    name = "arn:aws:iam::1:role/exchanged"
    certificate, key = made.cluster.authority.client(name).write(tmp_path, "daemon")
    kubeconfig = tmp_path / "kubeconfig"
    made.cluster.kubeconfig_for("", kubeconfig)
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"client-certificate": str(certificate), "client-key": str(key)}
    kubeconfig.write_text(yaml.safe_dump(document))
    as_it_was = made.daemon.settings["clusters"]["prod"]
    try:
        made.daemon.settings["clusters"]["prod"] = as_it_was | {"credential": {"kubeconfig": str(kubeconfig)}}
        made.daemon.write()
        printed = _manifests(made.daemon, "named", daemonUser=name)
        rights = [each for each in yaml.safe_load_all(printed.read_text()) if "Role" in each["kind"]]
        _apply(made, yaml.safe_dump_all(rights))
        told = " ".join(_found(made.daemon))
        assert f"knows the daemon as {name}" in told
        assert "the fence does not hold" in told
        made.daemon.settings["clusters"]["prod"]["daemonUser"] = name
        made.daemon.write()
        _apply(made, printed.read_text())
        _until_nothing_is_wrong(made.daemon)
        arguments = ("create", "serviceaccount", "unfenced", "-n", GRANTS)
        assert "exchanged:" in made.cluster.kubectl(*arguments, kubeconfig=kubeconfig, check=False).stderr
    finally:
        made.daemon.settings["clusters"]["prod"] = as_it_was
        made.daemon.write()
        _restore(made)


def _until_nothing_is_wrong(daemon: Daemon) -> None:
    """An admission policy is in force a moment after it was applied."""
    for _ in range(20):
        if not _found(daemon):
            return
    assert _found(daemon) == []
