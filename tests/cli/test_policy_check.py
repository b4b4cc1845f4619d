import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, configuration, run
from tests.policies import demo, policy, reading

READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


def _check(folder: Path, text: str, *options: str, config: Path | None = None) -> Done:
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "policy.yaml").write_text(text)
    made = ("--config", config) if config else ()
    return run("policy", "check", folder / "files", "-o", "json", *made, *options)


def _warned(folder: Path, text: str, **changes: Any) -> list[str]:
    done = _check(folder, text, config=configuration(folder, **changes))
    assert (done.code, done.json["faults"]) == (0, [])
    return list(done.json["warnings"])


def _subject(issuer: str = "github", **claims: Any) -> list[dict[str, Any]]:
    return [{"issuer": issuer, "claims": claims}]


def _scopes(text: str, **scopes: list[dict[str, Any]]) -> str:
    """The policy with a scope of these rules for each name."""
    document = json.loads(text)
    (first,) = document["spec"]["scopes"]
    document["spec"]["scopes"] = [{**first, "name": name, "rules": rules} for name, rules in scopes.items()]
    return json.dumps(document)


def test_the_policy_of_the_readme_has_what_its_comments_say(tmp_path: Path) -> None:
    """Of the README's policy only what it acknowledges is said, and a watch."""
    assert _warned(tmp_path, demo()) == [
        "deploy-web/rollout: holds workloads: what it breeds or reveals outlives the grant",
        "deploy-web/rollout: an open watch outlives a revocation until the API server ends it",
    ]


@pytest.mark.parametrize(
    ("subjects", "told"),
    [
        (_subject(repository_id="1", repo_property_team="web"), None),
        (_subject(repository_id="1", repo_property="web"), "tokens of github have no claim repo_property that"),
        (_subject(repository_id="1", jti="x"), "tokens of github have no claim jti that policies may match on"),
        (_subject(repository="acme/web"), "repository is a name, and names can be taken over; match repository_id too"),
        (_subject(sub="repo:acme/web:ref:main"), "sub is a name, and names can be taken over; match repository_id too"),
        (_subject(repository="acme/web", repository_id="1"), None),
        (_subject(environment="production", repository_owner_id="42"), "environment is a name"),
        (_subject(issuer="nowhere", a="b"), "issuer nowhere is not configured"),
        (_subject(issuer="pods", namespace="web", colour="red"), "tokens of pods have no claim colour"),
    ],
)
def test_who(tmp_path: Path, subjects: list[dict[str, Any]], told: str | None) -> None:
    """Only names are matched; a claim that tokens do not have; an issuer that is not there: each is a warning."""
    warned = _warned(tmp_path, reading(subjects=subjects))
    assert [text.startswith("read-pods: subjects[0]: ") for text in warned] == ([True] if told else [])
    assert told is None or told in warned[0]


BUNDLE = {"endpoint": "https://bundle.example"}
WORKLOADS = {"workloads": {"type": "spiffe", "trustDomain": "prod.example", "svids": ["jwt"], "bundle": BUNDLE}}
PODS = {"pods": {"type": "kubernetes", "verification": "offline"}}


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ({"issuer": "workloads", "path": "/ns/web/**"}, None),
        ({"issuer": "workloads", "claims": {"trust_domain": "prod.example", "team": "web"}}, None),
        ({"issuer": "workloads", "claims": {"sub": "spiffe://prod.example/ns/web"}}, None),
        (
            {"issuer": "workloads", "claims": {"trust_domain": "test.example"}},
            "is trust domain prod.example, not 'test",
        ),
        (
            {"issuer": "workloads", "claims": {"sub": "spiffe://test.example/ns/web"}},
            "no workload of trust domain prod",
        ),
        ({"issuer": "workloads", "claims": {"sub": "spiffe://prod.example"}}, "no workload of trust domain prod.exam"),
        ({"issuer": "workloads", "claims": {"sub": "spiffe://prod.example/ns/web/"}}, "is no SPIFFE ID; this matches"),
        (
            {
                "issuer": "workloads",
                "claims": {"a": [f"{n}" for n in range(64)], "sub": ["spiffe://prod.example/a", "web"]},
            },
            "sub 'web' is no SPIFFE ID",
        ),
        ({"issuer": "pods", "path": "/ns/web"}, "path is for issuers of type spiffe, and pods is of type kubernetes"),
    ],
)
def test_workloads_of_a_trust_domain(tmp_path: Path, subject: dict[str, Any], told: str | None) -> None:
    """What can match no SVID of the issuer, as no ID or one of elsewhere, is a warning; so is a path for others."""
    warned = _warned(tmp_path, reading(subjects=[subject]), issuers=WORKLOADS | PODS)
    assert [text.startswith("read-pods: subjects[0]: ") for text in warned] == ([True] if told else [])
    assert told is None or told in warned[0]


def test_a_certificate_that_nobody_can_show(tmp_path: Path) -> None:
    """A demanded certificate needs a door, and an issuer that accepts certificates: each is said."""
    document = json.loads(reading(subjects=[{"issuer": name, "claims": {"sub": "a"}} for name in ("pods", "lost")]))
    document["spec"] |= {"requireCertificate": True}
    document["spec"]["subjects"].append({"issuer": "workloads", "path": "/ns/web"})
    text, begins = json.dumps(document), "read-pods: requireCertificate: "

    def told(**changes: Any) -> list[str]:
        warned = _warned(tmp_path, text, **changes)
        return [each.removeprefix(begins) for each in warned if each.startswith(begins)]

    of_pods = "is for issuers of type spiffe, and pods is of type kubernetes; its subjects will be refused"
    assert told(issuers=WORKLOADS | PODS) == [
        "there is no doors.mtls over which certificates could come; it will be refused",
        of_pods,
        "workloads does not accept X.509-SVIDs; its subjects will be refused",
    ]
    both = {"workloads": WORKLOADS["workloads"] | {"svids": ["jwt", "x509"]}}
    doors = {"mtls": {}, "authorizer": {"url": "https://10.0.0.5:8445"}}
    assert told(issuers=both | PODS, doors=doors) == [of_pods]
    assert _check(tmp_path, text).json["warnings"] == []


def test_actors_are_looked_at_as_subjects_are(tmp_path: Path) -> None:
    """A name of an actor can be taken over too."""
    document = json.loads(reading())
    document["spec"]["actors"] = _subject(actor="octocat")
    assert _warned(tmp_path, json.dumps(document)) == [
        "read-pods: actors[0]: actor is a name, and names can be taken over; match actor_id too"
    ]


RULES: dict[str, dict[str, Any]] = {
    "read": READ,
    "deploy": {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]},
    "secrets": {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    "tokens": {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    "policy": {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["update"]},
    "admission": {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["anything"], "verbs": ["create"]},
    "admin": {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["*"]},
    "nodes": {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]},
}
CLASSES = ["secrets", "tokens", "rbac", "wildcard", "nodes"]


def _functions(folder: Path, function: str, **scopes: list[str]) -> list[str]:
    """What is said of the functions of a policy with these rules."""
    text = _scopes(
        policy("mixed", acknowledge=CLASSES, workloads=None),
        **{name: [RULES[rule] for rule in rules] for name, rules in scopes.items()},
    ).replace('"function": "deploy"', f'"function": "{function}"')
    done = _check(folder, text)
    return [text for text in done.json["warnings"] if "function" in text]


@pytest.mark.parametrize(
    ("function", "scopes", "told"),
    [
        ("deploy", {"a": ["read", "deploy"], "b": ["read"]}, None),
        ("read", {"a": ["read"]}, None),
        ("secrets", {"a": ["secrets", "tokens", "read"]}, None),
        ("policy", {"a": ["policy", "admission", "read"]}, None),
        ("admin", {"a": ["admin", "policy", "secrets", "deploy", "nodes"]}, None),
        ("read", {"a": ["read", "deploy"]}, "is of function read, and yet its rules are of function deploy (a)"),
        ("deploy", {"a": ["secrets"]}, "is of function deploy, and yet its rules are of function secrets (a)"),
        ("deploy", {"a": ["nodes"]}, "is of function deploy, and yet its rules are of function admin (a)"),
        (
            "deploy",
            {"a": ["deploy"], "b": ["secrets"]},
            "mixes functions: deploy (a), secrets (b); make a policy of each",
        ),
        ("deploy", {"a": ["deploy", "policy"]}, "mixes functions: deploy (a), policy (a); make a policy of each"),
        ("secrets", {"a": ["deploy", "admin"]}, "mixes functions: admin (a), deploy (a); make a policy of each"),
    ],
)
def test_one_function_a_policy(tmp_path: Path, function: str, scopes: Any, told: str | None) -> None:
    """Rules of another function than the policy's own, or of several, are a warning; reading goes with any."""
    assert _functions(tmp_path, function, **scopes) == ([f"mixed: {told}"] if told else [])


def test_a_rule_of_several_resources_is_of_several_functions(tmp_path: Path) -> None:
    """Writing Secrets and something else in one rule is mixed all the same."""
    rule = {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["patch"]}
    text = policy("mixed", rules=[rule], acknowledge=["secrets"], workloads=None)
    assert "mixed: mixes functions: deploy (rollout), secrets (rollout); make a policy of each" in _warned(
        tmp_path, text
    )


BINDINGS = {
    "mode": "bindings",
    "server": "https://managed.example",
    "credential": {"tokenFile": "token"},
    "namespaces": ["web"],
    "clusterRoles": ["web-rollout"],
}
AUTHORIZER = {"mode": "authorizer", "server": "https://prod.example:6443"}
ROLE: dict[str, Any] = {"rules": None, "clusterRole": "web-rollout"}
NODES: dict[str, Any] = {"namespaces": None, "clusterScoped": True, "rules": [{**READ, "resources": ["nodes"]}]}


@pytest.mark.parametrize(
    ("cluster", "scope", "told"),
    [
        (BINDINGS, ROLE, None),
        (BINDINGS, {}, "rules need fencedRoles in mode bindings"),
        (BINDINGS | {"fencedRoles": True}, {}, None),
        (BINDINGS, ROLE | {"clusterRole": "admin"}, "cluster role admin is not listed"),
        (BINDINGS, ROLE | {"namespaces": ["web", "db", "ci"]}, "namespace ci, db is not listed"),
        (BINDINGS | {"fencedRoles": True}, NODES, "mode bindings grants namespaces, not the whole cluster"),
        (BINDINGS, ROLE | {"namespaces": ["exchanged-grants"]}, "namespace exchanged-grants is closed"),
        (AUTHORIZER, {}, None),
        (AUTHORIZER, NODES, None),
        (AUTHORIZER, ROLE, "clusterRole is of no use in mode authorizer"),
        (AUTHORIZER, {"namespaces": ["exchanged"]}, "namespace exchanged is closed"),
        (AUTHORIZER | {"maxLifetime": "1m"}, {}, "the default lifetime is over the cluster's maximum"),
    ],
)
def test_where(tmp_path: Path, cluster: dict[str, Any], scope: dict[str, Any], told: str | None) -> None:
    """What a cluster would refuse, or cut short, is a warning with the cluster's name."""
    warned = _warned(tmp_path, reading(**scope), clusters={"prod": cluster})
    assert [text.startswith("read-pods/pods: cluster prod: ") for text in warned] == ([True] if told else [])
    assert told is None or told in warned[0]


def test_classes_that_a_cluster_does_not_admit(tmp_path: Path) -> None:
    """What the author acknowledged and the administrator did not admit is said, as is a cluster that is not there."""
    warned = _warned(tmp_path, policy("a", clusters=["prod", "lost"]), clusters={"prod": AUTHORIZER})
    assert "a/rollout: cluster prod: does not admit workloads; it will be refused" in warned
    assert "a/rollout: cluster lost is not configured" in warned


def test_a_verb_without_a_name(tmp_path: Path) -> None:
    """Creating a thing of a given name is no right at all, and said to be none."""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["create", "update"]}
    text = policy("a", rules=[rule], acknowledge=None, workloads=None)
    assert _warned(tmp_path, text) == ["a/rollout: create with resourceNames never matches a request"]


def test_faults_and_exit_codes(tmp_path: Path) -> None:
    """Faults fail and are told by file and line; warnings fail where they are asked to."""
    faulty = _check(tmp_path, demo().replace("function: deploy", "function: deplo"))
    assert (faulty.code, faulty.json["policies"]) == (1, 0)
    assert [(fault["file"], fault["line"]) for fault in faulty.json["faults"]] == [("policy.yaml", 6)]
    assert _check(tmp_path, demo()).code == 0
    assert _check(tmp_path, demo(), "--strict").code == 1
    (tmp_path / "files" / "twice.yaml").write_text(demo())
    twice = run("policy", "check", tmp_path / "files")
    assert (twice.code, "policy 'deploy-web' is in policy.yaml too" in twice.out) == (1, True)
    assert twice.out.endswith("1 policies, 1 faults, 2 warnings\n")
    nowhere = run("policy", "check", tmp_path / "nowhere")
    assert (nowhere.code, "is not there" in nowhere.wrong) == (2, True)
