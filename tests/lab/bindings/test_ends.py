"""Ends at a real cluster that are not as simple as they should be."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.worlds import POD_READER, World, set_up, world
from tests.policies import policy

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

MODE = {"mode": "bindings", "namespaces": ["web", "other"], "clusterRoles": ["pod-reader"]}
GRANTS = "exchanged-grants"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
ACCOUNTS = f"/api/v1/namespaces/{GRANTS}/serviceaccounts"
CUT_SECONDS = 15
"""An API server believes a token for ten seconds after its account is gone."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster with a listed cluster role for two namespaces, and its daemon."""
    text = policy(
        "reads", name="pods", rules=None, clusterRole="pod-reader", acknowledge=None, workloads=None,
        namespaces=["web", "other"],
    )  # fmt: skip
    with world(tmp_path_factory.mktemp("ends"), {"prod": dict(MODE)}, {"reads.yaml": text}) as running:
        running.cluster.apply(POD_READER)
        yield running


@pytest.fixture
def made(shared: World) -> Iterator[World]:
    """The same, with everything as it was configured, before and after."""
    _until(lambda: shared.daemon.json("status")["clusters"]["prod"] is None)
    _until(lambda: shared.daemon.json("status")["backlog"] == 0)
    usual = json.dumps(shared.daemon.settings)
    yield shared
    shared.cluster.apply(POD_READER)
    if json.dumps(shared.daemon.settings) != usual or shared.daemon.process is None:
        shared.daemon.settings = json.loads(usual)
        _restart(shared)


def _until(holds: Callable[[], Any], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def _restart(made: World) -> None:
    made.daemon.stop()
    made.daemon.write()
    made.daemon.start()
    made.daemon.wait_ready()


def _status(made: World, reply: Any, namespace: str = "web") -> int:
    return made.cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods", token=reply["access_token"])[0]


def _state(made: World, reply: Any) -> str:
    return str(made.daemon.json("grants", "show", reply["grant_id"])["state"])


def _name(reply: Any) -> str:
    return f"reads-{reply['grant_id']}"


def test_what_is_held_is_backlog(made: World) -> None:
    """A binding with a finalizer stays, so the grant is not withdrawn before it is let go; its account goes at once."""
    reply = made.token("reads/pods")
    patch = ("patch", "rolebinding", _name(reply), "-n", "web", "--type=merge", "-p")
    made.cluster.kubectl(*patch, '{"metadata": {"finalizers": ["example.com/audit"]}}')
    made.daemon.run("grants", "revoke", reply["grant_id"])
    assert _state(made, reply) == "revoked"
    assert made.daemon.json("status")["backlog"] == 1
    assert made.cluster.request("GET", f"{ACCOUNTS}/{_name(reply)}")[0] == 404
    _until(lambda: _status(made, reply) in {401, 403}, CUT_SECONDS)
    made.cluster.kubectl(*patch, '{"metadata": {"finalizers": null}}')
    _until(lambda: _state(made, reply) == "withdrawn")


def test_one_binding_that_stays_keeps_no_account(made: World) -> None:
    """Where the daemon may delete nothing in one namespace, the account goes all the same, and rights end in both."""
    reply = made.token("reads/pods")
    assert (_status(made, reply, "web"), _status(made, reply, "other")) == (200, 200)
    made.cluster.kubectl("delete", "rolebinding", "exchanged-daemon", "-n", "other")
    made.daemon.run("grants", "revoke", reply["grant_id"])
    assert _state(made, reply) == "revoked"
    assert _status(made, reply, "web") in {401, 403}
    try:
        _until(lambda: _status(made, reply, "other") in {401, 403}, CUT_SECONDS)
    finally:
        set_up(made.daemon, "prod", made.cluster)
    _until(lambda: _state(made, reply) == "withdrawn")


def test_a_role_that_grew_while_the_daemon_was_down(made: World) -> None:
    """What nobody saw change is found at the start: the grant ends as if it had been watched."""
    reply = made.token("reads/pods")
    made.daemon.stop()
    made.cluster.apply(POD_READER.replace("resources: [pods]", "resources: [pods, secrets]"))
    made.daemon.start()
    _until(lambda: _state(made, reply) == "withdrawn")
    assert "secrets" in made.daemon.json("grants", "show", reply["grant_id"])["ended"]


def test_a_role_that_stayed_harmless_ends_nothing(made: World) -> None:
    """A change that needs no acknowledgement lets live grants live."""
    reply = made.token("reads/pods")
    made.cluster.apply(POD_READER.replace("resources: [pods]", "resources: [pods, services]"))
    services = "/api/v1/namespaces/web/services"
    _until(lambda: made.cluster.request("GET", services, token=reply["access_token"])[0] == 200)
    later: list[Any] = []

    def granted_anew() -> bool:
        arguments = ("token", "get", "--source", "stdin", "--scope", "reads/pods", "--cluster", "prod", "-o", "json")
        done = made.daemon.run(*arguments, stdin=made.issuer.github_token(), check=False)
        later.append(done.stdout)
        return done.returncode == 0

    _until(granted_anew)
    assert _state(made, reply) == "issued"
    assert _status(made, reply) == 200


def test_a_namespace_taken_away_is_withdrawn_from(made: World) -> None:
    """Grants for a namespace that is not configured any more end, and nothing of them is left there."""
    reply = made.token("reads/pods")
    settings = made.daemon.settings["clusters"]["prod"]
    settings["namespaces"] = ["web"]
    made.daemon.write()
    set_up(made.daemon, "prod", made.cluster)
    try:
        _restart(made)
        _until(lambda: _state(made, reply) == "withdrawn")
        assert _status(made, reply, "other") in {401, 403}
        assert made.cluster.request("GET", f"{BINDINGS.format('other')}/{_name(reply)}")[0] == 404
    finally:
        settings["namespaces"] = MODE["namespaces"]
        made.daemon.write()
        set_up(made.daemon, "prod", made.cluster)
        _restart(made)


def test_another_mode_withdraws_nothing_of_the_old_one(made: World) -> None:
    """A cluster whose mode changed keeps its old grants as backlog, and gives them up when it is what it was."""
    reply = made.token("reads/pods")
    before = made.daemon.settings["clusters"]["prod"]
    kept = ("server", "certificateAuthority", "credential")
    made.daemon.settings["clusters"]["prod"] = {"mode": "authorizer", **{name: before[name] for name in kept}}
    _restart(made)
    made.daemon.run("grants", "revoke", reply["grant_id"])
    assert _state(made, reply) == "revoked"
    assert made.daemon.json("status")["backlog"] == 1
    assert "not configured any more in mode bindings" in made.daemon.log.read_text()
    made.daemon.settings["clusters"]["prod"] = before
    _restart(made)
    _until(lambda: _state(made, reply) == "withdrawn")
    assert _status(made, reply) in {401, 403}


def test_a_cluster_taken_away_is_told(made: World) -> None:
    """Unfinished grants of a cluster that is not configured any more are in the status, and their ends are backlog."""
    reply = made.token("reads/pods")
    made.daemon.settings["clusters"] = {"elsewhere": {"mode": "authorizer", "server": "https://127.0.0.1:6443"}}
    made.daemon.settings["issuers"].pop("pods-of-prod")
    _restart(made)
    assert made.daemon.json("status")["not_configured"]["prod"] >= 1
    made.daemon.run("grants", "revoke", reply["grant_id"])
    assert _state(made, reply) == "revoked"
    assert made.daemon.json("status")["backlog"] == 1


def test_a_restored_store_takes_away_what_it_does_not_know(made: World) -> None:
    """After `store new-epoch` a grant that was made since the backup is gone when the daemon is back, and no other."""
    made.daemon.stop()
    state, backup = made.daemon.folder / "state", made.daemon.folder / "backup"
    shutil.copytree(state, backup)
    made.daemon.start()
    made.daemon.wait_ready()
    _until(lambda: made.daemon.json("status")["clusters"]["prod"] is None)
    reply = made.token("reads/pods")
    made.daemon.stop()
    shutil.rmtree(state)
    backup.rename(state)
    made.daemon.run("store", "new-epoch")
    assert _status(made, reply) == 200
    made.daemon.start()
    _until(lambda: _status(made, reply) in {401, 403})
    made.daemon.wait_ready()
    _until(lambda: made.cluster.request("GET", f"{ACCOUNTS}/{_name(reply)}")[0] == 404)
    _until(lambda: made.daemon.json("status")["clusters"]["prod"] is None)
    # Of the subject's tokens only later ones are good for something.
    time.sleep(1)
    assert _status(made, made.token("reads/pods")) == 200


def test_a_poisoned_object_stops_no_sweep(made: World) -> None:
    """What carries our mark but no grant's stays where it is, and what a grant left beside it is swept."""
    instance = made.daemon.json("status")["instance"]

    def role(name: str, labels: str) -> str:
        return f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {name}
  namespace: web
  labels: {{exchanged.dev/instance: "{instance}"{labels}}}
  annotations: {{exchanged.dev/expires-at: "2020-01-01T00:00:00Z"}}
rules: []
"""

    grant_label = ', exchanged.dev/grant: "00000000000000000000"'
    made.cluster.apply(role("a-bomb", "") + "---" + role("reads-00000000000000000000", grant_label))
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/web/roles"
    _restart(made)
    _until(lambda: made.cluster.request("GET", f"{path}/reads-00000000000000000000")[0] == 404)
    assert made.cluster.request("GET", f"{path}/a-bomb")[0] == 200
    made.cluster.kubectl("delete", "role", "a-bomb", "-n", "web")
