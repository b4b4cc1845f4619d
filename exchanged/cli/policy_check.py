"""What is wrong with policies, and what deserves a second look."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from exchanged.authenticate.profiles import BY_NAME, KUBERNETES
from exchanged.cli.policy_files import PolicyFiles
from exchanged.config import Cluster, Configuration, OidcIssuer, SpiffeIssuer
from exchanged.model import Rule
from exchanged.policy.classes import IMPERSONATE, NODES, RBAC, SECRETS, TOKENS, WILDCARD, breeding
from exchanged.policy.compiled import CompiledParty, CompiledPolicy, CompiledScope
from exchanged.spiffe_id import SpiffeId
from exchanged.strict_yaml import Fault

UNNAMED_VERBS = frozenset({"create", "deletecollection"})
"""A request with these verbs has no name, so a rule with resourceNames never allows it."""
READING = frozenset({"get", "list", "watch"})
FUNCTION_OF_CLASS: Mapping[str, str] = {
    SECRETS: "secrets",
    TOKENS: "secrets",
    RBAC: "policy",
    WILDCARD: "admin",
    IMPERSONATE: "admin",
    NODES: "admin",
}
"""What breeds credentials is of function secrets, what says who may what of policy; the rest is read or deploy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How many policies there are, and what is to be said of them."""

    policies: int
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        faults = [fault.as_json() for fault in self.faults]
        return {"policies": self.policies, "faults": faults, "warnings": list(self.warnings)}


def check(files: PolicyFiles, configuration: Configuration | None) -> CheckReport:
    """Checks policies, against a configuration where there is one."""
    warnings = tuple(warning for policy in files.policies for warning in warn(policy, configuration))
    return CheckReport(policies=len(files.policies), faults=files.faults, warnings=warnings)


def warn(policy: CompiledPolicy, configuration: Configuration | None) -> Iterator[str]:
    """What deserves a second look in one policy."""
    for text in _functions(policy):
        yield f"{policy.name}: {text}"
    for kind, parties in (("subjects", policy.subjects), ("actors", policy.actors)):
        for index, party in enumerate(parties):
            for text in _party(party, configuration):
                yield f"{policy.name}: {kind}[{index}]: {text}"
    for text in _certificate(policy, configuration):
        yield f"{policy.name}: requireCertificate: {text}"
    for scope in policy.scopes:
        for text in _scope(scope, configuration):
            yield f"{policy.name}/{scope.name}: {text}"


def functions(rules: tuple[Rule, ...]) -> frozenset[str]:
    """The functions that rules are of, each by the resources and verbs that it names."""
    return frozenset(
        name
        for rule in rules
        for resource in rule.resources
        for name in _functions_of(replace(rule, resources=(resource,)))
    )


def _functions_of(rule: Rule) -> set[str]:
    found = {FUNCTION_OF_CLASS[name] for name in breeding((rule,)) if name in FUNCTION_OF_CLASS}
    if "admin" in found:
        return {"admin"}
    return found or {"read" if READING.issuperset(rule.verbs) else "deploy"}


def _functions(policy: CompiledPolicy) -> Iterator[str]:
    """One function a policy. Reading goes with any, for whoever changes a thing looks at it; admin is what is left."""
    where: dict[str, list[str]] = {}
    for scope in policy.scopes:
        for name in functions(scope.rules) - {"read"}:
            where.setdefault(name, []).append(scope.name)
    held = ", ".join(f"{name} ({', '.join(scopes)})" for name, scopes in sorted(where.items()))
    if policy.function == "admin" or where.keys() <= {policy.function}:
        return
    if len(where) > 1:
        yield f"mixes functions: {held}; make a policy of each"
    else:
        yield f"is of function {policy.function}, and yet its rules are of function {held}"


def _party(party: CompiledParty, configuration: Configuration | None) -> Iterator[str]:
    if configuration is None:
        return
    issuer = configuration.issuers.get(party.issuer)
    if issuer is None:
        yield f"issuer {party.issuer} is not configured"
        return
    if isinstance(issuer, SpiffeIssuer):
        yield from _of_domain(party, issuer.trust_domain)
        return
    profile = BY_NAME[issuer.profile] if isinstance(issuer, OidcIssuer) else KUBERNETES
    if not all(isinstance(place, str) for place in party.shape):
        yield f"path is for issuers of type spiffe, and {party.issuer} is of type {issuer.type}"
    listed = {place for place in party.shape if isinstance(place, str)}.union(name for name, _ in party.others)
    if profile.used is not None:
        for name in sorted(listed - profile.usable):
            if not name.startswith(profile.prefix):
                yield f"tokens of {party.issuer} have no claim {name} that policies may match on"
    for name in sorted(listed & profile.names.keys()):
        if listed.isdisjoint(profile.names[name]):
            yield f"{name} is a name, and names can be taken over; match {' or '.join(profile.names[name])} too"


def _of_domain(party: CompiledParty, domain: str) -> Iterator[str]:
    """IDs of a trust domain that its issuer does not vouch for, and what is no ID at all."""
    for value in sorted(_values(party, "trust_domain") - {domain}):
        yield f"{party.issuer} is trust domain {domain}, not {value!r}; this matches nobody"
    for value in sorted(_values(party, "sub")):
        try:
            spiffe_id = SpiffeId.parse(value)
        except ValueError:
            yield f"sub {value!r} is no SPIFFE ID; this matches nobody"
            continue
        if spiffe_id.trust_domain != domain or not spiffe_id.path:
            yield f"sub {value} is no workload of trust domain {domain}, which {party.issuer} is; this matches nobody"


def _values(party: CompiledParty, name: str) -> set[str]:
    """Exact values of a claim that a party lists."""
    listed = {value for other, values in party.others if other == name for value in values}
    return listed.union(key[place] for place, each in enumerate(party.shape) if each == name for key in party.keys)


def _certificate(policy: CompiledPolicy, configuration: Configuration | None) -> Iterator[str]:
    """Why nobody could ever show the certificate that a policy demands."""
    if configuration is None or not policy.requires_certificate:
        return
    if configuration.doors.mtls is None:
        yield "there is no doors.mtls over which certificates could come; it will be refused"
    for name in sorted({party.issuer for party in policy.subjects} & configuration.issuers.keys()):
        issuer = configuration.issuers[name]
        if not isinstance(issuer, SpiffeIssuer):
            yield f"is for issuers of type spiffe, and {name} is of type {issuer.type}; its subjects will be refused"
        elif "x509" not in issuer.svids:
            yield f"{name} does not accept X.509-SVIDs; its subjects will be refused"


def _scope(scope: CompiledScope, configuration: Configuration | None) -> Iterator[str]:
    for name in sorted(scope.classes):
        yield f"holds {name}: what it breeds or reveals outlives the grant"
    if any("watch" in rule.verbs for rule in scope.rules):
        yield "an open watch outlives a revocation until the API server ends it"
    for rule in scope.rules:
        unnamed = UNNAMED_VERBS.intersection(rule.verbs)
        if rule.resource_names and unnamed:
            yield f"{', '.join(sorted(unnamed))} with resourceNames never matches a request"
    for name in scope.clusters:
        cluster = configuration.clusters.get(name) if configuration else None
        if cluster is not None:
            yield from (f"cluster {name}: {text}" for text in _at(scope, cluster))
        elif configuration is not None:
            yield f"cluster {name} is not configured"


def _at(scope: CompiledScope, cluster: Cluster) -> Iterator[str]:
    if cluster.mode == "bindings":
        yield from _at_bindings(scope, cluster)
    elif scope.cluster_role:
        yield "clusterRole is of no use in mode authorizer; it will be refused"
    missing = scope.classes - frozenset(cluster.allow)
    if missing:
        yield f"does not admit {', '.join(sorted(missing))}; it will be refused"
    if scope.default_lifetime > cluster.max_lifetime:
        yield "the default lifetime is over the cluster's maximum, and will be that"
    closed = {cluster.daemon_namespace, cluster.grants_namespace}.intersection(scope.namespaces)
    if closed:
        yield f"namespace {', '.join(sorted(closed))} is closed; it will be refused"


def _at_bindings(scope: CompiledScope, cluster: Cluster) -> Iterator[str]:
    if scope.cluster_scoped:
        yield "mode bindings grants namespaces, not the whole cluster; it will be refused"
    if scope.rules and not cluster.fenced_roles:
        yield "rules need fencedRoles in mode bindings; it will be refused"
    if scope.cluster_role and scope.cluster_role not in cluster.cluster_roles:
        yield f"cluster role {scope.cluster_role} is not listed; it will be refused"
    beyond = set(scope.namespaces) - set(cluster.namespaces) - {cluster.daemon_namespace, cluster.grants_namespace}
    if beyond:
        yield f"namespace {', '.join(sorted(beyond))} is not listed; it will be refused"
