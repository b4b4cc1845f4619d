import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exchanged.cluster import manifests, usable
from exchanged.cluster.api import KubernetesApi
from exchanged.cluster.bindings import BindingsMode
from exchanged.cluster.roles import WatchedRoles, role
from exchanged.errors import ClusterUnavailable, ExchangeError, Reason, ScopeDenied, StoreUnavailable
from exchanged.model import ClusterObject, Grant, GrantId, Mode
from tests.api_server import FakeApiServer
from tests.grants import NOW, allowed, grant, rule, traits

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
ACCOUNTS = "/api/v1/namespaces/grants/serviceaccounts"
OURS, THEIRS = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
EXPIRED = "2020-01-01T00:00:00Z"


@dataclass(slots=True)
class Made:
    """A server, a mode that works at it, and the role that grants are bound to."""

    server: FakeApiServer
    api: KubernetesApi
    roles: WatchedRoles
    mode: BindingsMode

    def put_role(self, *rules: dict[str, Any]) -> None:
        """The cluster role `reader`, as the cluster has it and as it was watched."""
        self.server.put_role("reader", list(rules))
        self.roles._roles["reader"] = role({"metadata": {"name": "reader"}, "rules": list(rules)})

    def grant(self, **changes: Any) -> Grant:
        """A grant that is bound to the role in `web`, planned."""
        usual: dict[str, Any] = {"cluster_role": "reader", "rules": (), "workload_accounts": ()}
        made = grant(mode=Mode.BINDINGS, allowed=allowed(**(usual | changes)))
        return replace(made, plan=self.mode.plan(made.id, made.allowed))

    async def issued(self, **changes: Any) -> Grant:
        """The same, issued."""
        made = self.grant(**changes)
        return replace(made, objects=(await self.mode.issue(made)).objects)

    async def sweep(
        self, *known: GrantId, now: datetime = NOW, epoch: datetime | None = None, namespaces: tuple[str, ...] = ()
    ) -> set[str]:
        """The names of what a sweep deleted."""

        async def is_known(grant_id: GrantId) -> bool:
            return grant_id in known

        swept = await self.mode.sweep(is_known, now, epoch=epoch, namespaces=frozenset(namespaces))
        return {each.name for each in swept}

    def put(self, kind: str, name: str, *, namespace: str = "web", expires: str = EXPIRED, **more: str) -> None:
        """An object with this store's mark, whoever made it."""
        labels = {manifests.INSTANCE_LABEL: OURS, **more}
        head = {"name": name, "namespace": namespace, "uid": name, "labels": labels}
        head |= {"annotations": {manifests.EXPIRES: expires}, "creationTimestamp": "2026-01-05T11:00:00Z"}
        path = manifests.path(ClusterObject(kind=kind, namespace=namespace, name=name))
        self.server.objects[path] = {"metadata": head}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    """A cluster that grants in `web` and `shop`, with fenced roles and one cluster role."""
    async with FakeApiServer.serving() as server, server.api(tmp_path) as api:
        roles = WatchedRoles(api=api, names=frozenset({"reader"}))
        mode = BindingsMode(
            traits=traits(mode=Mode.BINDINGS, fenced_roles=True),
            api=api,
            roles=roles,
            instance=OURS,
            grants_namespace="grants",
            namespaces=frozenset({"web", "shop"}),
            audience="https://kubernetes",
            listed_roles=frozenset({"reader"}),
        )
        running = Made(server, api, roles, mode)
        running.put_role(PODS)
        yield running


# Withdrawing


async def test_what_fails_keeps_nothing_else(made: Made) -> None:
    """Where bindings cannot be deleted the account is: without it they are for nobody. That they stay is said."""
    issued = await made.issued()
    made.server.refuse(403, "DELETE /apis/rbac")
    with pytest.raises(ClusterUnavailable, match="403 DELETE"):
        await made.mode.withdraw(issued)
    assert made.server.left() == {f"{RBAC}/web/rolebindings/{issued.plan.objects[1].name}"}
    made.server.fault = None
    await made.mode.withdraw(issued)
    assert made.server.left() == set()


async def test_one_namespace_that_fails_keeps_no_other(made: Made) -> None:
    """The bindings of all other namespaces are deleted."""
    issued = await made.issued(namespaces=("shop", "web"))
    made.server.refuse(500, f"DELETE {RBAC}/shop")
    with pytest.raises(ClusterUnavailable, match="500"):
        await made.mode.withdraw(issued)
    assert [path.split("/")[5] for path in made.server.left()] == ["shop"]


@pytest.mark.parametrize("kind", ["RoleBinding", "ServiceAccount"])
async def test_an_object_that_is_held_is_not_gone(made: Made, kind: str) -> None:
    """With a finalizer an object is only marked, and stays in force: the grant is withdrawn when that is taken away."""
    issued = await made.issued()
    (held,) = (each for each in issued.objects if each.kind == kind)
    head = made.server.objects[manifests.path(held)]["metadata"]
    head["finalizers"] = ["example.com/audit"]
    for each in (issued, replace(issued, objects=())):
        with pytest.raises(ClusterUnavailable, match=r"example\.com/audit"):
            await made.mode.withdraw(each)
    assert made.server.left() == {manifests.path(held)}
    head["finalizers"] = []
    await made.mode.withdraw(issued)
    assert made.server.left() == set()


async def test_what_has_the_name_now_is_not_ours(made: Made) -> None:
    """An object that somebody else made under the name is left, whether a uid was learnt or not."""
    issued = await made.issued()
    path = manifests.path(issued.objects[0])
    made.server.objects[path] = {"metadata": {"name": "x", "namespace": "grants", "uid": "another", "labels": {}}}
    await made.mode.withdraw(issued)
    await made.mode.withdraw(replace(issued, objects=()))
    assert made.server.left() == {path}


async def test_a_held_object_that_was_replaced_meanwhile_is_gone(made: Made) -> None:
    """What was held and let go just now, and made anew by somebody, is not what was deleted."""
    issued = await made.issued()
    path = manifests.path(issued.objects[0])
    made.server.objects[path]["metadata"]["finalizers"] = ["example.com/audit"]
    other = {"metadata": {"name": "x", "namespace": "grants", "uid": "another"}}
    deleting = made.mode.withdraw(issued)

    def replaced(method: str, asked: str) -> None:
        if (method, asked) == ("GET", path):
            made.server.objects[path] = other

    made.server.fault = replaced
    await deleting
    assert made.server.objects[path] is other


async def test_an_answer_of_another_shape_is_no_withdrawal(made: Made) -> None:
    """Where something else answers for the cluster, nothing is taken for gone."""
    issued = replace(await made.issued(), objects=())
    made.server.always(text='{"metadata": {"labels": null}}')
    await made.mode.withdraw(issued)  # somebody else's, by its labels
    labels = {manifests.INSTANCE_LABEL: OURS, manifests.GRANT_LABEL: issued.id}
    made.server.always(text=json.dumps({"metadata": {"labels": labels}}))
    with pytest.raises(ClusterUnavailable, match=r"no metadata\.name"):
        await made.mode.withdraw(issued)


# Sweeping


async def test_a_sweep_goes_on_past_what_it_cannot_delete(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    """An object that nobody may delete, or that is held, is told of, and keeps none of the others."""
    for number in range(3):
        made.put("Role", f"r{number}", **{manifests.GRANT_LABEL: f"{number:020x}"})
    made.put("RoleBinding", "held", **{manifests.GRANT_LABEL: "f" * 20})
    made.server.objects[f"{RBAC}/web/rolebindings/held"]["metadata"]["finalizers"] = ["x"]
    made.server.refuse(403, f"DELETE {RBAC}/web/roles/r1")
    assert await made.sweep() == {"r0", "r2"}
    assert caplog.text.count("cannot be deleted") == 2


@pytest.mark.parametrize("label", [None, "", "0" * 19, "g" * 20, "0" * 21, "A" * 20])
async def test_what_was_not_made_for_a_grant_is_left(made: Made, label: str | None) -> None:
    """An object with our mark and no grant's id is none that we made: the fence lets nobody delete it."""
    more = {manifests.GRANT_LABEL: label} if label is not None else {}
    made.put("Role", "bomb", **more)
    made.put("Role", "left", **{manifests.GRANT_LABEL: "1" * 20})
    assert await made.sweep(epoch=NOW) == {"left"}
    assert f"DELETE {RBAC}/web/roles/bomb" not in made.server.asked


@pytest.mark.parametrize(
    ("expires", "epoch", "swept"),
    [
        ("2026-01-05T11:58:59Z", None, True),
        ("2026-01-05T11:59:30Z", None, False),
        ("2026-01-05T13:00:00Z", None, False),
        ("2026-01-05T13:00:00Z", NOW - timedelta(minutes=59, seconds=30), True),
        ("2026-01-05T13:00:00Z", NOW - timedelta(minutes=62), False),
        ("whenever", None, False),
        ("whenever", NOW, True),
    ],
)
async def test_when_an_unknown_object_is_over(
    made: Made,
    expires: str,
    epoch: datetime | None,
    swept: bool,  # noqa: FBT001 - a column
) -> None:
    """Past its own expiry; or at once, when a restored store began a new epoch after it was made."""
    made.put("Role", "left", expires=expires, **{manifests.GRANT_LABEL: "1" * 20})
    assert await made.sweep(epoch=epoch) == ({"left"} if swept else set())
    assert await made.sweep(GrantId("1" * 20), epoch=epoch) == set()


async def test_a_sweep_looks_where_grants_are(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    """Namespaces that are not configured any more are searched too; one that cannot be searched keeps no other."""
    made.put("Role", "left", namespace="gone", **{manifests.GRANT_LABEL: "1" * 20})
    assert await made.sweep() == set()
    made.server.refuse(403, f"GET {RBAC}/web/roles", f"GET {RBAC}/shop/rolebindings")
    assert await made.sweep(namespaces=("gone",)) == {"left"}
    assert caplog.text.count("cannot be searched") == 2


async def test_a_cluster_out_of_reach_is_not_swept(made: Made) -> None:
    """Where it cannot be told what there is, nothing is deleted."""
    made.put("RoleBinding", "left", **{manifests.GRANT_LABEL: "1" * 20})
    made.server.refuse(503, f"GET {ACCOUNTS}")
    with pytest.raises(ClusterUnavailable):
        await made.sweep()
    assert made.server.count("DELETE") == 0


async def test_a_store_that_cannot_be_read_keeps_everything(made: Made) -> None:
    """What cannot be told to be unknown is left."""
    made.put("Role", "left", **{manifests.GRANT_LABEL: "1" * 20})

    async def unread(_: GrantId) -> bool:
        raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "told to fail")

    assert await made.mode.sweep(unread, NOW, epoch=None, namespaces=frozenset()) == ()
    assert made.server.count("DELETE") == 0


# Issuing


async def test_calls_per_grant(made: Made) -> None:
    """A grant costs account, token, binding and one question whether it works; its withdrawal, one call an object."""
    issued = await made.issued()
    assert made.api.calls == 4
    await made.mode.withdraw(issued)
    assert made.api.calls == 6
    made.api.calls = 0
    await made.issued(namespaces=("shop", "web"), workload_accounts=("web",))
    # Two for the account; in each namespace a binding with its question, and the same with a role to name accounts.
    assert made.api.calls == 2 + 2 * (2 + 3)


async def test_its_own_binding_is_waited_for(made: Made) -> None:
    """A right that everybody has proves nothing: what its own binding alone gives is asked for, until that is there."""
    made.put_role(PODS, SECRETS)
    made.server.everybody.append(PODS)
    made.roles._roles["reader"] = replace(made.roles._roles["reader"], classes=frozenset())
    asked = made.grant()
    made.server.blind.add(asked.plan.objects[1].name)
    issuing = asyncio.create_task(made.mode.issue(asked))
    while [each["resource"] for each in made.server.reviewed].count("secrets") < 3:  # noqa: ASYNC110 - requests
        await asyncio.sleep(0.001)
    assert not issuing.done()
    made.server.blind.clear()
    assert len((await issuing).objects) == 2


async def test_what_everybody_may_needs_no_proof(made: Made) -> None:
    """Where all of its rules are everybody's anyway, the grant works from the start."""
    made.server.everybody.append(PODS)
    asked = made.grant()
    made.server.blind.add(asked.plan.objects[1].name)
    assert (await made.mode.issue(asked)).text
    made.put_role()
    assert (await made.mode.issue(made.grant())).text


async def test_the_right_to_name_accounts_is_waited_for(made: Made) -> None:
    """The second binding, by which pod templates may name accounts, works as well when the token leaves."""
    asked = made.grant(workload_accounts=("web",))
    (run_as,) = {each.name for each in asked.plan.objects if each.name.endswith("-run-as")}
    made.server.blind.add(run_as)
    issuing = asyncio.create_task(made.mode.issue(asked))
    while [each["verb"] for each in made.server.reviewed].count("run-as") < 3:  # noqa: ASYNC110 - requests
        await asyncio.sleep(0.001)
    assert not issuing.done()
    made.server.blind.clear()
    await issuing


async def test_a_role_of_its_own_is_asked_about_by_what_nobody_else_has(made: Made) -> None:
    """With fenced roles one question is enough, also where everybody has the rights."""
    made.server.everybody.append({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]})
    await made.issued(cluster_role="", rules=(rule(),), workload_accounts=("web",))
    assert [each["verb"] for each in made.server.reviewed] == ["run-as"]


async def test_waiting_is_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding that the cluster does not honour in time is a cluster that cannot grant."""
    monkeypatch.setattr(usable, "USABLE_SECONDS", 0.3)
    asked = made.grant()
    made.server.blind.add(asked.plan.objects[1].name)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ClusterUnavailable, match="not honoured"):
        await made.mode.issue(asked)
    assert asyncio.get_running_loop().time() - began < 3


async def test_a_role_that_changed_since_the_decision_is_not_bound(made: Made) -> None:
    """Between the plan and the record nobody else looks: what changed then is refused before anything is made."""
    harmless, harmful = made.grant(), made.grant()
    made.put_role(PODS, {"apiGroups": [""], "resources": ["services"], "verbs": ["get"]})
    with pytest.raises(ClusterUnavailable, match="changed"):
        await made.mode.issue(harmless)
    made.put_role(PODS, SECRETS)
    with pytest.raises(ScopeDenied):
        await made.mode.issue(harmful)
    del made.roles._roles["reader"]
    with pytest.raises(ClusterUnavailable, match="not there"):
        await made.mode.issue(harmful)
    assert made.server.asked == []


@pytest.mark.parametrize(
    "answer",
    ["{}", '{"metadata": {"name": "n"}}', '{"status": {"token": "x"}}', '{"status": {"token": "h.e30.s"}}', "<html>"],
)
async def test_an_answer_of_another_shape_grants_nothing(made: Made, answer: str) -> None:
    """Whatever answers for the cluster, it is an error that callers may be told."""
    made.server.always(text=answer, status=201)
    with pytest.raises(ExchangeError) as refused:
        await made.mode.issue(made.grant())
    assert refused.value.reason is Reason.CLUSTER_UNAVAILABLE


@pytest.mark.parametrize("token", ["", "x", "a.b", "a.!.c", "a.W10.c"])
async def test_what_is_no_token_is_not_given_out(made: Made, token: str) -> None:
    """An account's token that cannot be one is an error of the cluster's."""
    asked = made.grant()
    made.server.fault = _only(f"POST {ACCOUNTS}/{asked.plan.objects[0].name}/token", token)
    with pytest.raises(ClusterUnavailable):
        await made.mode.issue(asked)


def _only(request: str, token: str) -> Any:
    def fault(method: str, path: str) -> web.Response | None:
        answer = web.json_response({"status": {"token": token}}, status=201)
        return answer if f"{method} {path}" == request else None

    return fault
