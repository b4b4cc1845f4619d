"""What every mode promises; a new one joins the parameters. `bindings` runs over the lab cluster and its stand-in."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchanged.cluster import manifests
from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.authorizer import AuthorizerMode
from exchanged.cluster.bindings import BindingsMode
from exchanged.cluster.review import review
from exchanged.cluster.roles import WatchedRoles
from exchanged.config import Credential
from exchanged.keys.signing import KeyRing
from exchanged.model import ClusterObject, ClusterTraits, Grant, GrantId, GrantState, IssuedToken, Mode
from exchanged.ports import ClusterMode
from tests.api_server import FakeApiServer
from tests.grants import PROD, allowed, grant, rule, traits
from tests.lab.cluster import Cluster

OURS, THEIRS = secrets.token_hex(6), secrets.token_hex(6)
PODS = rule(api_groups=("",), resources=("pods",), verbs=("get", "list"), resource_names=())
HOURS = timedelta(hours=3)


@dataclass(slots=True)
class Subject:
    """A mode, and ways to look at its cluster: what is there, and what a token may do."""

    mode: ClusterMode
    namespace: str
    there: Callable[[ClusterObject], Awaitable[bool]]
    may_list: Callable[[Grant, IssuedToken, str], Awaitable[bool]]
    put: Callable[[str, Grant], Awaitable[ClusterObject | None]]
    """Makes an object with the mark of a store (its instance), for a grant; None where the mode makes none."""

    def grant(self, **changes: Any) -> Grant:
        """A grant to list pods in the namespace, planned; it expires in some minutes."""
        now = datetime.now(UTC).replace(microsecond=0)
        decided = allowed(cluster=self.mode.traits.name, namespaces=(self.namespace,), rules=(PODS,), acknowledged=())
        made = grant(mode=self.mode.traits.mode, allowed=decided, created_at=now, expires_at=now + decided.lifetime)
        made = replace(made, **changes)
        return replace(made, plan=self.mode.plan(made.id, made.allowed))

    async def issued(self, **changes: Any) -> tuple[Grant, IssuedToken]:
        """A grant that is issued, as the store has it then."""
        made = self.grant(**changes)
        token = await self.mode.issue(made)
        issued = replace(made, state=GrantState.ISSUED, credential_id=token.credential_id, objects=token.objects)
        return issued, token

    async def sweep(self, *known: GrantId, epoch: datetime | None = None) -> set[ClusterObject]:
        """What a sweep deletes three hours from now."""

        async def is_known(grant_id: GrantId) -> bool:
            return grant_id in known

        later = datetime.now(UTC) + HOURS
        return set(await self.mode.sweep(is_known, later, epoch=epoch, namespaces=frozenset({self.namespace})))


def _authorizer(folder: Path) -> Subject:
    ring = KeyRing(
        folder=folder,
        rotate_after=timedelta(days=30),
        publish_ahead=timedelta(days=1),
        longest_grant=timedelta(hours=1),
        clock=lambda: datetime.now(UTC),
    )
    ring.load()

    async def there(_: ClusterObject) -> bool:
        return False

    async def may_list(made: Grant, token: IssuedToken, resource: str) -> bool:
        claims = jwt.decode(token.text, options={"verify_signature": False})
        spec = {
            "user": f"exchanged:{claims['sub']}",
            "uid": claims["grant"],
            "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]},
            "resourceAttributes": {"verb": "list", "group": "", "resource": resource, "namespace": "web"},
        }
        return review(spec, made, traits(), datetime.now(UTC)).allowed

    async def put(_: str, __: Grant) -> None:
        return None

    mode = AuthorizerMode(traits=traits(), keys=ring, issuer="https://exchanged.example", audience="https://x")
    return Subject(mode, "web", there, may_list, put)


def _bindings(api: KubernetesApi, namespace: str, may_list: Callable[[Grant, IssuedToken, str], Any]) -> Subject:
    bound = _traits(namespace)
    mode = BindingsMode(
        traits=bound,
        api=api,
        roles=WatchedRoles(api=api, names=frozenset()),
        instance=OURS,
        grants_namespace=f"{namespace}-grants",
        namespaces=frozenset({namespace}),
        audience="https://kubernetes",
        listed_roles=frozenset(),
    )

    async def there(made: ClusterObject) -> bool:
        try:
            await api.call("GET", manifests.path(made))
        except ApiError as error:
            return error.status != 404
        return True

    async def put(instance: str, made: Grant) -> ClusterObject:
        planned = made.plan.objects[0]
        body = manifests.manifest(made, instance, planned, f"{namespace}-grants")
        answer = await api.call("POST", manifests.collection(planned.kind, planned.namespace), body)
        return replace(planned, uid=answer["metadata"]["uid"])

    return Subject(mode, namespace, there, may_list, put)


def _traits(namespace: str) -> ClusterTraits:
    closed = frozenset({f"{namespace}-grants"})
    return traits(mode=Mode.BINDINGS, fenced_roles=True, breeding=frozenset(), closed_namespaces=closed)


@asynccontextmanager
async def _stand_in(folder: Path) -> AsyncIterator[Subject]:
    async with FakeApiServer.serving() as server, server.api(folder) as api:

        async def may_list(made: Grant, token: IssuedToken, resource: str) -> bool:
            del token
            attributes = {"verb": "list", "group": "", "resource": resource, "namespace": "web"}
            attributes |= {"subresource": "", "name": ""}
            asked = {"spec": {"user": made.plan.user, "resourceAttributes": attributes}}
            return bool(server._reviewed(asked)["status"]["allowed"])

        yield _bindings(api, "web", may_list)


@asynccontextmanager
async def _lab(folder: Path, cluster: Cluster, namespace: str) -> AsyncIterator[Subject]:
    grants = f"{namespace}-grants"
    cluster.kubectl("create", "namespace", grants)
    (folder / "token").write_text(cluster.admin_token)
    api = KubernetesApi(
        name=PROD,
        server=cluster.server,
        certificate_authority=cluster.ca_file,
        credential=Credential(tokenFile=folder / "token"),
        time_out=10,
        observe=lambda _: None,
    )

    async def may_list(made: Grant, token: IssuedToken, resource: str) -> bool:
        del made
        status, _ = cluster.request("GET", f"/api/v1/namespaces/{namespace}/{resource}", token=token.text)
        assert status in {200, 401, 403}
        return status == 200

    subject = _bindings(api, namespace, may_list)
    subject.mode._audience = cluster.issuer  # type: ignore[attr-defined] # what the daemon is configured with
    try:
        yield subject
    finally:
        await api.close()
        cluster.kubectl("delete", "namespace", grants, "--wait=false")


@pytest.fixture(params=["authorizer", "bindings", pytest.param("bindings-lab", marks=pytest.mark.lab)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """A mode of each kind."""
    if request.param == "authorizer":
        yield _authorizer(tmp_path)
    elif request.param == "bindings":
        async with _stand_in(tmp_path) as made:
            yield made
    else:
        cluster, namespace = request.getfixturevalue("lab_cluster"), request.getfixturevalue("lab_namespace")
        async with _lab(tmp_path, cluster, namespace) as made:
            yield made


async def test_a_plan_names_what_is_made(subject: Subject) -> None:
    """What is made is what the plan said, with uids, and is there; a credential that was planned is the token's."""
    made, token = await subject.issued()
    assert {replace(each, uid="") for each in token.objects} == set(made.plan.objects)
    assert all([each.uid and await subject.there(each) for each in token.objects])
    assert token.credential_id == jwt.decode(token.text, options={"verify_signature": False}).get("jti")
    assert made.plan.credential_id in {"", token.credential_id}
    assert made.id in made.plan.user


async def test_a_token_works_and_does_no_more(subject: Subject) -> None:
    """When the grant is issued its token may do what was granted, at once, and nothing beside it."""
    made, token = await subject.issued()
    assert await subject.may_list(made, token, "pods")
    assert not await subject.may_list(made, token, "configmaps")


async def test_a_withdrawal_leaves_nothing_and_is_safe_to_repeat(subject: Subject) -> None:
    """Once or twice, with what was made on record or only planned, and where nothing was made at all."""
    made, token = await subject.issued()
    lives, its_token = await subject.issued()
    # The mode withdraws from the cluster; that the grant has ended the store says, and the authorizer by it.
    ended = replace(made, state=GrantState.REVOKED, ended="test")
    for _ in range(2):
        await subject.mode.withdraw(ended)
    assert not await subject.may_list(ended, token, "pods")
    assert not any([await subject.there(each) for each in made.plan.objects])
    assert await subject.may_list(lives, its_token, "pods")
    await subject.mode.withdraw(replace(lives, state=GrantState.FAILED, objects=()))
    assert not any([await subject.there(each) for each in lives.plan.objects])
    await subject.mode.withdraw(subject.grant())


async def test_a_sweep_leaves_what_is_known_and_what_is_foreign(subject: Subject) -> None:
    """Of objects past their time only those of this store go that it does not know; it tells which."""
    known, _ = await subject.issued()
    foreign = await subject.put(THEIRS, subject.grant())
    lost = await subject.put(OURS, subject.grant())
    lives = await subject.put(OURS, subject.grant(expires_at=datetime.now(UTC) + 2 * HOURS))
    assert await subject.sweep(known.id) == ({lost} if lost else set())
    assert await subject.sweep(known.id) == set()
    assert all([await subject.there(each) for each in (*known.plan.objects, foreign, lives) if each])
    # After a new epoch what was made before it goes at once.
    assert await subject.sweep(known.id, epoch=datetime.now(UTC)) == ({lives} if lives else set())
    assert all([await subject.there(each) for each in (*known.plan.objects, foreign) if each])


async def test_a_mode_that_could_issue_says_nothing(subject: Subject) -> None:
    """`unready` is None where a grant could be issued, as it is here."""
    assert subject.mode.unready() is None
    assert (await subject.mode.issue(subject.grant())).text


@pytest.mark.lab
async def test_calls_to_a_real_cluster(tmp_path: Path, lab_cluster: Cluster, lab_namespace: str) -> None:
    """A grant costs a call an object, one for the token and few for the question; its withdrawal, one an object."""
    async with _lab(tmp_path, lab_cluster, lab_namespace) as made:
        api, costs = made.mode._api, []  # type: ignore[attr-defined] # whose calls are counted
        await made.issued()
        for _ in range(10):
            before = api.calls
            issued, _ = await made.issued()
            costs.append(api.calls - before)
            before = api.calls
            await made.mode.withdraw(issued)
            assert api.calls - before == 3
        # Account, token, role, binding, and one question at least; milliseconds later it is answered with yes.
        assert min(costs) >= 5
        assert sorted(costs)[len(costs) // 2] <= 12
