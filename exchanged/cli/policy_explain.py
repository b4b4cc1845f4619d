"""Which policy would decide a request, and why the others would not: the decision itself, with every verdict told."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from exchanged.authenticate.oidc import usable
from exchanged.authenticate.profiles import BY_NAME, KUBERNETES
from exchanged.authenticate.svid import claims_of
from exchanged.cli.policy_files import PolicyFiles
from exchanged.clusters import Clusters
from exchanged.config import Configuration, OidcIssuer, SpiffeIssuer
from exchanged.errors import ClusterUnavailable, ExchangeError
from exchanged.keys.signing import KeyRing
from exchanged.log import entries
from exchanged.metrics import Metrics
from exchanged.model import (
    Allowed,
    Claims,
    ClusterName,
    ExchangeRequest,
    GrantId,
    Identity,
    IdentityKind,
    IssuerName,
    RequestContext,
    TokenDigest,
)
from exchanged.policy.compiled import CompiledPolicy, CompiledScope
from exchanged.policy.decide import Miss, Question, asked, decide, grant, judge
from exchanged.policy.index import PolicySet
from exchanged.ports import ClusterMode
from exchanged.spiffe_id import SCHEME, SpiffeId
from exchanged.strict_yaml import Fault

Modes = Mapping[ClusterName, ClusterMode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The outcome, the verdict of each scope that lists the issuer, and what is not in force.

    Attributes:
        unknown: what only the cluster can tell, and may still refuse; "" if nothing.
    """

    allowed: Mapping[str, Any] | None
    outcome: str
    unknown: str = ""
    verdicts: tuple[tuple[str, str], ...] = ()
    faults: tuple[Fault, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "allowed": self.allowed,
            "outcome": self.outcome,
            "unknown": self.unknown,
            "verdicts": [{"scope": scope, "verdict": verdict} for scope, verdict in self.verdicts],
            "faults": [fault.as_json() for fault in self.faults],
        }


def explain(
    files: PolicyFiles,
    modes: Modes,
    subject: Identity,
    actor: Identity | None,
    request: ExchangeRequest,
    context: RequestContext,
) -> Explanation:
    """What would be decided."""
    policies, clusters = files.policies, {name: mode.traits for name, mode in modes.items()}
    allowed, unknown, verdicts = None, "", list[tuple[str, str]]()
    try:
        decided = decide(policies, clusters, subject, actor, request, context)
        unknown = _plan(modes, decided)
        allowed = entries.decided(decided)
        outcome = f"allowed by {decided.policy}/{decided.scope} at {decided.cluster} for {decided.lifetime}"
    except ExchangeError as error:
        outcome = f"refused: {_told(error)}"
    try:
        question = Question(clusters, subject, actor, request, context, asked(request, clusters))
        verdicts = [verdict for policy in policies for verdict in _verdicts(policies, modes, question, policy)]
    except ExchangeError:
        verdicts = []  # the request itself makes no sense; the outcome says so
    return Explanation(allowed=allowed, outcome=outcome, unknown=unknown, verdicts=tuple(verdicts), faults=files.faults)


def modes_of(configuration: Configuration) -> Modes:
    """The clusters' modes as the daemon has them, for asking what they would grant. Nothing is read or called."""
    unread = {
        name: cluster.model_copy(update={"certificate_authority": None})
        for name, cluster in configuration.clusters.items()
    }
    keys = KeyRing(
        folder=configuration.state / "keys",
        rotate_after=configuration.signing_keys.rotate_after,
        publish_ahead=configuration.signing_keys.publish_ahead,
        longest_grant=max(cluster.max_lifetime for cluster in unread.values()),
        clock=lambda: datetime.now(UTC),
    )
    settings = configuration.model_copy(update={"clusters": unread})
    return Clusters.build(settings, instance="", keys=keys, metrics=Metrics()).modes


def issuers_of(configuration: Configuration, claims: Claims) -> list[str]:
    """The configured names of those whose these claims may be: by `iss`, an SVID's by the trust domain of `sub`."""
    return [
        name
        for name, issuer in configuration.issuers.items()
        if (
            SpiffeId.looks_of(issuer.trust_domain, claims.get("sub"))
            if isinstance(issuer, SpiffeIssuer)
            else issuer.issuer == claims.get("iss")
        )
    ]


def identity(configuration: Configuration, issuer: str, claims: Claims, now: datetime, *, svid: str) -> Identity:
    """Who the issuer's authenticator would make of these claims, had it verified them.

    A SPIFFE issuer's are those of an SVID of kind `svid`: `jwt` or `x509`.

    Raises:
        ValueError: they cannot be those of an SVID; the message says why.
    """
    settings = configuration.issuers[issuer]
    matched, is_person, may_act = claims, False, None
    if isinstance(settings, OidcIssuer):
        matched, is_person, may_act = usable(claims, BY_NAME[settings.profile]), settings.person, claims.get("may_act")
    elif isinstance(settings, SpiffeIssuer):
        if svid not in {"jwt", "x509"}:
            raise ValueError(f"svid {svid!r} is neither jwt nor x509")
        matched = claims_of(_spiffe_id(claims, settings.trust_domain), svid, claims)
    else:
        matched = usable(_flat(claims), KUBERNETES)
    return Identity(
        issuer=IssuerName(issuer),
        subject=str(claims.get("sub", "")),
        kind=IdentityKind.PERSON if is_person else IdentityKind.WORKLOAD,
        claims=matched,
        issued_at=now,
        expires_at=now,
        token_digest=TokenDigest(b""),
        may_act=may_act if isinstance(may_act, dict) else None,
    )


def peer_of(configuration: Configuration, subject: Identity) -> str:
    """The SPIFFE ID of the certificate that a subject is; "" for one that is a token."""
    spiffe = isinstance(configuration.issuers[subject.issuer], SpiffeIssuer)
    return subject.subject if spiffe and subject.claims["svid"] == "x509" else ""


def _verdicts(
    policies: PolicySet, modes: Modes, question: Question, policy: CompiledPolicy
) -> Iterator[tuple[str, str]]:
    subject = question.subject
    of_issuer = [party for party in policy.subjects if party.issuer == subject.issuer]
    listing = [party for party in of_issuer if party.claims_match(subject.claims)]
    for scope in policy.scopes if of_issuer else ():
        name = f"{policy.name}/{scope.name}"
        if not listing:
            yield name, "the subject's claims are others"
        for party in listing:
            verdict = judge(policies, question, policy, party, scope)
            if isinstance(verdict, Miss):
                yield name, _told(verdict.error)
            else:
                yield name, _granted(modes, verdict, policy, scope, question.request)


def _granted(
    modes: Modes, cluster: ClusterName, policy: CompiledPolicy, scope: CompiledScope, request: ExchangeRequest
) -> str:
    """Whether a scope that matches could be granted."""
    try:
        unknown = _plan(modes, grant(policy, scope, modes[cluster].traits, request))
    except ExchangeError as error:
        return f"matches, but {_told(error)}"
    return f"matches; {unknown}" if unknown else "matches"


def _plan(modes: Modes, allowed: Allowed) -> str:
    """What only the cluster can tell of this grant, or "".

    Raises:
        ExchangeError: its mode would refuse.
    """
    try:
        modes[allowed.cluster].plan(GrantId("explained"), allowed)
    except ClusterUnavailable:
        return f"what cluster role {allowed.cluster_role} holds is known at {allowed.cluster} alone"
    return ""


def _told(error: ExchangeError) -> str:
    return f"{error.reason}: {error.detail}" if error.detail else error.reason.value


def _spiffe_id(claims: Claims, trust_domain: str) -> SpiffeId:
    subject = claims.get("sub")
    try:
        spiffe_id = SpiffeId.parse(subject if isinstance(subject, str) else "")
    except ValueError as error:
        raise ValueError(f"sub {subject!r} is no SPIFFE ID: {SCHEME}{trust_domain}/…") from error
    if spiffe_id.trust_domain != trust_domain or not spiffe_id.path:
        raise ValueError(f"sub {subject!r} is no workload of trust domain {trust_domain}: {SCHEME}{trust_domain}/…")
    return spiffe_id


def _flat(claims: Claims) -> Claims:
    """A projected token's nested claim as policies see it; claims that are flat already stay as they are."""
    nested = claims.get("kubernetes.io")
    if not isinstance(nested, Mapping):
        return claims
    flat = {"iss": claims.get("iss"), "sub": claims.get("sub"), "namespace": nested.get("namespace")}
    for ours, theirs in (("service_account", "serviceaccount"), ("pod", "pod"), ("node", "node")):
        bound = nested.get(theirs)
        if isinstance(bound, Mapping):
            flat |= {ours: bound.get("name"), f"{ours}_uid": bound.get("uid")}
    return flat
