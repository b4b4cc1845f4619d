"""Which policy would decide a request, and why the others would not: the decision itself, with every verdict told."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exchanged.authenticate.profiles import BY_NAME
from exchanged.clusters import traits_of
from exchanged.config import Configuration, OidcIssuer
from exchanged.errors import ExchangeError
from exchanged.log import entries
from exchanged.model import (
    ClusterName,
    ExchangeRequest,
    Identity,
    IdentityKind,
    IssuerName,
    PresentedToken,
    RequestContext,
    RequestId,
    TokenDigest,
)
from exchanged.policy.compiled import CompiledPolicy, Compiler
from exchanged.policy.decide import Miss, Question, asked, decide, judge
from exchanged.policy.folder import policy_files
from exchanged.policy.index import PolicySet
from exchanged.policy.load import load_text
from exchanged.strict_yaml import Faulty


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The outcome, and the verdict of each scope that lists the issuer."""

    allowed: Mapping[str, Any] | None
    outcome: str
    verdicts: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        verdicts = [{"scope": scope, "verdict": verdict} for scope, verdict in self.verdicts]
        return {"allowed": self.allowed, "outcome": self.outcome, "verdicts": verdicts}


def explain(
    folder: Path,
    configuration: Configuration,
    issuer: str,
    claims: Mapping[str, Any],
    *,
    cluster: str = "",
    scope: str = "",
    intent: str = "",
) -> Explanation:
    """What would be decided for these claims of this issuer, now."""
    policies = _loaded(folder)
    subject = _identity(configuration, issuer, claims)
    request = ExchangeRequest(
        subject_token=PresentedToken(text=""),
        subject_token_type="",
        audience=(cluster,) if cluster else (),
        scope=(scope,) if scope else (),
        intent=intent,
    )
    now = datetime.now(UTC)
    context = RequestContext(request_id=RequestId("explain"), time=now, source="127.0.0.1", door="grpc")
    names = map(ClusterName, configuration.clusters)
    clusters = {name: traits_of(name, configuration.clusters[name]) for name in names}
    try:
        allowed = entries.decided(decide(policies, clusters, subject, None, request, context))
        outcome = f"allowed by {allowed['policy']}/{allowed['scope']} at {allowed['cluster']}"
    except ExchangeError as error:
        allowed, outcome = None, f"refused: {error.reason}: {error.detail}"
    try:
        question = Question(clusters, subject, None, request, context, asked(request, clusters))
    except ExchangeError:
        return Explanation(allowed=allowed, outcome=outcome, verdicts=())
    verdicts = tuple(verdict for policy in policies for verdict in _verdicts(policies, question, policy))
    return Explanation(allowed=allowed, outcome=outcome, verdicts=verdicts)


def _verdicts(policies: PolicySet, question: Question, policy: CompiledPolicy) -> Iterator[tuple[str, str]]:
    subject = question.subject
    of_issuer = [party for party in policy.subjects if party.issuer == subject.issuer]
    listing = [party for party in of_issuer if party.claims_match(subject.claims)]
    for scope in policy.scopes if of_issuer else ():
        name = f"{policy.name}/{scope.name}"
        if not listing:
            yield name, "the subject's claims are others"
        for party in listing:
            verdict = judge(policies, question, policy, party, scope)
            yield name, f"{verdict.error.reason}: {verdict.error.detail}" if isinstance(verdict, Miss) else "matches"


def _loaded(folder: Path) -> PolicySet:
    compiler = Compiler()
    policies = PolicySet(compiler.conditions)
    for file in policy_files(folder) if folder.is_dir() else [folder]:
        try:
            for policy in load_text(file.read_text(encoding="utf-8"), str(file), compiler):
                policies.put(policy)
        except (Faulty, OSError, UnicodeError):
            continue  # `policy check` tells; the daemon would leave it out too
    return policies


def _identity(configuration: Configuration, issuer: str, claims: Mapping[str, Any]) -> Identity:
    settings = configuration.issuers.get(issuer)
    if isinstance(settings, OidcIssuer):
        used = BY_NAME[settings.profile].used
        claims = {name: value for name, value in claims.items() if used is None or name in used | {"iss", "sub"}}
    else:
        claims = _flat(claims)
    now = datetime.now(UTC)
    return Identity(
        issuer=IssuerName(issuer),
        subject=str(claims.get("sub", "")),
        kind=IdentityKind.WORKLOAD,
        claims=claims,
        issued_at=now,
        expires_at=now,
        token_digest=TokenDigest(b""),
    )


def _flat(claims: Mapping[str, Any]) -> dict[str, Any]:
    """A projected token's nested claim as policies see it; claims that are flat already stay as they are."""
    nested = claims.get("kubernetes.io")
    if not isinstance(nested, Mapping):
        return dict(claims)
    flat = {"iss": claims.get("iss"), "sub": claims.get("sub"), "namespace": nested.get("namespace")}
    for ours, theirs in (("service_account", "serviceaccount"), ("pod", "pod"), ("node", "node")):
        bound = nested.get(theirs)
        if isinstance(bound, Mapping):
            flat |= {ours: bound.get("name"), f"{ours}_uid": bound.get("uid")}
    return flat
