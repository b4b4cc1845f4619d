from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from exchanged.cluster.review import review
from exchanged.model import ClusterName, Grant, GrantState
from tests.grants import NOW, allowed, grant, rule, traits


def _grant(**changes: Any) -> Grant:
    return grant(state=GrantState.ISSUED, **changes)


def _spec(made: Grant, **attributes: str) -> dict[str, Any]:
    usual = {"verb": "get", "group": "apps", "resource": "deployments", "name": "web", "namespace": "web"}
    return {
        "user": made.plan.user,
        "uid": made.id,
        "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={made.plan.credential_id}"]},
        "resourceAttributes": usual | attributes,
    }


def _path(made: Grant, path: str, verb: str = "get") -> dict[str, Any]:
    spec = _spec(made)
    del spec["resourceAttributes"]
    return {**spec, "nonResourceAttributes": {"path": path, "verb": verb}}


def _allowed(spec: dict[str, Any], made: Grant | None) -> bool:
    verdict = review(spec, made, traits(), NOW)
    assert verdict.allowed != verdict.denied
    return verdict.allowed


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, True),
        ({"verb": "patch"}, True),
        ({"verb": "delete"}, False),
        ({"name": "other"}, False),
        ({"name": ""}, False),
        ({"namespace": "other"}, False),
        ({"namespace": ""}, False),
        ({"group": ""}, False),
        ({"resource": "replicasets"}, False),
        ({"subresource": "scale"}, False),
        ({"verb": "run-as", "group": "", "resource": "serviceaccounts", "name": "web"}, True),
        ({"verb": "run-as", "group": "", "resource": "serviceaccounts", "name": "admin"}, False),
        ({"verb": "run-as", "group": "", "resource": "serviceaccounts", "name": "web", "namespace": "other"}, False),
        ({"verb": "create", "group": "authorization.k8s.io", "resource": "selfsubjectaccessreviews"}, True),
        ({"verb": "create", "group": "authorization.k8s.io", "resource": "subjectaccessreviews"}, False),
    ],
)
def test_exactly_the_rules_and_what_every_client_needs(attributes: dict[str, str], expected: bool) -> None:  # noqa: FBT001 - a column
    """A request is allowed if a rule covers it, or if every client needs it; and otherwise it is denied."""
    made = _grant()
    assert _allowed(_spec(made, **attributes), made) is expected


@pytest.mark.parametrize(
    ("path", "verb", "expected"),
    [
        ("/api", "get", True),
        ("/apis/apps/v1", "get", True),
        ("/openapi/v3", "get", True),
        ("/version", "get", True),
        ("/apiary", "get", False),
        ("/metrics", "get", False),
        ("/healthz", "get", False),
        ("/api", "post", False),
    ],
)
def test_discovery_and_no_other_path(path: str, verb: str, expected: bool) -> None:  # noqa: FBT001 - a column
    """Discovery is for all, and nothing beside it."""
    made = _grant()
    assert _allowed(_path(made, path, verb), made) is expected


def test_whoever_is_not_who_is_on_record_is_denied() -> None:
    """User, uid, credential, cluster, state and time are all as recorded, or the answer is no."""
    made = _grant()
    good = _spec(made)
    assert _allowed(good, made)
    key = "authentication.kubernetes.io/credential-id"
    others: list[tuple[dict[str, Any], Grant | None]] = [
        (good, None),
        ({**good, "user": "exchanged:other:" + made.id}, made),
        ({**good, "uid": "x"}, made),
        ({**good, "extra": {}}, made),
        ({**good, "extra": {key: ["JTI=other"]}}, made),
        ({**good, "extra": {key: [f"JTI={made.plan.credential_id}", "JTI=other"]}}, made),
        ({**good, "extra": None}, made),
        (good, replace(made, allowed=allowed(cluster=ClusterName("another")))),
        (good, replace(made, state=GrantState.INTENDED)),
        (good, replace(made, state=GrantState.REVOKED, ended="test")),
        (good, replace(made, expires_at=NOW)),
        ({key: value for key, value in good.items() if key != "resourceAttributes"}, made),
    ]
    for spec, found in others:
        assert not _allowed(spec, found)


def test_nobody_else_is_touched() -> None:
    """About users that are none of ours there is no opinion."""
    for user in ("alice", "system:admin", "", None):
        verdict = review({"user": user}, None, traits(), NOW)
        assert (verdict.allowed, verdict.denied) == (False, False)


@pytest.mark.parametrize("verb", ["list", "watch", "deletecollection"])
def test_all_namespaces_at_once_would_be_the_closed_ones_too(verb: str) -> None:
    """Over all namespaces at once, only a kind that is known to have none is allowed."""
    rules = (rule(api_groups=("", "apps", "example.com"), resources=("*",), resource_names=(), verbs=("*",)),)
    made = _grant(allowed=allowed(cluster_scoped=True, namespaces=(), rules=rules))
    for group, resource, expected in (
        ("", "nodes", True),
        ("", "configmaps", False),
        ("apps", "deployments", False),
        ("apps", "nodes", False),
        ("example.com", "unheard-of", False),
    ):
        asked = {"verb": verb, "group": group, "resource": resource, "name": ""}
        assert _allowed(_spec(made, namespace="", **asked), made) is expected
        assert _allowed(_spec(made, namespace="web", **asked), made)


def test_the_whole_cluster_but_for_what_is_closed() -> None:
    """A grant for the whole cluster reaches every namespace but the daemon's own."""
    everywhere = allowed(cluster_scoped=True, namespaces=(), rules=(rule(resource_names=()),))
    made = _grant(allowed=everywhere)
    assert _allowed(_spec(made, namespace="anywhere"), made)
    assert _allowed(_spec(made, namespace=""), made)
    assert not _allowed(_spec(made, namespace="exchanged-grants"), made)
    later = replace(made, expires_at=NOW + timedelta(seconds=1))
    assert _allowed(_spec(later, namespace="x"), later)
