import json
from typing import Any

import pytest
import yaml

from exchanged.policy import paths
from exchanged.policy.compiled import Compiler
from exchanged.policy.load import load_text
from exchanged.policy.schema import json_schema
from exchanged.strict_yaml import Faulty
from tests.policies import demo, policy


def _with(path: str, value: Any) -> str:
    document = yaml.safe_load(demo())
    *steps, last = path.split(".")
    place = document
    for step in steps:
        place = place[int(step)] if step.isdigit() else place[step]
    if value is None:
        place.pop(last)
    else:
        place[last] = value
    return json.dumps(document)


SCOPE = "spec.scopes.0"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("apiVersion", "v1", "Input should be 'exchanged.dev/v1alpha1'"),
        ("metadata.name", "Deploy", "should match pattern"),
        ("spec.owner", None, "is required"),
        ("spec.owner", "a\u001bb", "should match pattern"),
        ("spec.function", "anything", "Input should be"),
        ("spec.subjects", [], "must not be empty"),
        ("spec.subjects.0.claims", {}, "must not be empty"),
        ("spec.subjects.0.claims", {"ref": {"matches": "^a$"}}, "at least one claim must be exact"),
        ("spec.subjects.0.claims", None, "at least one claim must be exact, or a segment of path"),
        ("spec.subjects", [{"issuer": "w", "path": "/*/**"}], "at least one claim must be exact, or a segment of path"),
        ("spec.subjects", [{"issuer": "w", "path": "/*", "claims": {"a": {"matches": "^b$"}}}], "at least one claim"),
        ("spec.subjects", [{"issuer": "w", "path": "/a", "claims": {}}], "must not be empty"),
        ("spec.subjects", [{"issuer": "w", "path": "/a", "claims": {"b": []}}], "an empty list matches nobody"),
        ("spec.subjects.0.path", 5, "must be a string"),
        ("spec.subjects.0.path", "/" + "a" * 2_048, "at most 2048"),
        ("spec.subjects.0.claims", {"ref": []}, "an empty list matches nobody"),
        ("spec.subjects.0.claims", {"a": "b", "ref": {"matches": "main"}}, "should match pattern"),
        ("spec.subjects.0.claims", {"a": "b", "ref": {"matches": "^(a$"}}, "not a pattern"),
        ("spec.subjects.0.claims", {"a": "b", "ref": {"matches": "^a)|(?:b$"}}, "not a pattern"),
        ("spec.subjects.0.when", "claims.ref = 1", "Syntax error"),
        ("spec.subjects.0.when", "claims.ref", "must be a bool"),
        ("spec.subjects.0.when", "request.hour == 'x'", "no matching overload"),
        ("spec.subjects.0.when", "nothing == 1", "undeclared reference"),
        ("spec.subjects.0.when", "claims.a.all(x, claims.b.exists(y, x == y))", "more than 1 loop"),
        ("spec.subjects.0.when", "claims.a. //\n all(x, claims.b. //\n exists (y, x == y))", "more than 1 loop"),
        ("spec.subjects.0.when", "claims.a.all //\n(x, claims.b.exists//(\n(y, x == y))", "more than 1 loop"),
        (
            "spec.subjects.0.when",
            'claims.c == "all//" || claims.a.all(x, claims.b.exists(y, x == y)) ||\n(true)',
            "more than 1 loop",
        ),
        ("spec.subjects.0.when", "x" * 1_001, "at most 1000"),
        ("spec.actors", [], "must not be empty"),
        ("spec.actorRequired", True, "actorRequired needs actors"),
        ("spec.requireIntent", 1, "must be true or false"),
        ("spec.requireCertificate", "yes", "must be true or false"),
        ("spec.actorRequired", "yes", "must be true or false"),
        (f"{SCOPE}.clusterScoped", "no", "must be true or false"),
        (f"{SCOPE}.clusters", ["prod", "prod"], "prod is listed twice"),
        (f"{SCOPE}.namespaces", ["web", "a", "web"], "web is listed twice"),
        (f"{SCOPE}.clusters", [], "must not be empty"),
        (f"{SCOPE}.namespaces", None, "give either namespaces or clusterScoped"),
        (f"{SCOPE}.clusterScoped", True, "give either namespaces or clusterScoped"),
        (f"{SCOPE}.clusterRole", "view", "give either rules or clusterRole"),
        (f"{SCOPE}.rules", None, "give either rules or clusterRole"),
        (f"{SCOPE}.rules.0.verbs", [], "must not be empty"),
        (f"{SCOPE}.rules.0.verbs", ["*"], "hold wildcard"),
        (f"{SCOPE}.acknowledge", None, "hold workloads: say so under acknowledge"),
        (f"{SCOPE}.acknowledge", ["everything"], "Input should be"),
        (f"{SCOPE}.workloads", None, "go together"),
        (f"{SCOPE}.lifetime", {"default": "5m", "max": "13h"}, "over the ceiling"),
        (f"{SCOPE}.lifetime", {"default": "5m", "max": "1m"}, "at most max"),
        (f"{SCOPE}.lifetime", {"default": "5s", "max": "1m"}, "at least 10s"),
        (f"{SCOPE}.lifetime", {"default": "soon", "max": "1m"}, "a duration is a whole number"),
        (f"{SCOPE}.when", "claims.ref == 1 &&", "Syntax error"),
        (f"{SCOPE}.colour", "red", "unknown key"),
    ],
)
def test_what_a_policy_must_be(path: str, value: Any, told: str) -> None:
    """Each thing that is wrong in a file is told with what is wrong about it."""
    with pytest.raises(Faulty, match=r"p\.yaml:") as faulty:
        load_text(_with(path, value), "p.yaml", Compiler())
    assert told in str(faulty.value)


def test_cluster_scoped_rules_do_not_reach_everything() -> None:
    """Rules for the whole cluster cannot reach pods of all namespaces, and can reach what has no namespace."""
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    common: dict[str, Any] = {"namespaces": None, "clusterScoped": True, "acknowledge": None, "workloads": None}
    with pytest.raises(Faulty, match="not in all namespaces at once: pods"):
        load_text(policy("a", rules=[rule], **common), "p", Compiler())
    (made,) = load_text(policy("a", rules=[{**rule, "resources": ["nodes"]}], **common), "p", Compiler())
    assert made.scopes[0].cluster_scoped


def test_names_are_not_used_twice() -> None:
    """Two policies, or two scopes of one, with the same name are a fault."""
    with pytest.raises(Faulty, match="in this file twice"):
        load_text(f"{demo()}---\n{demo()}", "p", Compiler())
    document = yaml.safe_load(demo())
    document["spec"]["scopes"] *= 2
    with pytest.raises(Faulty, match="two scopes have the same name"):
        load_text(json.dumps(document), "p", Compiler())


def test_the_digest_is_of_what_counts() -> None:
    """Layout, labels and the order of keys change no digest; a value does."""

    def digest(text: str) -> str:
        return load_text(text, "p", Compiler())[0].digest

    document = yaml.safe_load(demo())
    document["metadata"]["labels"] = {"a": "b"}
    assert digest(json.dumps(document, sort_keys=True)) == digest(demo())
    assert digest(demo().replace("15m", "16m")) != digest(demo())


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (demo(), "e0e74515e2fef3fb8990dea20177dd3e8b89dd3aa340e4f174e826f45d101588"),
        (policy("deploy-web"), "abbbf8dbaf3f1c9ee5233dacfcaebdfb7b3ac15ff4e1b10f1ec339f7671c4b1f"),
    ],
)
def test_a_policy_keeps_its_digest(text: str, digest: str) -> None:
    """Records name policies by digest: keys that a policy does not use, also those of later versions, change none."""

    def now(changed: str) -> str:
        return load_text(changed, "p", Compiler())[0].digest

    document = yaml.safe_load(text)
    assert now(text) == digest
    document["spec"]["requireCertificate"] = False
    assert now(json.dumps(document)) == digest
    document["spec"]["requireCertificate"] = True
    assert now(json.dumps(document)) != digest
    document["spec"]["requireCertificate"] = False
    document["spec"]["subjects"][0]["path"] = "/ns/web"
    assert now(json.dumps(document)) != digest


def test_the_schema_is_for_editors() -> None:
    """The JSON Schema names the keys as files have them, and says what a path is."""
    schema = json_schema()
    assert "clusterScoped" in schema["$defs"]["ScopeSpec"]["properties"]
    path, *_ = schema["$defs"]["Party"]["properties"]["path"]["anyOf"]
    assert (path["pattern"], path["maxLength"]) == (paths.FORM, 2_048)


def test_many_values_are_matched_after_the_index() -> None:
    """Lists whose product is too large for the index match all the same."""
    claims = {"a": [str(n) for n in range(60)], "b": [str(n) for n in range(60)], "c": True, "d": 5}
    subjects = [{"issuer": "github", "claims": claims}]
    (made,) = load_text(policy("many", subjects=subjects), "p", Compiler())
    (party,) = made.subjects
    assert len(party.keys) <= 64
    assert party.claims_match({"a": "59", "b": "3", "c": True, "d": 5})
    assert not party.claims_match({"a": "59", "b": "60", "c": True, "d": 5})
    assert not party.claims_match({"a": "59", "b": "3", "c": "true", "d": 5})
    assert not party.claims_match({"a": "59", "b": "3", "c": 1, "d": 5})
    assert not party.claims_match({"a": ["59"], "b": "3", "c": True, "d": 5})
