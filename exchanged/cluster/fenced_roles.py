"""What the roles that the daemon makes may hold: the classes of `exchanged.policy.classes`, said in CEL."""

from collections.abc import Iterable

from exchanged.cluster.admission import listed
from exchanged.cluster.manifests import RUN_AS
from exchanged.config import Cluster
from exchanged.policy.classes import ALL, IMPERSONATE, TABLE, WILDCARD


def role_rules(cluster: Cluster) -> Iterable[tuple[str, str]]:
    """Validations: the run-as right alone, or with fencedRoles whatever is not in an unlisted class."""
    unless = "variables.kind != 'roles' || request.operation != 'CREATE' || !has(object.rules) || "
    run_as = (
        "object.rules.all(r, has(r.resources) && r.resources == ['serviceaccounts'] && "
        f"r.verbs == ['{RUN_AS}'] && has(r.resourceNames))"
    )
    if not cluster.fenced_roles:
        yield unless + run_as, "without fencedRoles a role grants nothing but to name service accounts"
        return
    yield (
        unless + "object.rules.all(r, has(r.resources) && has(r.apiGroups) && !has(r.nonResourceURLs))",
        "rules are about resources",
    )
    for name in sorted(ALL - frozenset(cluster.allow)):
        yield unless + f"!object.rules.exists(r, {holds(name)})", f"class {name} is not admitted at this cluster"


def holds(name: str) -> str:
    """CEL: whether rule `r` holds a class, as `exchanged.policy.classes.breeding` says it."""
    if name == WILDCARD:
        return "'*' in r.verbs || '*' in r.apiGroups || r.resources.exists(x, x.startsWith('*'))"
    parts = [f"({_one(*row[1:])})" for row in TABLE if row[0] == name]
    if name == IMPERSONATE:
        parts.append("r.verbs.exists(v, v.startsWith('impersonate'))")
        extras = "r.resources.exists(x, x.startsWith('userextras/') || x.startsWith('*/'))"
        parts.append(f"('*' in r.verbs && {extras})")
    return " || ".join(parts)


def _one(groups: frozenset[str], resources: frozenset[str], verbs: frozenset[str]) -> str:
    tests = []
    for field, values in (("apiGroups", groups), ("verbs", verbs)):
        if values:
            tests.append(f"r.{field}.exists(x, x == '*' || x in {listed(sorted(values))})")
    if resources:
        subresources = sorted({f"*/{each.split('/')[1]}" for each in resources if "/" in each})
        covering = listed([*sorted(resources), "*", "*/*", *subresources])
        tests.append(f"r.resources.exists(x, x in {covering})")
    return " && ".join(tests)
