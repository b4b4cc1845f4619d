"""Mode `bindings`: a ServiceAccount of the grant's own, bound where it may act, with the cluster's own token."""

import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from exchanged.cluster import manifests
from exchanged.cluster.api import ApiError, KubernetesApi, text_at
from exchanged.cluster.manifests import RUN_AS_SUFFIX, segment
from exchanged.cluster.removal import Removal, object_of
from exchanged.cluster.roles import Role, WatchedRoles
from exchanged.cluster.together import together
from exchanged.cluster.usable import USABLE_SECONDS, Binding, until_usable
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

EXTENDED_LIFETIME = 3607
"""Seconds. A token request of exactly this is silently given a year (kube-apiserver, for pod-bound tokens)."""


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
        self._removal = Removal(api=api, cluster=traits.name, instance=instance, grants_namespace=grants_namespace)

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
        self._check_role(grant)
        try:
            # What is independent goes at the same time: a binding may name an account that is still to come.
            (account, token), rights = await together((self._make_account(grant), self._make_rights(grant)))
            credential_id = _token_id(token)
        except ApiError as error:
            raise self._unavailable(str(error)) from error
        except TimeoutError as error:
            raise self._unavailable(f"the bindings were not honoured in {USABLE_SECONDS:.0f} s") from error
        return IssuedToken(text=token, credential_id=credential_id, objects=(account, *rights))

    def _check_role(self, grant: Grant) -> None:
        """The role is as it was decided by. Whatever changes after the grant is on record finds it there, and ends it.

        Raises:
            ScopeDenied, TargetDenied: as the role stands now, it would not be granted.
            ClusterUnavailable: the role changed, and the grant has to be decided by what it is now.
        """
        if grant.plan.role_digest and self._role(grant.allowed).digest != grant.plan.role_digest:
            raise self._unavailable(f"cluster role {grant.allowed.cluster_role} changed while the grant was made")

    async def _make_account(self, grant: Grant) -> tuple[ClusterObject, str]:
        """The grant's own account, and a token of it."""
        (planned,) = (each for each in grant.plan.objects if each.kind == "ServiceAccount")
        return await self._create(grant, planned), await self._request_token(grant)

    async def _make_rights(self, grant: Grant) -> list[ClusterObject]:
        """What the account may do; when this returns, the cluster says that it may."""
        planned = [each for each in grant.plan.objects if each.kind != "ServiceAccount"]
        made: list[ClusterObject] = await together(self._create(grant, each) for each in planned)
        bindings = [self._binding(grant, each) for each in planned if each.kind == "RoleBinding"]
        await until_usable(self._api, grant.plan.user, self._grants_namespace, bindings)
        return made

    def _binding(self, grant: Grant, planned: ClusterObject) -> Binding:
        """What a binding of this grant gives; what nobody else has first."""
        allowed = grant.allowed
        run_as = (manifests.run_as(allowed.workload_accounts),) if allowed.workload_accounts else ()
        rules: tuple[Rule, ...] = (*run_as, *allowed.rules)
        if allowed.cluster_role and not planned.name.endswith(RUN_AS_SUFFIX):
            rules = self._role(allowed).rules
        return Binding(namespace=planned.namespace, name=planned.name, rules=rules)

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`."""
        await self._removal.withdraw(grant)

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: frozenset[str],
    ) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        everywhere = (self._namespaces | namespaces) - {self._grants_namespace}
        return await self._removal.sweep(is_known, now, epoch=epoch, namespaces=everywhere)

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
            raise self._unavailable(f"cluster role {allowed.cluster_role} is not there, or cannot be read")
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
        return object_of(planned.kind, answer)

    async def _request_token(self, grant: Grant) -> str:
        seconds = int(max(grant.allowed.lifetime, TOKEN_REQUEST_FLOOR).total_seconds())
        if seconds == EXTENDED_LIFETIME:
            seconds -= 1
        spec: dict[str, Any] = {"expirationSeconds": seconds, "audiences": [self._audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        name = manifests.name_of(grant.policy, grant.id)
        path = f"{manifests.collection('ServiceAccount', self._grants_namespace)}/{segment(name)}/token"
        answer = await self._api.call("POST", path, body)
        return text_at(answer, "status", "token")

    def _unavailable(self, detail: str) -> ClusterUnavailable:
        return ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._traits.name}: {detail}")


def _token_id(token: str) -> str:
    """The `jti` of a token that the cluster just gave us; nothing is decided by it.

    Raises:
        ApiError: it is no token.
    """
    try:
        claims = token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("jti", ""))
    except (IndexError, ValueError, AttributeError) as error:
        raise ApiError(200, "what was issued is no token") from error
