import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from exchanged.errors import ExchangeError, Reason
from exchanged.model import Allowed, AuthorizationDetail, ClusterName, ClusterTraits, IssuerName, Mode, Rule
from exchanged.policy import decide as module
from exchanged.policy.decide import decide
from tests.grants import NOW, PROD, context, identity, request, traits
from tests.policies import policy, reading, workload
from tests.world import Policies

TEST = ClusterName("test")
CLUSTERS = {PROD: traits(), TEST: traits(name=TEST, resource="https://test.example:6443/")}


def _decide(*policies: str, clusters: dict[ClusterName, ClusterTraits] | None = None, **changes: Any) -> Allowed:
    live = Policies()
    for text in policies or (policy("deploy-web"),):
        live.put(text)
    who, actor = changes.pop("who", identity()), changes.pop("actor", None)
    when = context(time=changes.pop("when", NOW), peer=changes.pop("peer", ""), door=changes.pop("door", "grpc"))
    return decide(live.current, clusters or CLUSTERS, who, actor, request(**changes), when)


def _refusal(*policies: str, **changes: Any) -> ExchangeError:
    with pytest.raises(ExchangeError) as refused:
        _decide(*policies, **changes)
    return refused.value


def _edited(text: str, **spec: Any) -> str:
    document = yaml.safe_load(text)
    document["spec"] |= spec
    return json.dumps(document)


def test_a_decision_has_one_author() -> None:
    """What is granted names policy, scope, digest, owner, and exactly the rules."""
    allowed = _decide()
    assert (allowed.policy, allowed.scope, allowed.owner) == ("deploy-web", "rollout", "team-web@example.com")
    assert allowed.lifetime == timedelta(minutes=5)
    assert allowed.rules[0].resource_names == ("web",)
    assert len(allowed.policy_digest) == 64


@pytest.mark.parametrize("scope", [("deploy-web/rollout",), ("rollout",), ()])
def test_ways_to_ask(scope: tuple[str, ...]) -> None:
    """An exact scope, a bare one and none all work while one policy matches."""
    assert _decide(scope=scope).scope == "rollout"


def test_the_cluster_by_name_by_url_or_because_it_is_the_only_one() -> None:
    """RFC 8693 audience and resource both name the cluster, and must agree."""
    assert _decide(audience=(), resource=("https://prod.example:6443/",)).cluster == PROD
    assert _decide(audience=()).cluster == PROD
    assert _refusal(audience=(PROD,), resource=("https://test.example:6443",)).reason is Reason.PARAMETER_CONFLICT
    assert _refusal(audience=("nowhere",)).reason is Reason.CLUSTER_UNKNOWN
    assert _refusal(audience=(), resource=("https://nowhere.example",)).reason is Reason.CLUSTER_UNKNOWN
    assert _refusal(audience=(TEST,)).reason is Reason.CLUSTER_NOT_GRANTED
    several = _refusal(policy("deploy-web", clusters=["prod", "test"]), audience=())
    assert (several.reason, several.public) == (Reason.CLUSTER_AMBIGUOUS, {"candidates": "prod test"})
    assert _refusal(policy("deploy-web", clusters=["gone"]), audience=()).reason is Reason.CLUSTER_UNKNOWN


def test_who_is_not_listed_gets_nothing_and_learns_nothing() -> None:
    """A policy that does not list the subject is, for it, not there."""
    stranger = identity(claims={"repository_id": "1"})
    assert _refusal(who=stranger).reason is Reason.NO_POLICY
    assert _refusal(who=stranger, scope=("rollout",)).reason is Reason.NO_POLICY
    assert _refusal(who=identity(issuer=IssuerName("another"))).reason is Reason.NO_POLICY
    assert _refusal(scope=("unknown/rollout",)).reason is Reason.NO_POLICY
    assert _refusal(scope=("deploy-web/other",)).reason is Reason.SCOPE_UNKNOWN
    assert _refusal(scope=("other",)).reason is Reason.SCOPE_UNKNOWN
    assert _refusal(scope=("a", "b")).reason is Reason.PARAMETER_CONFLICT


def test_two_policies_make_a_bare_scope_ambiguous() -> None:
    """The refusal says which; the exact scope decides."""
    both = (policy("a"), policy("b"))
    error = _refusal(*both, scope=("rollout",))
    assert (error.reason, error.public) == (Reason.SCOPE_AMBIGUOUS, {"candidates": "a/rollout b/rollout"})
    assert _decide(*both, scope=("b/rollout",)).policy == "b"
    many = [policy(f"p{number}") for number in range(20)]
    assert _refusal(*many, scope=("rollout",)).reason is Reason.SCOPE_AMBIGUOUS
    assert _decide(*many, reading("last"), scope=("pods",)).policy == "last"


def test_one_subject_may_match_a_policy_twice() -> None:
    """A policy that lists a subject by two ways is still one author."""
    ways = ({"repository_id": "4711"}, {"ref": "refs/heads/main"})
    subjects = [{"issuer": "github", "claims": claims} for claims in ways]
    assert _decide(policy("a", subjects=subjects), scope=("rollout",)).policy == "a"
    assert _decide(policy("a", subjects=subjects[::-1]), scope=("a/rollout",)).policy == "a"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('claims.ref == "refs/heads/main"', True),
        ('claims.ref == "other"', False),
        ('claims.missing == "x"', False),
        ('has(claims.missing) && claims.missing == "x"', False),
        ("claims.ref > 5", False),
        ('issuer == "github" && subject.startsWith("repo:acme/")', True),
        ('request.hour == 12 && request.weekday == 1 && request.time > timestamp("2026-01-01T00:00:00Z")', True),
        ('request.source == "192.0.2.1" && request.door == "grpc"', True),
        ('size(actor) == 0 && stated.intent == ""', True),
    ],
)  # fmt: skip
def test_conditions_of_subjects(condition: str, holds: bool) -> None:  # noqa: FBT001 - a column
    """A condition that is false or fails denies, and the reason says so."""
    subjects = [{"issuer": "github", "claims": {"repository_id": "4711"}, "when": condition}]
    text = policy("deploy-web", subjects=subjects)
    if holds:
        assert _decide(text)
    else:
        assert _refusal(text).reason is Reason.CONDITION_FALSE


def test_conditions_of_scopes_know_the_cluster() -> None:
    """A scope's condition sees the cluster and the scope."""
    assert _decide(policy("deploy-web", when='request.cluster == "prod" && request.scope == "deploy-web/rollout"'))
    assert _refusal(policy("deploy-web", when='request.cluster == "test"')).reason is Reason.CONDITION_FALSE


def test_patterns_match_the_whole_value() -> None:
    r"""`^a|b$` matches a and b and nothing that merely begins or ends so."""

    def matched(pattern: str, ref: str) -> bool:
        claims = {"repository_id": "4711", "ref": {"matches": pattern}}
        text = policy("deploy-web", subjects=[{"issuer": "github", "claims": claims}])
        try:
            _decide(text, who=identity(claims={"repository_id": "4711", "ref": ref}))
        except ExchangeError as error:
            reason = error.reason
        else:
            return True
        assert reason is Reason.CONDITION_FALSE
        return False

    assert matched("^a|b$", "a")
    assert matched("^a|b$", "b")
    assert not matched("^a|b$", "ax")
    assert not matched("^a|b$", "xb")
    assert not matched("^(?m)a$", "a\nb")
    assert matched("^refs/tags/v[0-9]+$", "refs/tags/v12")
    assert matched('^"\\\\\u00e9$', '"\\\u00e9')


def test_actors() -> None:
    """An actor matches only where it is listed; a policy may demand one; the subject's own word counts."""
    party = {"issuer": "tools", "claims": {"team": "infra"}, "when": "claims.level > 3"}
    listed = _edited(policy("deploy-web"), actors=[party])
    demanding = _edited(listed, actorRequired=True)
    actor = identity(issuer=IssuerName("tools"), subject="bot", claims={"team": "infra", "level": 5, "sub": "bot"})
    assert _decide(listed)
    assert _decide(listed, actor=actor)
    assert _decide(demanding, actor=actor)
    for text, who in (
        (policy("deploy-web"), actor),
        (listed, replace(actor, claims={"team": "infra", "level": 1})),
        (listed, replace(actor, claims={"team": "other", "level": 5})),
        (listed, replace(actor, issuer=IssuerName("github"))),
        (demanding, None),
    ):
        assert _refusal(text, actor=who).reason is Reason.ACTOR_NOT_ALLOWED
    named = identity(may_act={"sub": "bot"})
    assert _decide(listed, who=named, actor=actor)
    assert _decide(
        listed, who=identity(may_act={"sub": "bot"}), actor=replace(actor, claims={"team": "infra", "level": 5})
    )
    assert _refusal(listed, who=identity(may_act={"sub": "else"}), actor=actor).reason is Reason.ACTOR_NOT_ALLOWED
    assert _decide(listed, who=identity(may_act={"sub": "else"}))


def test_a_stated_intent_may_be_demanded() -> None:
    """A policy that wants to know gets to know."""
    text = _edited(policy("deploy-web"), requireIntent=True)
    assert _refusal(text).reason is Reason.INTENT_REQUIRED
    assert _decide(text, intent="release")


def test_a_certificate_may_be_demanded() -> None:
    """The token is to come over a connection with the very certificate of its subject; one of another is none."""
    subjects = [{"issuer": "workloads", "path": "/ns/web/sa/*"}]
    text = _edited(policy("deploy-web", subjects=subjects), requireCertificate=True)
    own, other = workload(), workload("/ns/web/sa/other")
    assert _decide(text, who=own, peer=own.subject)
    assert _decide(text, who=workload(kind="x509"), peer=own.subject)
    for peer in ("", other.subject, own.subject.upper(), f"{own.subject}/x", own.subject[:-1]):
        assert _refusal(text, who=own, peer=peer).reason is Reason.CERTIFICATE_REQUIRED
    assert _refusal(text, who=workload(subject=""), peer="").reason is Reason.CERTIFICATE_REQUIRED
    assert _decide(_edited(text, requireCertificate=False), who=own)


def test_what_the_caller_left_out_is_told_where_nothing_else_is_in_the_way() -> None:
    """A missing certificate is told before a missing intent, and rather than what other policies lack."""
    subjects = [{"issuer": "workloads", "path": "/ns/**"}]
    demanding = _edited(policy("a", subjects=subjects), requireCertificate=True, requireIntent=True)
    other = policy("b", subjects=subjects, clusters=["test"])
    false = policy("c", subjects=subjects, when="request.hour == 0")
    who, scope = workload(), ("rollout",)
    assert _refusal(demanding, other, false, who=who, scope=scope).reason is Reason.CERTIFICATE_REQUIRED
    with_it = _refusal(demanding, other, false, who=who, scope=scope, peer=who.subject)
    assert with_it.reason is Reason.INTENT_REQUIRED
    assert _decide(demanding, other, false, who=who, scope=scope, peer=who.subject, intent="release").policy == "a"
    assert _refusal(demanding, who=who, scope=scope, audience=("test",)).reason is Reason.CLUSTER_NOT_GRANTED


def test_a_condition_binds_any_token_to_the_callers_certificate() -> None:
    """A pod's token can be demanded over the pod's certificate; what was answered for one connection holds for it."""
    bound = 'request.peer == "spiffe://prod.example/ns/" + claims.namespace + "/sa/" + claims.service_account'
    subjects = [{"issuer": "pods", "claims": {"namespace": "web"}, "when": f'{bound} && request.door == "mtls"'}]
    live = Policies()
    live.put(policy("deploy-web", subjects=subjects))
    pod = identity(issuer=IssuerName("pods"), claims={"namespace": "web", "service_account": "deployer"})
    own, elsewhere = "spiffe://prod.example/ns/web/sa/deployer", "spiffe://test.example/ns/web/sa/deployer"

    def asked(peer: str, door: str) -> Reason | None:
        try:
            decide(live.current, CLUSTERS, pod, None, request(), context(peer=peer, door=door))
        except ExchangeError as error:
            return error.reason
        else:
            return None

    assert [asked(own, "mtls"), asked("", "mtls"), asked(own, "mtls")] == [None, Reason.CONDITION_FALSE, None]
    assert [asked(elsewhere, "mtls"), asked(own, "grpc")] == [Reason.CONDITION_FALSE] * 2


def test_a_condition_on_the_actor_may_be_on_the_certificate() -> None:
    """Who acts for another can be made to show a certificate of its own."""
    party = {"issuer": "workloads", "path": "/ns/ci/sa/*", "when": "request.peer == subject"}
    text = _edited(policy("deploy-web"), actors=[party])
    actor = workload("/ns/ci/sa/runner")
    assert _decide(text, actor=actor, peer=actor.subject)
    assert _refusal(text, actor=actor, peer=workload().subject).reason is Reason.ACTOR_NOT_ALLOWED
    assert _refusal(text, actor=actor).reason is Reason.ACTOR_NOT_ALLOWED


def test_lifetimes() -> None:
    """Asked for is granted up to the maximum of policy and cluster; the default bows to the cluster."""
    assert _decide(lifetime=timedelta(minutes=15)).lifetime == timedelta(minutes=15)
    for wrong in (timedelta(minutes=16), timedelta(seconds=9)):
        error = _refusal(lifetime=wrong)
        assert (error.reason, error.public) == (Reason.LIFETIME_EXCEEDS_POLICY, {"max_lifetime": "900s"})
    short = {PROD: traits(max_lifetime=timedelta(minutes=1))}
    assert _decide(clusters=short).lifetime == timedelta(minutes=1)
    assert _refusal(clusters=short, lifetime=timedelta(minutes=2)).reason is Reason.LIFETIME_EXCEEDS_POLICY


def test_what_a_cluster_admits() -> None:
    """Classes, closed namespaces and modes of the cluster bound every policy."""
    assert _refusal(clusters={PROD: traits(breeding=frozenset())}).reason is Reason.BREEDING_NOT_ACKNOWLEDGED
    assert _refusal(policy("deploy-web", namespaces=["exchanged-grants"])).reason is Reason.NAMESPACE_CLOSED
    role = policy("deploy-web", rules=None, clusterRole="view", acknowledge=None, workloads=None)
    assert _refusal(role).reason is Reason.CLUSTER_NOT_GRANTED
    bindings = {PROD: traits(mode=Mode.BINDINGS)}
    assert _refusal(clusters=bindings).reason is Reason.CLUSTER_NOT_GRANTED
    assert _decide(role, clusters=bindings).cluster_role == "view"
    assert _decide(clusters={PROD: traits(mode=Mode.BINDINGS, fenced_roles=True)}).rules


def test_too_many_candidates_cost_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject that very many policies list has to name one."""
    monkeypatch.setattr(module, "MAX_CANDIDATES", 3)
    never = [policy(f"p{number}", when="request.hour == 0") for number in range(5)]
    assert _refusal(*never, scope=("rollout",)).reason is Reason.SCOPE_AMBIGUOUS


RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments", "*/scale"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "b"], "verbs": ["get", "delete"]},
]


def _narrowed(*details: AuthorizationDetail, **scope: Any) -> Allowed:
    usual: dict[str, Any] = {
        "rules": RULES,
        "acknowledge": ["wildcard"],
        "workloads": None,
        "namespaces": ["web", "api"],
    }
    text = policy("deploy-web", **(usual | scope))
    admitting = {PROD: traits(breeding=frozenset({"wildcard"}))}
    return _decide(text, clusters=admitting, authorization_details=details)


def test_narrowing_grants_exactly_what_is_asked() -> None:
    """Details narrow namespaces, groups, resources, names and verbs; several add up."""
    assert _narrowed(AuthorizationDetail(namespaces=("api",))).namespaces == ("api",)
    assert _narrowed(AuthorizationDetail(verbs=("get",))).rules == (
        Rule(api_groups=("apps",), resources=("deployments", "*/scale"), verbs=("get",)),
        Rule(api_groups=("",), resources=("pods",), verbs=("get",), resource_names=("a", "b")),
    )
    assert _narrowed(
        AuthorizationDetail(resources=("deployments/scale",), verbs=("list",)),
        AuthorizationDetail(api_groups=("",), resource_names=("b",)),
    ).rules == (
        Rule(api_groups=("apps",), resources=("deployments/scale",), verbs=("list",)),
        Rule(api_groups=("",), resources=("pods",), verbs=("get", "delete"), resource_names=("b",)),
    )
    assert _narrowed(AuthorizationDetail(api_groups=("apps",), resource_names=("x",))).rules[0].resource_names == ("x",)
    assert _narrowed(AuthorizationDetail()).rules == _narrowed().rules


@pytest.mark.parametrize(
    "detail",
    [
        AuthorizationDetail(namespaces=("other",)),
        AuthorizationDetail(verbs=("get", "update")),
        AuthorizationDetail(resources=("secrets",)),
        AuthorizationDetail(resources=("deployments", "pods"), verbs=("delete",)),
        AuthorizationDetail(api_groups=("",), resource_names=("a", "c")),
        AuthorizationDetail(verbs=("*",)),
        AuthorizationDetail(api_groups=("batch",)),
    ],
)
def test_narrowing_never_widens_and_never_gives_less(detail: AuthorizationDetail) -> None:
    """What the policy does not have in full is refused as a whole."""
    with pytest.raises(ExchangeError) as refused:
        _narrowed(detail)
    assert refused.value.reason is Reason.DETAILS_EXCEED_POLICY
    assert refused.value.oauth_error == "invalid_authorization_details"


def test_narrowing_that_cannot_be() -> None:
    """Different namespaces per detail, monsters, and cluster roles are refused for what they are."""
    with pytest.raises(ExchangeError) as refused:
        _narrowed(AuthorizationDetail(namespaces=("web",)), AuthorizationDetail(namespaces=("api",)))
    assert refused.value.reason is Reason.DETAILS_UNSUPPORTED
    many = tuple(f"v{number}" for number in range(200))
    with pytest.raises(ExchangeError) as refused:
        _narrowed(AuthorizationDetail(verbs=many, resources=many), acknowledge=["wildcard"])
    assert refused.value.reason is Reason.DETAILS_UNSUPPORTED
    role = policy("deploy-web", rules=None, clusterRole="view", acknowledge=None, workloads=None, namespaces=["a", "b"])
    bindings = {PROD: traits(mode=Mode.BINDINGS)}
    by_namespace = (AuthorizationDetail(namespaces=("b",)),)
    assert _decide(role, clusters=bindings, authorization_details=by_namespace).namespaces == ("b",)
    error = _refusal(role, clusters=bindings, authorization_details=(AuthorizationDetail(verbs=("get",)),))
    assert error.reason is Reason.DETAILS_CANNOT_NARROW


def test_narrowing_may_leave_a_class_behind() -> None:
    """Where the request leaves out what a cluster does not admit, the rest is granted."""
    detail = AuthorizationDetail(verbs=("get",))
    plain = {PROD: traits(breeding=frozenset())}
    assert _decide(clusters=plain, authorization_details=(detail,)).rules[0].verbs == ("get",)


def test_conditions_on_actors_and_odd_claims() -> None:
    """A condition sees who acts; a claim that CEL has no number for denies and does no harm."""
    party = {"issuer": "tools", "claims": {"team": "infra"}}
    ways = [{"issuer": "github", "claims": {"repository_id": "4711"}, "when": 'actor.subject == "bot"'}]
    listed = _edited(policy("deploy-web", subjects=ways), actors=[party])
    actor = identity(issuer=IssuerName("tools"), subject="bot", claims={"team": "infra"})
    assert _decide(listed, actor=actor)
    assert _refusal(listed).reason is Reason.CONDITION_FALSE
    odd = policy("a", subjects=[{"issuer": "github", "claims": {"repository_id": "4711"}, "when": "claims.n == 1"}])
    huge = identity(claims={"repository_id": "4711", "n": 1 << 70})
    assert _refusal(odd, who=huge, scope=("rollout",)).reason is Reason.CONDITION_FALSE


def test_text_beyond_unicode_denies() -> None:
    """Half of a surrogate pair, which JSON can hold and UTF-8 cannot, fails the condition and nothing else."""
    subjects = [{"issuer": "github", "claims": {"repository_id": "4711"}, "when": 'claims.ref == "main"'}]
    text = policy("a", subjects=subjects)
    for claims in ({"ref": "\ud800"}, {"ref": "main", "\ud800": "x"}):
        refused = _refusal(text, who=identity(claims={"repository_id": "4711", **claims}), scope=("rollout",))
        assert refused.reason is Reason.CONDITION_FALSE


def test_a_comment_ends_with_its_condition() -> None:
    """A condition may end in a comment, also where patterns stand beside it."""
    claims = {"repository_id": "4711", "ref": {"matches": "^refs/.*$"}}
    subjects = [{"issuer": "github", "claims": claims, "when": 'issuer == "github" // ours'}]
    assert _decide(policy("deploy-web", subjects=subjects))


def test_a_pattern_is_for_any_character() -> None:
    """Characters of every plane can stand in a pattern and in the name of its claim."""
    claims = {"repository_id": "4711", "\U0001f600": {"matches": "^\U0001f600$"}}
    text = policy("a", subjects=[{"issuer": "github", "claims": claims}])
    text = json.dumps(json.loads(text), ensure_ascii=False)
    held = {"repository_id": "4711", "\U0001f600": "\U0001f600"}
    assert _decide(text, who=identity(claims=held), scope=("rollout",))


def test_details_cost_a_bounded_time() -> None:
    """Repeated values are one, and all details together name a bounded number of combinations."""
    again = AuthorizationDetail(resources=("pods",) * 250, verbs=("get",) * 250, api_groups=("",) * 250)
    assert _narrowed(*[again] * 32).rules == (
        Rule(api_groups=("",), resources=("pods",), verbs=("get",), resource_names=("a", "b")),
    )
    names = tuple(f"n{number}" for number in range(200))
    wide = AuthorizationDetail(api_groups=("apps",), resources=("deployments",), resource_names=names)
    assert _narrowed(wide).rules[0].resource_names == names
    with pytest.raises(ExchangeError) as refused:
        _narrowed(*[wide] * 32)
    assert refused.value.reason is Reason.DETAILS_UNSUPPORTED


def test_narrowings_of_a_scope_are_told_apart_at_once() -> None:
    """What is remembered by a decision is found by its hash: many with the same one would be compared one by one."""
    narrowed = {
        _narrowed(AuthorizationDetail(resources=("pods",), verbs=("get",), api_groups=("",), resource_names=names))
        for names in (("a",), ("b",), ("a", "b"))
    }
    assert len({hash(each) for each in narrowed}) == 3
