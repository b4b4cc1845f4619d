"""Mode `bindings` backwards: taking a grant's objects from its cluster, and those that no grant accounts for."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from exchanged.cluster import manifests
from exchanged.cluster.api import ApiError, KubernetesApi, text_at
from exchanged.cluster.manifests import EXPIRES, GRANT_LABEL, INSTANCE_LABEL
from exchanged.errors import ClusterUnavailable, ExchangeError, Reason
from exchanged.model import ClusterName, ClusterObject, Grant, GrantId

log = logging.getLogger(__name__)

SWEEP_MARGIN = timedelta(minutes=1)
"""Beyond an object's own expiry, before it is swept, and beyond an epoch: clocks differ."""
KINDS = ("RoleBinding", "Role", "ServiceAccount")
"""In the order of withdrawal: the binding is the cut."""
_GRANT_ID = re.compile(r"[0-9a-f]{20}")

JsonObject = dict[str, Any]


class Removal:
    """Deletes at one cluster; only what carries this store's mark and a grant's, by name and uid."""

    def __init__(self, *, api: KubernetesApi, cluster: ClusterName, instance: str, grants_namespace: str) -> None:
        self._api = api
        self._cluster = cluster
        self._instance = instance
        self._grants_namespace = grants_namespace

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`. What fails keeps nothing else: without its account a binding is for nobody."""
        known = {(made.kind, made.namespace, made.name): made for made in grant.objects}
        objects = [known.get((each.kind, each.namespace, each.name), each) for each in grant.plan.objects]
        failures: list[BaseException] = []
        for kind in KINDS:
            deletions = (self._delete(grant, made) for made in objects if made.kind == kind)
            outcomes = await asyncio.gather(*deletions, return_exceptions=True)
            failures += [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures and isinstance(failures[0], ApiError):
            raise self._unavailable(str(failures[0])) from failures[0]
        if failures:
            raise failures[0]

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: Iterable[str],
    ) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`. Everything is found before anything is deleted; what fails is told and left."""
        swept = []
        for kind, found in await self._marked(namespaces):
            grant_id = GrantId(_label(found, GRANT_LABEL))
            # Whatever else carries our mark, it was not made for a grant; the fence lets nobody delete it.
            if not _GRANT_ID.fullmatch(grant_id) or not _is_over(found, now, epoch):
                continue
            try:
                if not await is_known(grant_id):
                    made = object_of(kind, found)
                    await self._delete_exactly(made)
                    swept.append(made)
            except (ApiError, ExchangeError) as error:
                log.warning(
                    "an object that no grant accounts for cannot be deleted",
                    extra={"cluster": self._cluster, "kind": kind, "grant": grant_id, "detail": str(error)},
                )
        return tuple(swept)

    async def _delete(self, grant: Grant, made: ClusterObject) -> None:
        """Deletes an object of this grant by name and uid; where no uid was learnt, after a look at its labels."""
        if not made.uid:
            found = await self._find(made)
            mark = (self._instance, grant.id)
            if found is None or (_label(found, INSTANCE_LABEL), _label(found, GRANT_LABEL)) != mark:
                return  # never made, gone, or somebody else's
            made = object_of(made.kind, found)
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
            answer = await self._api.call("DELETE", manifests.path(made), body)
        except ApiError as error:
            # Gone already; or another object has the name now, and that one is not ours.
            if error.status not in {404, 409}:
                raise
            return
        if _may_stay(answer):
            await self._make_sure(made)

    async def _make_sure(self, made: ClusterObject) -> None:
        """An object with finalizers is marked, not deleted: while it is there the cluster honours it."""
        found = await self._find(made)
        if found is not None and object_of(made.kind, found).uid == made.uid:
            held = f"its finalizers are {found['metadata'].get('finalizers')}"
            raise self._unavailable(f"{manifests.path(made)} is deleted and still there: {held}")

    async def _find(self, made: ClusterObject) -> JsonObject | None:
        try:
            return await self._api.call("GET", manifests.path(made))
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - not there
                return None
            raise

    async def _marked(self, namespaces: Iterable[str]) -> list[tuple[str, JsonObject]]:
        """All objects with this store's mark, in the order of withdrawal."""
        marked = []
        for kind in KINDS:
            for namespace in [self._grants_namespace] if kind == "ServiceAccount" else sorted(namespaces):
                try:
                    marked += [(kind, found) for found in await self._marked_in(kind, namespace)]
                except ApiError as error:
                    # A namespace may be gone, or taken from the daemon.
                    extra = {"cluster": self._cluster, "kind": kind, "namespace": namespace, "detail": str(error)}
                    log.warning("a namespace cannot be searched", extra=extra)
        return marked

    async def _marked_in(self, kind: str, namespace: str) -> list[JsonObject]:
        query = {"labelSelector": f"{INSTANCE_LABEL}={self._instance}"}
        answer = await self._api.call("GET", manifests.collection(kind, namespace), query=query)
        return list(answer.get("items") or ())

    def _unavailable(self, detail: str) -> ClusterUnavailable:
        return ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{self._cluster}: {detail}")


def object_of(kind: str, answer: JsonObject) -> ClusterObject:
    """An object as the cluster has it.

    Raises:
        ApiError: the answer is no object.
    """
    name, namespace, uid = (text_at(answer, "metadata", each) for each in ("name", "namespace", "uid"))
    return ClusterObject(kind=kind, namespace=namespace, name=name, uid=uid)


def _label(found: JsonObject, name: str) -> str:
    return str(((found.get("metadata") or {}).get("labels") or {}).get(name, ""))


def _may_stay(answer: JsonObject) -> bool:
    head = answer.get("metadata") or {}
    return bool(head.get("finalizers") or head.get("deletionTimestamp"))


def _is_over(found: JsonObject, now: datetime, epoch: datetime | None) -> bool:
    """Past its own expiry; or of an epoch that is over, whose grants the store need not know."""
    head = found.get("metadata") or {}
    expires = _time((head.get("annotations") or {}).get(EXPIRES))
    created = _time(head.get("creationTimestamp"))
    is_old = epoch is not None and created is not None and created <= epoch + SWEEP_MARGIN
    return is_old or (expires is not None and expires + SWEEP_MARGIN <= now)


def _time(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
