"""The decision: pure, flat, by one policy and scope.

1. what is asked: at most one cluster, at most one scope
2. which policies list this subject (and this actor), and have that scope: the index
3. of those, which hold now: conditions, cluster, certificate, stated intent
4. exactly one must be left; it is the grant's author
5. what it grants, narrowed as asked and within what the cluster admits
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from exchanged.errors import ExchangeError, MalformedRequest, PolicyDenied, Reason, ScopeDenied, TargetDenied
from exchanged.model import (
    REMEMBERED_DECISIONS,
    Allowed,
    AuthorizationDetail,
    ClusterName,
    ClusterTraits,
    ExchangeRequest,
    Identity,
    Mode,
    RequestContext,
)
from exchanged.policy.classes import breeding
from exchanged.policy.compiled import CompiledParty, CompiledPolicy, CompiledScope
from exchanged.policy.index import PolicySet
from exchanged.policy.narrow import narrow

MAX_CANDIDATES = 200
"""Policies looked at for one request. More have this subject and scope only by mistake, or to cost us time."""
MAX_NAMED = 10
"""Candidates named to the caller when the scope is ambiguous."""
SHORTEST_LIFETIME = timedelta(seconds=10)
"""Shorter than a clock difference and a round trip, a grant is of no use."""

Clusters = Mapping[ClusterName, ClusterTraits]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request names: a policy only together with a scope, None where it names nothing."""

    policy: str | None
    scope: str | None
    cluster: ClusterName | None


@dataclass(frozen=True, slots=True)
class Question:
    """Everything a decision depends on, besides the policies."""

    clusters: Clusters
    subject: Identity
    actor: Identity | None
    request: ExchangeRequest
    context: RequestContext
    ask: Ask


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a policy does not decide a request; the highest rank is the most telling."""

    rank: int
    error: ExchangeError


def decide(
    policies: PolicySet,
    clusters: Clusters,
    subject: Identity,
    actor: Identity | None,
    request: ExchangeRequest,
    context: RequestContext,
) -> Allowed:
    """What is granted.

    Raises:
        MalformedRequest: more than one cluster or scope is named, or the two names of a cluster disagree.
        PolicyDenied, TargetDenied, ScopeDenied: nothing is granted; `reason` says why.
    """
    # 1. What is asked.
    question = Question(clusters, subject, actor, request, context, asked(request, clusters))
    _check_may_act(subject, actor)
    # 2. and 3. Which policies list the subject, and hold now.
    found: dict[tuple[str, str], tuple[CompiledPolicy, CompiledScope, ClusterName]] = {}
    miss: Miss | None = None
    for policy, party, scope in _candidates(policies, question):
        verdict = judge(policies, question, policy, party, scope)
        if isinstance(verdict, Miss):
            miss = verdict if miss is None or verdict.rank > miss.rank else miss
        else:
            found[policy.name, scope.name] = (policy, scope, verdict)
            if len(found) > MAX_NAMED:
                break
    # 4. Exactly one author.
    if not found:
        raise miss.error if miss else _nothing(policies, question)
    if len(found) > 1:
        names = " ".join(sorted("/".join(key) for key in found)[:MAX_NAMED])
        raise ScopeDenied(Reason.SCOPE_AMBIGUOUS, f"several scopes match: {names}", public={"candidates": names})
    ((policy, scope, cluster),) = found.values()
    # 5. What it grants.
    return grant(policy, scope, clusters[cluster], request)


def asked(request: ExchangeRequest, clusters: Clusters) -> Ask:
    """What the request names.

    Raises:
        MalformedRequest: several clusters or scopes.
        TargetDenied: a cluster that is not configured.
    """
    names = {_cluster_named(name, clusters) for name in request.audience}
    if request.resource:
        names |= {_cluster_at(url, clusters) for url in request.resource}
    if len(names) > 1:
        raise MalformedRequest(
            Reason.PARAMETER_CONFLICT,
            f"one cluster at a time: {', '.join(sorted(names))}",
            public={"parameter": "audience"},
        )
    if len(request.scope) > 1:
        raise MalformedRequest(Reason.PARAMETER_CONFLICT, "one scope at a time", public={"parameter": "scope"})
    policy, slash, scope = request.scope[0].partition("/") if request.scope else ("", "", "")
    if not slash:
        policy, scope = "", policy
    return Ask(policy=policy if slash else None, scope=scope or None, cluster=names.pop() if names else None)


def _cluster_named(name: str, clusters: Clusters) -> ClusterName:
    known = ClusterName(name)
    if known not in clusters:
        raise TargetDenied(Reason.CLUSTER_UNKNOWN, f"no cluster is called {name!r}")
    return known


def _cluster_at(url: str, clusters: Clusters) -> ClusterName:
    wanted = url.rstrip("/")
    for name, traits in clusters.items():
        if traits.resource.rstrip("/") == wanted:
            return name
    raise TargetDenied(Reason.CLUSTER_UNKNOWN, f"no cluster is at {url!r}")


def _check_may_act(subject: Identity, actor: Identity | None) -> None:
    """The subject token's own word on who may act for it (RFC 8693 §4.4)."""
    if actor is None or subject.may_act is None:
        return
    for name, value in subject.may_act.items():
        if actor.claims.get(name, actor.subject if name == "sub" else None) != value:
            raise PolicyDenied(Reason.ACTOR_NOT_ALLOWED, f"may_act of the subject token names another {name}")


def _candidates(
    policies: PolicySet, question: Question
) -> Iterator[tuple[CompiledPolicy, CompiledParty, CompiledScope]]:
    ask = question.ask
    if ask.policy is not None:
        policy = policies.named(ask.policy)
        entries = policies.matching_in(policy, question.subject) if policy else iter(())
    else:
        entries = policies.matching(question.subject, ask.scope)
    looked_at = 0
    for found, party in entries:
        for scope in found.scopes:
            if ask.scope is None or scope.name == ask.scope:
                looked_at += 1
                if looked_at > MAX_CANDIDATES:
                    raise ScopeDenied(
                        Reason.SCOPE_AMBIGUOUS, f"more than {MAX_CANDIDATES} policies list this subject and scope"
                    )
                yield found, party, scope


def _nothing(policies: PolicySet, question: Question) -> ExchangeError:
    """Why there was no candidate: the scope is unknown to one who has policies, everything to others."""
    ask, subject = question.ask, question.subject
    if ask.policy is not None:
        policy = policies.named(ask.policy)
        listed = policy is not None and any(policies.matching_in(policy, subject))
    else:
        listed = any(policies.matching(subject, None))
    if listed:
        return ScopeDenied(Reason.SCOPE_UNKNOWN, f"no scope {' '.join(question.request.scope)!r} for this subject")
    return PolicyDenied(Reason.NO_POLICY, f"no policy lists {subject.issuer}/{subject.subject}")


def judge(
    policies: PolicySet, question: Question, policy: CompiledPolicy, party: CompiledParty, scope: CompiledScope
) -> ClusterName | Miss:
    """The cluster for which this scope decides the question, or why it does not."""
    conditions, ask = policies.conditions, question.ask
    request, context = question.request, question.context
    who = (question.subject, question.actor)
    if party.condition is not None:
        why_not = conditions.why_not(party.condition, *who, request, context, None)
        if why_not:
            return Miss(1, PolicyDenied(Reason.CONDITION_FALSE, f"{policy.name}: subject: {why_not}"))
    if question.actor is None:
        if policy.actor_required:
            return Miss(2, PolicyDenied(Reason.ACTOR_NOT_ALLOWED, f"{policy.name} wants an actor token"))
    elif not _actor_listed(policies, question, policy, question.actor):
        return Miss(2, PolicyDenied(Reason.ACTOR_NOT_ALLOWED, f"{policy.name} does not list this actor"))
    cluster = _cluster(ask, scope, question.clusters)
    if cluster is None:
        return Miss(3, _no_cluster(policy, scope, ask, question.clusters))
    if scope.condition is not None:
        why_not = conditions.why_not(scope.condition, *who, request, context, cluster)
        if why_not:
            return Miss(4, PolicyDenied(Reason.CONDITION_FALSE, f"{policy.name}/{scope.name}: {why_not}"))
    return _left_out(policy, question) or cluster


def _left_out(policy: CompiledPolicy, question: Question) -> Miss | None:
    """What the policy wants of the caller besides; nothing else is in the way."""
    subject, peer = question.subject.subject, question.context.peer
    if policy.requires_certificate and (not peer or peer != subject):
        detail = f"{policy.name} wants it over the certificate of {subject}, and it came over {peer or 'none'}"
        return Miss(5, PolicyDenied(Reason.CERTIFICATE_REQUIRED, detail))
    if policy.requires_intent and not question.request.intent:
        return Miss(6, PolicyDenied(Reason.INTENT_REQUIRED, f"{policy.name} wants a stated intent"))
    return None


def _actor_listed(policies: PolicySet, question: Question, policy: CompiledPolicy, actor: Identity) -> bool:
    for party in policy.actors:
        if party.issuer == actor.issuer and party.claims_match(actor.claims):
            if party.condition is None:
                return True
            if not policies.conditions.why_not(party.condition, actor, actor, question.request, question.context, None):
                return True
    return False


def _cluster(ask: Ask, scope: CompiledScope, clusters: Clusters) -> ClusterName | None:
    """The cluster asked for if the scope has it, or else its only one."""
    if ask.cluster is not None:
        return ask.cluster if ask.cluster in scope.clusters else None
    configured = [name for name in scope.clusters if name in clusters]
    return configured[0] if len(configured) == 1 else None


def _no_cluster(policy: CompiledPolicy, scope: CompiledScope, ask: Ask, clusters: Clusters) -> TargetDenied:
    name = f"{policy.name}/{scope.name}"
    if ask.cluster is not None:
        return TargetDenied(Reason.CLUSTER_NOT_GRANTED, f"{name} does not grant {ask.cluster}")
    configured = sorted(each for each in scope.clusters if each in clusters)
    if not configured:
        return TargetDenied(Reason.CLUSTER_UNKNOWN, f"{name} names no cluster that is configured")
    listed = " ".join(configured[:MAX_NAMED])
    return TargetDenied(
        Reason.CLUSTER_AMBIGUOUS, f"{name} has several clusters: {listed}", public={"candidates": listed}
    )


def grant(policy: CompiledPolicy, scope: CompiledScope, traits: ClusterTraits, request: ExchangeRequest) -> Allowed:
    """What a scope grants at a cluster, narrowed as the request asks.

    Raises:
        ScopeDenied, TargetDenied: the request goes beyond the scope, or the scope beyond the cluster.
    """
    if request.authorization_details or request.lifetime is not None:
        return _grant(policy, scope, traits, request.authorization_details, request.lifetime)
    return _whole(policy, scope.name, traits)


@lru_cache(maxsize=REMEMBERED_DECISIONS)
def _whole(policy: CompiledPolicy, scope_name: str, traits: ClusterTraits) -> Allowed:
    """As most ask: nothing is narrowed, so nothing of it depends on the request."""
    scope = policy.scope(scope_name)
    assert scope is not None, "it is named by one of its own"  # noqa: S101
    return _grant(policy, scope, traits, (), None)


def _grant(
    policy: CompiledPolicy,
    scope: CompiledScope,
    traits: ClusterTraits,
    details: tuple[AuthorizationDetail, ...],
    lifetime: timedelta | None,
) -> Allowed:
    _check_cluster(policy, scope, traits)
    namespaces, rules = narrow(scope, details)
    classes = breeding(rules) if details else scope.classes
    if not classes <= traits.breeding:
        raise ScopeDenied(
            Reason.BREEDING_NOT_ACKNOWLEDGED,
            f"{traits.name} does not admit {', '.join(sorted(classes - traits.breeding))}",
        )
    return Allowed(
        policy=policy.name,
        scope=scope.name,
        policy_digest=policy.digest,
        owner=policy.owner,
        function=policy.function,
        cluster=traits.name,
        namespaces=namespaces,
        cluster_scoped=scope.cluster_scoped,
        rules=rules,
        cluster_role=scope.cluster_role,
        acknowledged=scope.acknowledged,
        workload_accounts=scope.workload_accounts,
        lifetime=_lifetime(scope, traits, lifetime),
    )


def _check_cluster(policy: CompiledPolicy, scope: CompiledScope, traits: ClusterTraits) -> None:
    name = f"{policy.name}/{scope.name}"
    closed = traits.closed_namespaces.intersection(scope.namespaces)
    if closed:
        raise ScopeDenied(Reason.NAMESPACE_CLOSED, f"{name} reaches {', '.join(sorted(closed))}")
    if scope.cluster_role and traits.mode is Mode.AUTHORIZER:
        raise TargetDenied(
            Reason.CLUSTER_NOT_GRANTED,
            f"{name} names a cluster role, which mode authorizer of {traits.name} has no use for",
        )
    if not scope.cluster_role and traits.mode is Mode.BINDINGS and not traits.fenced_roles:
        raise TargetDenied(
            Reason.CLUSTER_NOT_GRANTED, f"{name} has rules of its own, and {traits.name} has no fencedRoles"
        )


def _lifetime(scope: CompiledScope, traits: ClusterTraits, asked: timedelta | None) -> timedelta:
    if asked is None:
        return min(scope.default_lifetime, traits.max_lifetime)
    most = min(scope.max_lifetime, traits.max_lifetime)
    if not SHORTEST_LIFETIME <= asked <= most:
        raise ScopeDenied(
            Reason.LIFETIME_EXCEEDS_POLICY,
            f"{asked} is not between {SHORTEST_LIFETIME} and {most}",
            public={"max_lifetime": f"{int(most.total_seconds())}s"},
        )
    return asked
