"""Mode `bindings`: a ServiceAccount of the grant's own, bound where it may act, with the cluster's own token."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from exchanged.cluster import manifests
from exchanged.cluster.api import ApiError, KubernetesApi
from exchanged.cluster.manifests import EXPIRES, GRANT_LABEL, INSTANCE_LABEL, RUN_AS_SUFFIX, segment
from exchanged.cluster.roles import Role, WatchedRoles
from exchanged.config import TOKEN_REQUEST_FLOOR
from exchanged.errors import ClusterUnavailable, Reason, ScopeDenied, TargetDenied
from exchanged.model import (
    Allowed,
    ClusterObject,
    ClusterTraits,
    Grant,
    GrantId,
    IssuedToken,
    Plan,
    Rule,
)

USABLE_SECONDS = 5.0
"""How long a new binding may take to be seen by the cluster's authorizer; milliseconds are usual."""
FIRST_PAUSE = 0.0003
"""Seconds before the cluster is asked again whether a binding works: it takes 1 to 4 ms."""
LONGER = 1.4
"""How much longer each further pause is."""
EXTENDED_LIFETIME = 3607
"""Seconds. A token request of exactly this is silently given a year (kube-apiserver, for pod-bound tokens)."""
SWEEP_MARGIN = timedelta(minutes=1)
"""Beyond an object's own expiry, before it is swept: clocks differ."""
KINDS = ("RoleBinding", "Role", "ServiceAccount")
"""In the order of withdrawal: the binding is the cut."""


class BindingsMode:
    """Implements `ClusterMode` for a cluster of any kind."""

    def __init__(
        self,
        *,
        traits: ClusterTraits,
        api: KubernetesApi,
        roles: WatchedRoles,
        instance: str,
        grants_namespace: str,
        namespaces: frozenset[str],
        audience: str,
        listed_roles: frozenset[str],
    ) -> None:
        self._traits = traits
        self._api = api
        self._roles = roles
        self._instance = instance
        self._grants_namespace = grants_namespace
        self._namespaces = namespaces
        self._audience = audience
        self._listed_roles = listed_roles

    @property
    def traits(self) -> ClusterTraits:
        """See `ClusterMode.traits`."""
        return self._traits

    def plan(self, grant_id: GrantId, allowed: Allowed) -> Plan:
        """See `ClusterMode.plan`."""
        if allowed.cluster_scoped:
            raise TargetDenied(Reason.CLUSTER_NOT_GRANTED, "mode bindings grants namespaces, not the whole cluster")
        beyond = frozenset(allowed.namespaces) - self._namespaces
        if beyond:
            raise TargetDenied(
                Reason.CLUSTER_NOT_GRANTED, f"{self._traits.name} does not list {', '.join(sorted(beyond))}"
            )
        role = self._role(allowed) if allowed.cluster_role else None
        name = manifests.name_of(allowed.policy, grant_id)
        return Plan(
            user=f"system:serviceaccount:{self._grants_namespace}:{name}",
            objects=tuple(self._objects(name, allowed)),
            role_digest=role.digest if role else "",
        )

    async def issue(self, grant: Grant) -> IssuedToken:
        """See `ClusterMode.issue`."""
        try:
            # What is independent goes at the same time: a binding may name an account that is still to come.
            (account, token), rights = await _all((self._make_account(grant), self._make_rights(grant)))
        except ApiError as error:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._traits.name}: {error}") from error
        return IssuedToken(text=token, credential_id=_token_id(token), objects=(account, *rights))

    async def _make_account(self, grant: Grant) -> tuple[ClusterObject, str]:
        """The grant's own account, and a token of it."""
        (planned,) = (each for each in grant.plan.objects if each.kind == "ServiceAccount")
        return await self._create(grant, planned), await self._request_token(grant)

    async def _make_rights(self, grant: Grant) -> list[ClusterObject]:
        """What the account may do; when this returns, the cluster says that it may."""
        planned = [each for each in grant.plan.objects if each.kind != "ServiceAccount"]
        made: list[ClusterObject] = await _all(self._create(grant, each) for each in planned)
        await self._usable(grant)
        return made

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`."""
        known = {(made.kind, made.namespace, made.name): made for made in grant.objects}
        objects = [known.get((each.kind, each.namespace, each.name), each) for each in grant.plan.objects]
        try:
            for kind in KINDS:
                await _all(self._delete(grant, made) for made in objects if made.kind == kind)
        except ApiError as error:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._traits.name}: {error}") from error

    async def sweep(self, is_known: Callable[[GrantId], Awaitable[bool]], now: datetime) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        swept = []
        for kind in KINDS:
            namespaces = [self._grants_namespace] if kind == "ServiceAccount" else sorted(self._namespaces)
            for namespace in namespaces:
                for found in await self._ours(kind, namespace):
                    grant_id = GrantId(found["metadata"]["labels"].get(GRANT_LABEL, ""))
                    if _is_over(found, now) and not await is_known(grant_id):
                        made = _object(kind, found)
                        await self._delete_exactly(made)
                        swept.append(made)
        return tuple(swept)

    async def run(self) -> None:
        """See `ClusterMode.run`."""
        await self._roles.run()

    def unready(self) -> str | None:
        """See `ClusterMode.unready`."""
        return self._roles.unready()

    def _role(self, allowed: Allowed) -> Role:
        if allowed.cluster_role not in self._listed_roles:
            raise TargetDenied(
                Reason.CLUSTER_NOT_GRANTED, f"{self._traits.name} does not list cluster role {allowed.cluster_role}"
            )
        role = self._roles.get(allowed.cluster_role)
        if role is None:
            raise ClusterUnavailable(
                Reason.CLUSTER_UNAVAILABLE,
                f"{self._traits.name}: cluster role {allowed.cluster_role} is not there, or cannot be read",
            )
        unowned = role.classes - frozenset(allowed.acknowledged)
        unadmitted = role.classes - self._traits.breeding
        if unowned or unadmitted:
            raise ScopeDenied(
                Reason.BREEDING_NOT_ACKNOWLEDGED,
                f"cluster role {role.name} as it stands holds {', '.join(sorted(unowned | unadmitted))}",
            )
        return role

    def _objects(self, name: str, allowed: Allowed) -> Iterable[ClusterObject]:
        yield ClusterObject(kind="ServiceAccount", namespace=self._grants_namespace, name=name)
        for namespace in allowed.namespaces:
            if allowed.cluster_role:
                yield ClusterObject(kind="RoleBinding", namespace=namespace, name=name)
            own = f"{name}{RUN_AS_SUFFIX}" if allowed.cluster_role else name
            if not allowed.cluster_role or allowed.workload_accounts:
                yield ClusterObject(kind="Role", namespace=namespace, name=own)
                yield ClusterObject(kind="RoleBinding", namespace=namespace, name=own)

    async def _create(self, grant: Grant, planned: ClusterObject) -> ClusterObject:
        body = manifests.manifest(grant, self._instance, planned, self._grants_namespace)
        answer = await self._api.call("POST", manifests.collection(planned.kind, planned.namespace), body)
        return _object(planned.kind, answer)

    async def _request_token(self, grant: Grant) -> str:
        seconds = int(max(grant.allowed.lifetime, TOKEN_REQUEST_FLOOR).total_seconds())
        if seconds == EXTENDED_LIFETIME:
            seconds -= 1
        spec: dict[str, Any] = {"expirationSeconds": seconds, "audiences": [self._audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        name = manifests.name_of(grant.policy, grant.id)
        path = f"{manifests.collection('ServiceAccount', self._grants_namespace)}/{segment(name)}/token"
        answer = await self._api.call("POST", path, body)
        return str(answer["status"]["token"])

    async def _usable(self, grant: Grant) -> None:
        """Returns when the cluster says that the grant's account may do what it was granted."""
        await _all(self._usable_in(grant, namespace) for namespace in grant.allowed.namespaces)

    async def _usable_in(self, grant: Grant, namespace: str) -> None:
        role = self._roles.get(grant.allowed.cluster_role)
        rules = role.rules if role else grant.allowed.rules
        if not rules:
            return
        body = _access_review(grant.plan.user, self._grants_namespace, namespace, rules[0])
        pause = FIRST_PAUSE
        while pause < USABLE_SECONDS:
            answer = await self._api.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
            if answer.get("status", {}).get("allowed") is True:
                return
            await asyncio.sleep(pause)
            pause *= LONGER
        raise ClusterUnavailable(
            Reason.CLUSTER_UNAVAILABLE, f"{self._traits.name}: the binding was not honoured in {USABLE_SECONDS} s"
        )

    async def _delete(self, grant: Grant, made: ClusterObject) -> None:
        """Deletes an object of this grant by name and uid; where no uid was learnt, after a look at its labels."""
        if not made.uid:
            try:
                found = await self._api.call("GET", manifests.path(made))
            except ApiError as error:
                if error.status == 404:  # noqa: PLR2004 - gone, or never made
                    return
                raise
            labels = found["metadata"].get("labels", {})
            if (labels.get(INSTANCE_LABEL), labels.get(GRANT_LABEL)) != (self._instance, grant.id):
                return  # somebody else's
            made = _object(made.kind, found)
        await self._delete_exactly(made)

    async def _delete_exactly(self, made: ClusterObject) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "propagationPolicy": "Background",
            "preconditions": {"uid": made.uid},
        }
        try:
            await self._api.call("DELETE", manifests.path(made), body)
        except ApiError as error:
            # Gone already; or another object has the name now, and that one is not ours.
            if error.status not in {404, 409}:
                raise

    async def _ours(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        try:
            answer = await self._api.call(
                "GET",
                manifests.collection(kind, namespace),
                query={"labelSelector": f"{INSTANCE_LABEL}={self._instance}"},
            )
        except ApiError as error:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._traits.name}: {error}") from error
        return list(answer.get("items") or ())


async def _all(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """All results; the first error when all have come to their end, so that nothing goes on behind our back."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _access_review(user: str, grants_namespace: str, namespace: str, rule: Rule) -> dict[str, Any]:
    resource, _, subresource = rule.resources[0].partition("/")
    attributes = {
        "namespace": namespace,
        "verb": "get" if rule.verbs[0] == "*" else rule.verbs[0],
        "group": "" if rule.api_groups[0] == "*" else rule.api_groups[0],
        "resource": "pods" if resource == "*" else resource,
        "subresource": subresource,
        "name": rule.resource_names[0] if rule.resource_names else "",
    }
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{grants_namespace}", "system:authenticated"]
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }


def _object(kind: str, answer: dict[str, Any]) -> ClusterObject:
    head = answer["metadata"]
    return ClusterObject(kind=kind, namespace=head["namespace"], name=head["name"], uid=head["uid"])


def _is_over(found: dict[str, Any], now: datetime) -> bool:
    text = found["metadata"].get("annotations", {}).get(EXPIRES, "")
    try:
        expires = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return expires + SWEEP_MARGIN <= now


def _token_id(token: str) -> str:
    """The `jti` of a token that the cluster just gave us; nothing is decided by it."""
    claims = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("jti", ""))
