import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, configuration, run
from tests.issuers import FakeIssuer, github_claims, kubernetes_claims
from tests.policies import demo, policy, reading

GITHUB = "https://token.actions.githubusercontent.com"
BINDINGS = {
    "mode": "bindings",
    "server": "https://managed.example",
    "certificateAuthority": "not-on-this-machine.crt",
    "credential": {"tokenFile": "not-on-this-machine"},
    "namespaces": ["web"],
    "clusterRoles": ["web-rollout"],
}
ROLE: dict[str, Any] = {"rules": None, "clusterRole": "web-rollout", "acknowledge": None, "workloads": None}


def _explain(folder: Path, text: str, *options: str, claims: dict[str, Any] | None = None, **changes: Any) -> Done:
    config = configuration(folder, **changes)
    (folder / "policies" / "policy.yaml").write_text(text)
    given = json.dumps({"iss": GITHUB, **github_claims(), **(claims or {})})
    return run("policy", "explain", "--config", config, "--claims", given, "-o", "json", *options)


def _outcome(done: Done) -> str:
    assert done.code == (0 if done.json["allowed"] else 1)
    return str(done.json["outcome"])


def _when(condition: str) -> str:
    return reading(when=condition)


def test_a_token_that_would_be_allowed(tmp_path: Path) -> None:
    """The claims of a token, which nobody verifies, are held against the folder of the configuration."""
    config = configuration(tmp_path)
    (tmp_path / "policies" / "deploy-web.yaml").write_text(demo())
    (tmp_path / "job.jwt").write_text(FakeIssuer(url=GITHUB).github_token())
    told = run("policy", "explain", "--config", config, "--token-file", tmp_path / "job.jwt")
    assert told.code == 0
    assert told.out.endswith("allowed by deploy-web/rollout at prod for 0:05:00\n")


def test_each_policy_says_what_it_misses(tmp_path: Path) -> None:
    """Scopes of policies that list the issuer have a verdict each."""
    config = configuration(tmp_path)
    (tmp_path / "policies" / "a.yaml").write_text(policy("other", subjects=[_github(repository_id="1")]))
    (tmp_path / "policies" / "b.yaml").write_text(reading("branch", subjects=[_github("claims.ref == 'x'")]))
    (tmp_path / "policies" / "c.yaml").write_text(reading("pods-of", subjects=[{**_github(), "issuer": "pods"}]))
    claims = json.dumps({"iss": GITHUB, **github_claims()})
    told = run("policy", "explain", "--config", config, "--claims", claims, "-o", "json")
    assert told.json["verdicts"] == [
        {"scope": "other/rollout", "verdict": "the subject's claims are others"},
        {"scope": "branch/pods", "verdict": "CONDITION_FALSE: branch: subject: (claims.ref == 'x'): false"},
    ]


def _github(when: str | None = None, **claims: str) -> dict[str, Any]:
    party: dict[str, Any] = {"issuer": "github", "claims": claims or {"repository_id": "4711"}}
    return {**party, "when": when} if when else party


def test_claims_are_those_that_the_authenticator_would_leave(tmp_path: Path) -> None:
    """Properties of a repository can be matched on, whatever they are called; what the profile ignores cannot."""
    for name, outcome in (("repo_property_team", "allowed"), ("jti", "refused: NO_POLICY")):
        text = reading(subjects=[_github(**{"repository_id": "4711", name: "web"})])
        assert _outcome(_explain(tmp_path, text, claims={name: "web"})).startswith(outcome)


def test_claims_of_a_pod(tmp_path: Path) -> None:
    """A projected token's nested claim is laid out as policies see it; claims that are flat already will do too."""
    subjects = [{"issuer": "pods", "claims": {"namespace": "web", "service_account": "deployer"}}]
    nested = kubernetes_claims()
    for claims in (nested, {"sub": nested["sub"], "namespace": "web", "service_account": "deployer"}):
        config = configuration(tmp_path)
        (tmp_path / "policies" / "policy.yaml").write_text(reading(subjects=subjects))
        common = ("policy", "explain", "--config", config, "--issuer", "pods", "--claims", json.dumps(claims))
        assert run(*common, "-o", "json").json["outcome"].startswith("allowed by read-pods/pods")


WORKLOADS = {
    "workloads": {"type": "spiffe", "trustDomain": "prod.example", "bundle": {"endpoint": "https://prod.example"}},
    "others": {"type": "spiffe", "trustDomain": "test.example", "bundle": {"endpoint": "https://test.example"}},
    "bots": {"type": "oidc", "issuer": "https://bots.example"},
}
DEPLOYER = "spiffe://prod.example/ns/web/sa/deployer"


def _workload(folder: Path, claims: dict[str, Any], *options: str, **spec: Any) -> Done:
    """What is decided of the workloads below /ns/web."""
    config = configuration(folder, issuers=WORKLOADS)
    document = json.loads(reading(subjects=[{"issuer": "workloads", "path": "/ns/web/**", **spec.pop("party", {})}]))
    document["spec"] |= spec
    (folder / "policies" / "policy.yaml").write_text(json.dumps(document))
    given = ("--claims", json.dumps(claims)) if claims else ()
    return run("policy", "explain", "--config", config, *given, "-o", "json", *options)


def test_claims_of_a_workload(tmp_path: Path) -> None:
    """An SVID's issuer is found by its trust domain, and what policies see is made of its ID."""
    assert _outcome(_workload(tmp_path, {"sub": DEPLOYER})).startswith("allowed by read-pods/pods")
    iss = {"sub": DEPLOYER, "iss": "https://spire.example"}
    assert _outcome(_workload(tmp_path, iss, "--issuer", "workloads")).startswith("allowed")
    for other in ("spiffe://prod.example/ns/website/sa/deployer", "spiffe://test.example/ns/web/sa/deployer"):
        assert _outcome(_workload(tmp_path, {"sub": other})).startswith("refused: NO_POLICY")
    by_team = {"claims": {"team": "web", "svid": "jwt"}}
    assert _outcome(_workload(tmp_path, {"sub": DEPLOYER, "team": "web"}, party=by_team)).startswith("allowed")
    # An OIDC provider may speak of the same ID.
    both = _workload(tmp_path, {"sub": DEPLOYER, "iss": "https://bots.example"})
    assert (both.code, "are of workloads, bots; give --issuer" in both.wrong) == (2, True)


def test_a_token_is_no_certificate_whatever_it_says(tmp_path: Path) -> None:
    """Claims may be those of an X.509-SVID, a token's never are; its holder has the certificate of whoever it is."""
    by_kind = {"party": {"claims": {"svid": "x509"}}, "requireCertificate": True}
    x509 = {"sub": DEPLOYER, "svid": "x509"}
    bound = {
        "scopes": json.loads(reading(when=f'request.door == "mtls" && request.peer == "{DEPLOYER}"'))["spec"]["scopes"]
    }
    assert _outcome(_workload(tmp_path, x509, **by_kind, **bound)).startswith("allowed")
    assert _outcome(_workload(tmp_path, {"sub": DEPLOYER}, **by_kind)).startswith("refused: NO_POLICY")
    token = tmp_path / "svid.jwt"
    token.write_text(FakeIssuer(url="https://spire.example").token(**x509))
    assert _outcome(_workload(tmp_path, {}, "--token-file", str(token), **by_kind)).startswith("refused: NO_POLICY")
    assert _outcome(_workload(tmp_path, {}, "--token-file", str(token))).startswith("allowed")


def test_a_demanded_certificate_can_be_given(tmp_path: Path) -> None:
    """With --peer the request comes over that certificate, by the door for it."""
    for options, outcome in (
        ((), "refused: CERTIFICATE_REQUIRED"),
        (("--peer", DEPLOYER), "allowed"),
        (("--peer", DEPLOYER, "--door", "mtls"), "allowed"),
        (("--peer", f"{DEPLOYER}-2"), "refused: CERTIFICATE_REQUIRED"),
    ):
        done = _workload(tmp_path, {"sub": DEPLOYER}, *options, requireCertificate=True)
        assert _outcome(done).startswith(outcome)


@pytest.mark.parametrize(
    ("claims", "options", "told"),
    [
        (
            {"sub": "deployer"},
            ("--issuer", "workloads"),
            "issuer workloads: sub 'deployer' is no SPIFFE ID: spiffe://prod",
        ),
        ({"sub": 5}, ("--issuer", "workloads"), "sub 5 is no SPIFFE ID"),
        ({"sub": "spiffe://prod.example/"}, (), "is no SPIFFE ID"),
        (
            {"sub": DEPLOYER},
            ("--issuer", "others"),
            "is no workload of trust domain test.example: spiffe://test.example/",
        ),
        ({"sub": "spiffe://prod.example"}, ("--issuer", "workloads"), "is no workload of trust domain prod.example"),
        ({"sub": "spiffe://x.example/a"}, (), "iss None and sub 'spiffe://x.example/a' are of no configured issuer"),
        ({"sub": DEPLOYER, "svid": "x.509"}, (), "issuer workloads: svid 'x.509' is neither jwt nor x509"),
        ({"sub": DEPLOYER}, ("--peer", "deployer"), "--peer is a SPIFFE ID"),
        ({"sub": DEPLOYER}, ("--peer", DEPLOYER, "--door", "http"), "certificates come by --door mtls"),
        ({"sub": DEPLOYER, "svid": "x509"}, ("--peer", f"{DEPLOYER}-2"), f"so --peer is {DEPLOYER}"),
    ],
)
def test_what_cannot_be_of_a_workload(
    tmp_path: Path, claims: dict[str, Any], options: tuple[str, ...], told: str
) -> None:
    """An ID that is none, or one of elsewhere, and certificates that could not have come, are wrong usage."""
    done = _workload(tmp_path, claims, *options)
    assert (done.code, told in done.wrong) == (2, True)


@pytest.mark.parametrize(
    ("cluster", "scope", "outcome", "verdict"),
    [
        ({}, {}, "refused: CLUSTER_NOT_GRANTED: a/rollout has rules of its own, and", "matches, but CLUSTER_NOT"),
        ({}, ROLE, "allowed by a/rollout at prod", "matches; what cluster role web-rollout holds is known at prod"),
        (
            {},
            ROLE | {"clusterRole": "admin"},
            "refused: CLUSTER_NOT_GRANTED: prod does not list cluster role admin",
            "",
        ),
        ({}, ROLE | {"namespaces": ["db"]}, "refused: CLUSTER_NOT_GRANTED: prod does not list db", "matches, but"),
        (
            {"fencedRoles": True},
            {
                **ROLE,
                "clusterRole": None,
                "namespaces": None,
                "clusterScoped": True,
                "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
            },
            "refused: CLUSTER_NOT_GRANTED: mode bindings grants namespaces",
            "matches, but",
        ),
        ({"fencedRoles": True, "allow": ["workloads"]}, {}, "allowed by a/rollout at prod", "matches"),
        (
            {"fencedRoles": True},
            {},
            "refused: BREEDING_NOT_ACKNOWLEDGED: prod does not admit workloads",
            "matches, but",
        ),
    ],
)
def test_what_the_cluster_would_refuse(
    tmp_path: Path, cluster: dict[str, Any], scope: dict[str, Any], outcome: str, verdict: str
) -> None:
    """What the mode of a cluster refuses is refused here, as far as it can be known without asking the cluster."""
    done = _explain(tmp_path, policy("a", **scope), clusters={"prod": BINDINGS | cluster})
    assert _outcome(done).startswith(outcome)
    assert done.json["verdicts"][0]["verdict"].startswith(verdict)
    assert bool(done.json["unknown"]) == (scope is ROLE)


@pytest.mark.parametrize(
    ("condition", "options"),
    [
        ("request.hour == 6 && request.weekday == 3", ("--time", "2026-11-25T06:30:00Z")),
        ("request.hour == 4", ("--time", "2026-11-25T06:30:00+02:00")),
        ("request.hour == 6", ("--time", "2026-11-25T06:30:00")),
        ("request.time < timestamp('2021-01-01T00:00:00Z')", ("--time", "2020-01-01T00:00:00Z")),
        ("request.source == '10.0.0.7'", ("--source", "10.0.0.7")),
        ("request.door == 'http'", ("--door", "http")),
        ("request.door == 'mtls'", ("--door", "mtls")),
        ("request.peer == 'spiffe://prod.example/a'", ("--peer", "spiffe://prod.example/a")),
        ("request.cluster == 'prod' && request.scope == 'pods'", ("--cluster", "prod", "--scope", "pods")),
        ("stated.intent == 'release'", ("--intent", "release")),
    ],
)
def test_every_condition_can_be_explained(tmp_path: Path, condition: str, options: tuple[str, ...]) -> None:
    """Whatever a condition on the request looks at can be given."""
    assert _outcome(_explain(tmp_path, _when(condition), *options)).startswith("allowed")
    other = [each if each.startswith("--") else _OTHER.get(each, each) for each in options]
    assert not _outcome(_explain(tmp_path, _when(condition), *other)).startswith("allowed")


_OTHER = {
    "2026-11-25T06:30:00Z": "2026-11-25T07:30:00Z",
    "2026-11-25T06:30:00+02:00": "2026-11-25T06:30:00+03:00",
    "2026-11-25T06:30:00": "2026-11-25T07:30:00",
    "2020-01-01T00:00:00Z": "2021-01-01T00:00:00Z",
    "10.0.0.7": "10.0.0.8",
    "http": "grpc",
    "mtls": "grpc",
    "spiffe://prod.example/a": "spiffe://prod.example/b",
    "pods": "read-pods/pods",
    "release": "something else",
}


def _with_actor(**changes: Any) -> str:
    document = json.loads(reading())
    document["spec"] |= {"actorRequired": True, "actors": [{"issuer": "bots", "claims": {"sub": "agent"}}], **changes}
    return json.dumps(document)


def test_who_acts(tmp_path: Path) -> None:
    """An actor is given by its token or its claims, and its issuer by name or by `iss`."""
    bots = {"type": "oidc", "issuer": "https://bots.example"}
    github = {"type": "oidc", "profile": "github", "issuer": GITHUB}
    issuers = {"github": github, "bots": bots, "others": {"type": "oidc", "issuer": "https://others.example"}}
    token = tmp_path / "agent.jwt"
    token.write_text(FakeIssuer(url="https://bots.example").token(sub="agent"))

    def outcome(*options: str, **claims: Any) -> str:
        return _outcome(_explain(tmp_path, _with_actor(), *options, claims=claims, issuers=issuers))

    assert outcome() == "refused: ACTOR_NOT_ALLOWED: read-pods wants an actor token"
    assert outcome("--actor-token-file", str(token)).startswith("allowed")
    agent = ("--actor-claims", '{"sub": "agent"}')
    assert outcome(*agent, "--actor-issuer", "bots").startswith("allowed")
    assert outcome(*agent, "--actor-issuer", "others").startswith("refused: ACTOR_NOT_ALLOWED")
    assert outcome(*agent, "--actor-issuer", "bots", may_act={"sub": "another"}).startswith(
        "refused: ACTOR_NOT_ALLOWED"
    )
    assert _explain(tmp_path, _with_actor(), *agent, issuers=issuers).code == 2
    assert _explain(tmp_path, _with_actor(), "--actor-issuer", "bots", issuers=issuers).code == 2


def test_narrowing_and_lifetime(tmp_path: Path) -> None:
    """Less than the policy has is granted as asked; more, or longer, is refused as the daemon would."""

    def told(*options: str) -> Any:
        return _explain(tmp_path, reading(), *options).json

    narrow = json.dumps([{"type": "kubernetes", "verbs": ["get"]}])
    assert told("--authorization-details", narrow)["allowed"]["rules"][0]["verbs"] == ["get"]
    wide = narrow.replace("get", "delete")
    assert told("--authorization-details", wide)["outcome"].startswith("refused: DETAILS_EXCEED_POLICY")
    assert told("--lifetime", "10m")["allowed"]["lifetime"] == 600
    assert told("--lifetime", "16m")["outcome"].startswith("refused: LIFETIME_EXCEEDS_POLICY")


def test_files_that_are_not_in_force_are_told_of(tmp_path: Path) -> None:
    """A faulty file is a warning, and part of the JSON: a missing verdict is not taken for a refusal."""
    done = _explain(tmp_path, demo().replace("function: deploy", "function: deplo"))
    assert _outcome(done) == "refused: NO_POLICY: no policy lists github/repo:acme/web:environment:production"
    assert [(fault["file"], fault["line"]) for fault in done.json["faults"]] == [("policy.yaml", 6)]
    assert done.wrong.startswith("exchanged: warning: policy.yaml:6: spec.function: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--issuer", "nobody", "--claims", "{}"), "no issuer is called 'nobody'; the configuration has github, pods"),
        (
            ("--claims", '{"iss": "https://x.example"}'),
            "sub None are of no configured issuer; give --issuer, one of github",
        ),
        (("--claims", "{}", "--policies", "nowhere"), "give --issuer"),
        (("--claims", "{}", "--issuer", "github", "--policies", "nowhere"), "nowhere is not there; give a folder"),
        ((), "give --token-file or --claims, one of them"),
        (("--claims", "{}", "--token-file", "x"), "give --token-file or --claims, one of them"),
        (("--claims", "[]"), "--claims is a JSON object of claims"),
        (("--claims", "{"), "--claims is no JSON"),
        (("--claims", "@nowhere"), "--claims: nowhere cannot be read: No such file"),
        (("--token-file", "nowhere"), "nowhere cannot be read"),
        (("--token-file", "README.md"), "README.md holds no token (JWT)"),
        (("--claims", "{}", "--time", "soon"), "--time is a date and time"),
        (("--claims", "{}", "--lifetime", "soon"), "--lifetime is a number with s, m or h"),
    ],
)
def test_wrong_usage_is_told_with_what_is_right(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    """What was given and cannot be used is named, with what there is."""
    done = run("policy", "explain", "--config", configuration(tmp_path), *options)
    assert done.code == 2
    assert told in done.wrong
