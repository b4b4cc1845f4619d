"""What is wrong with policies, and what deserves a second look."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchanged.authenticate.profiles import BY_NAME, KUBERNETES
from exchanged.config import Cluster, Configuration, OidcIssuer
from exchanged.policy.compiled import CompiledParty, CompiledPolicy, CompiledScope, Compiler
from exchanged.policy.folder import policy_files
from exchanged.policy.load import load_text
from exchanged.strict_yaml import Fault, Faulty

UNNAMED_VERBS = frozenset({"create", "deletecollection"})
"""A request with these verbs has no name, so a rule with resourceNames never allows it."""
FUNCTIONS: Mapping[str, frozenset[str]] = {
    "read": frozenset({"get", "list", "watch"}),
    "secrets": frozenset({"secrets"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How many policies there are, and what is to be said of them."""

    policies: int
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        faults = [
            {"file": each.file, "line": each.line, "where": each.where, "what": each.what} for each in self.faults
        ]
        return {"policies": self.policies, "faults": faults, "warnings": list(self.warnings)}


def check(path: Path, configuration: Configuration | None) -> CheckReport:
    """Checks a folder of policies, or one file."""
    compiler = Compiler()
    faults: list[Fault] = []
    found: dict[str, CompiledPolicy] = {}
    for file in policy_files(path) if path.is_dir() else [path]:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        try:
            policies = load_text(file.read_text(encoding="utf-8"), name, compiler)
        except Faulty as faulty:
            faults += faulty.faults
            continue
        except (OSError, UnicodeError) as error:
            faults.append(Fault(file=name, line=1, where="", what=f"cannot be read: {error}"))
            continue
        for policy in policies:
            if policy.name in found:
                what = f"policy {policy.name!r} is in another file too"
                faults.append(Fault(file=name, line=1, where="metadata.name", what=what))
            found[policy.name] = policy
    warnings = tuple(warning for policy in found.values() for warning in warn(policy, configuration))
    return CheckReport(policies=len(found), faults=tuple(faults), warnings=warnings)


def warn(policy: CompiledPolicy, configuration: Configuration | None) -> Iterator[str]:
    """What deserves a second look in one policy."""
    for kind, parties in (("subjects", policy.subjects), ("actors", policy.actors)):
        for index, party in enumerate(parties):
            for text in _party(party, configuration):
                yield f"{policy.name}: {kind}[{index}]: {text}"
    for scope in policy.scopes:
        for text in _scope(policy, scope, configuration):
            yield f"{policy.name}/{scope.name}: {text}"


def _party(party: CompiledParty, configuration: Configuration | None) -> Iterator[str]:
    if configuration is None:
        return
    issuer = configuration.issuers.get(party.issuer)
    if issuer is None:
        yield f"issuer {party.issuer} is not configured"
        return
    profile = BY_NAME[issuer.profile] if isinstance(issuer, OidcIssuer) else KUBERNETES
    listed = {*party.shape, *(name for name, _ in party.others)}
    if profile.used is not None:
        for name in sorted(listed - profile.used - {"iss", "sub"}):
            yield f"tokens of {party.issuer} have no claim {name} that policies may match on"
    for name in sorted(listed & profile.names.keys()):
        if listed.isdisjoint(profile.names[name]):
            yield f"{name} is a name, and names can be taken over; match {' or '.join(profile.names[name])} too"


def _scope(policy: CompiledPolicy, scope: CompiledScope, configuration: Configuration | None) -> Iterator[str]:
    for name in sorted(scope.classes):
        yield f"holds {name}: what it breeds or reveals outlives the grant"
    verbs = {verb for rule in scope.rules for verb in rule.verbs}
    if "watch" in verbs:
        yield "an open watch outlives a revocation until the API server ends it"
    if policy.function == "read" and verbs - FUNCTIONS["read"]:
        yield f"function read, and yet it may {', '.join(sorted(verbs - FUNCTIONS['read']))}"
    if policy.function != "secrets" and "secrets" in scope.classes:
        yield f"function {policy.function}, and yet it reaches secrets: one function a policy"
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
    if scope.cluster_role and cluster.mode == "authorizer":
        yield "clusterRole is of no use in mode authorizer; it will be refused"
    if scope.rules and cluster.mode == "bindings" and not cluster.fenced_roles:
        yield "rules need fencedRoles in mode bindings; it will be refused"
    if scope.cluster_role and cluster.mode == "bindings" and scope.cluster_role not in cluster.cluster_roles:
        yield f"cluster role {scope.cluster_role} is not listed; it will be refused"
    missing = scope.classes - frozenset(cluster.allow)
    if missing:
        yield f"does not admit {', '.join(sorted(missing))}; it will be refused"
    if scope.default_lifetime > cluster.max_lifetime:
        yield "the default lifetime is over the cluster's maximum, and will be that"
    closed = {cluster.daemon_namespace, cluster.grants_namespace}.intersection(scope.namespaces)
    if closed:
        yield f"namespace {', '.join(sorted(closed))} is closed; it will be refused"
