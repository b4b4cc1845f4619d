"""The fence: ValidatingAdmissionPolicies that bound what the daemon, and every grant, may do at a cluster.

The daemon holds no right on admission policies, so it cannot move its own fence. A fence around the daemon alone would
not hold: it could make itself a grant that acts outside; so grants are fenced too.
"""

from collections.abc import Iterable
from typing import Any

from exchanged.cluster.authorizer import USER_PREFIX
from exchanged.cluster.manifests import EXPIRES, GRANT_LABEL, INSTANCE_LABEL, RUN_AS
from exchanged.config import Cluster
from exchanged.policy.classes import ALL, TABLE, WILDCARD

DAEMON_ACCOUNT = "exchanged"
NAME = "exchanged"

JsonObject = dict[str, Any]

_TEMPLATES = (
    ("", "pods", "object.spec"),
    ("", "pods/ephemeralcontainers", "object.spec"),
    ("", "replicationcontrollers", "object.spec.template.spec"),
    ("", "podtemplates", "object.template.spec"),
    ("apps", "deployments", "object.spec.template.spec"),
    ("apps", "daemonsets", "object.spec.template.spec"),
    ("apps", "statefulsets", "object.spec.template.spec"),
    ("apps", "replicasets", "object.spec.template.spec"),
    ("batch", "jobs", "object.spec.template.spec"),
    ("batch", "cronjobs", "object.spec.jobTemplate.spec.template.spec"),
)


def fence(cluster: Cluster, audience: str) -> list[JsonObject]:
    """The policies with their bindings, for a cluster."""
    policies = [_grants(cluster), *_workloads(cluster)]
    if cluster.mode == "bindings":
        policies.insert(0, _daemon(cluster, audience))
    return [each for policy in policies for each in (policy, _binding(policy))]


def daemon_user(cluster: Cluster) -> str:
    """The user name that the API server knows the daemon by."""
    return f"system:serviceaccount:{cluster.daemon_namespace}:{DAEMON_ACCOUNT}"


def _daemon(cluster: Cluster, audience: str) -> JsonObject:
    """What the daemon writes: objects of a grant, labelled, in the namespaces that are listed; and nothing else."""
    grants, namespaces = cluster.grants_namespace, list(cluster.namespaces)
    labelled = (
        f"has(variables.it.metadata.labels) && '{GRANT_LABEL}' in variables.it.metadata.labels && "
        f"'{INSTANCE_LABEL}' in variables.it.metadata.labels"
    )
    kind = (
        "request.resource.resource + "
        "(!has(request.subResource) || request.subResource == '' ? '' : '/' + request.subResource)"
    )
    return _policy(
        f"{NAME}-daemon",
        f"request.userInfo.username == '{daemon_user(cluster)}'",
        [_rule(["*"], ["*/*"], ["CREATE", "UPDATE", "DELETE", "CONNECT"])],
        {
            "it": "request.operation == 'DELETE' ? oldObject : object",
            "kind": kind,
            "place": "has(request.namespace) ? request.namespace : ''",
        },
        [
            (
                "variables.kind in ['serviceaccounts', 'serviceaccounts/token', 'rolebindings', 'roles', "
                "'selfsubjectaccessreviews', 'selfsubjectrulesreviews', 'selfsubjectreviews']",
                "the daemon writes service accounts, roles and bindings, and nothing else",
            ),
            ("request.operation != 'UPDATE' && request.operation != 'CONNECT'", "the daemon changes nothing in place"),
            (
                f"!(variables.kind in ['serviceaccounts', 'serviceaccounts/token']) || variables.place == '{grants}'",
                f"service accounts and tokens of {grants} alone",
            ),
            (
                f"!(variables.kind in ['roles', 'rolebindings']) || variables.place in {_list(namespaces)}",
                "roles and bindings in the listed namespaces alone",
            ),
            (
                f"!(variables.kind in ['serviceaccounts', 'roles', 'rolebindings']) || ({labelled})",
                "only objects that carry the labels of a grant",
            ),
            (
                "!(variables.kind in ['serviceaccounts', 'roles', 'rolebindings']) || request.operation != 'CREATE' || "
                f"(has(object.metadata.annotations) && '{EXPIRES}' in object.metadata.annotations && "
                "!has(object.metadata.finalizers) && !has(object.metadata.ownerReferences))",
                "objects say when they expire, and have no finalizers or owners",
            ),
            (
                "variables.kind != 'rolebindings' || request.operation != 'CREATE' || (has(object.subjects) && "
                "object.subjects.size() == 1 && object.subjects.all(s, s.kind == 'ServiceAccount' && "
                f"s.namespace == '{grants}'))",
                f"bindings for one account of {grants}",
            ),
            (
                "variables.kind != 'rolebindings' || request.operation != 'CREATE' || "
                f"(object.roleRef.kind == 'ClusterRole' && object.roleRef.name in {_list(cluster.cluster_roles)}) || "
                "(object.roleRef.kind == 'Role' && object.roleRef.name == object.metadata.name)",
                "bindings to the listed cluster roles, or to the grant's own role",
            ),
            *_role_rules(cluster),
            (
                "variables.kind != 'serviceaccounts/token' || request.operation != 'CREATE' || "
                f"(has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= {_ceiling(cluster)} && "
                f"has(object.spec.audiences) && object.spec.audiences.all(a, a == {_text(audience)}))",
                "tokens for this cluster, no longer than the ceiling",
            ),
        ],
    )


def _role_rules(cluster: Cluster) -> Iterable[tuple[str, str]]:
    """What the daemon's own roles may hold: the run-as right, and with fencedRoles what is not in an unlisted class."""
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
        yield unless + f"!object.rules.exists(r, {_holds(name)})", f"class {name} is not admitted at this cluster"


def _holds(name: str) -> str:
    """CEL: whether rule `r` holds a class, as `exchanged.policy.classes.breeding` says it."""
    if name == WILDCARD:
        return "'*' in r.verbs || '*' in r.apiGroups || r.resources.exists(x, x.startsWith('*'))"
    parts = [f"({_one(*row[1:])})" for row in TABLE if row[0] == name]
    if name == "impersonate":
        parts.append("r.verbs.exists(v, v.startsWith('impersonate'))")
    return " || ".join(parts)


def _one(groups: frozenset[str], resources: frozenset[str], verbs: frozenset[str]) -> str:
    tests = []
    for field, values in (("apiGroups", groups), ("verbs", verbs)):
        if values:
            tests.append(f"r.{field}.exists(x, x == '*' || x in {_list(sorted(values))})")
    if resources:
        subresources = sorted({f"*/{each.split('/')[1]}" for each in resources if "/" in each})
        listed = _list([*sorted(resources), "*", "*/*", *subresources])
        tests.append(f"r.resources.exists(x, x in {listed})")
    return " && ".join(tests)


def _grants(cluster: Cluster) -> JsonObject:
    """What grants write: no RBAC, accounts, tokens or admission, unless their class is admitted in mode authorizer."""
    closed: list[JsonObject] = []
    admits = frozenset(cluster.allow) if cluster.mode == "authorizer" else frozenset()
    if "rbac" not in admits:
        closed.append(_rule(["rbac.authorization.k8s.io"], ["*/*"], ["CREATE", "UPDATE", "DELETE"]))
        closed.append(_rule(["admissionregistration.k8s.io"], ["*/*"], ["CREATE", "UPDATE", "DELETE"]))
        closed.append(_rule([""], ["serviceaccounts"], ["CREATE", "UPDATE", "DELETE"]))
    if "tokens" not in admits:
        closed.append(_rule([""], ["serviceaccounts/token"], ["CREATE"]))
        closed.append(_rule(["certificates.k8s.io"], ["*/*"], ["CREATE", "UPDATE", "DELETE"]))
    # With both admitted there is still the daemon's own.
    own = _list([cluster.grants_namespace, cluster.daemon_namespace])
    closed_to_all = _rule(["*"], ["*/*"], ["CREATE", "UPDATE", "DELETE", "CONNECT"])
    kinds = _list(sorted({f"{group}/{resource}" for rule in closed for group, resource in _pairs(rule)}))
    is_closed = "variables.kind in " + kinds + " || (variables.group + '/*/*') in " + kinds if closed else "false"
    return _policy(
        f"{NAME}-grants",
        _is_grant(cluster),
        [closed_to_all],
        {
            "group": "request.resource.group",
            "kind": "request.resource.group + '/' + request.resource.resource + "
            "(!has(request.subResource) || request.subResource == '' ? '' : '/' + request.subResource)",
        },
        [
            (f"!({is_closed}) || variables.kind.startsWith('authorization.k8s.io/')", "grants do not breed grants"),
            (f"!has(request.namespace) || !(request.namespace in {own})", "this namespace is closed to grants"),
        ],
    )


def _pairs(rule: JsonObject) -> Iterable[tuple[str, str]]:
    return ((group, resource) for group in rule["apiGroups"] for resource in rule["resources"])


def _workloads(cluster: Cluster) -> Iterable[JsonObject]:
    """Pod templates that grants write: as a service account that the grant may name, and without the host."""
    for path in sorted({path for _, _, path in _TEMPLATES}):
        rules = [_rule([group], [kind], ["CREATE", "UPDATE"]) for group, kind, where in _TEMPLATES if where == path]
        suffix = {"object.spec": "pods", "object.template.spec": "podtemplates"}.get(path, "templates")
        if "jobTemplate" in path:
            suffix = "cronjobs"
        yield _policy(
            f"{NAME}-{suffix}",
            _is_grant(cluster),
            rules,
            {
                "spec": path,
                "account": "has(variables.spec.serviceAccountName) && variables.spec.serviceAccountName != '' ? "
                "variables.spec.serviceAccountName : 'default'",
                "containers": "variables.spec.containers + (has(variables.spec.initContainers) ? "
                "variables.spec.initContainers : [])",
            },
            [
                (
                    "authorizer.group('').resource('serviceaccounts').namespace(request.namespace)"
                    f".name(variables.account).check('{RUN_AS}').allowed()",
                    "the policy does not list this service account under workloads.serviceAccounts",
                ),
                (
                    "!(has(variables.spec.hostNetwork) && variables.spec.hostNetwork) && "
                    "!(has(variables.spec.hostPID) && variables.spec.hostPID) && "
                    "!(has(variables.spec.hostIPC) && variables.spec.hostIPC)",
                    "no namespace of the host",
                ),
                (
                    "!has(variables.spec.volumes) || variables.spec.volumes.all(v, !has(v.hostPath))",
                    "no path of the host",
                ),
                (
                    "variables.containers.all(c, !has(c.securityContext) || "
                    "(!(has(c.securityContext.privileged) && c.securityContext.privileged) && "
                    "!(has(c.securityContext.capabilities) && has(c.securityContext.capabilities.add) && "
                    "c.securityContext.capabilities.add.size() > 0)))",
                    "no privileged containers, no added capabilities",
                ),
                (
                    "variables.containers.all(c, !has(c.ports) || c.ports.all(p, !has(p.hostPort) || p.hostPort == 0))",
                    "no port of the host",
                ),
                ("!has(variables.spec.nodeName) || variables.spec.nodeName == ''", "no node of one's choice"),
            ],
        )


def _is_grant(cluster: Cluster) -> str:
    return (
        f"request.userInfo.username.startsWith('{USER_PREFIX}') || "
        f"'system:serviceaccounts:{cluster.grants_namespace}' in request.userInfo.groups"
    )


def _policy(
    name: str, condition: str, rules: list[JsonObject], variables: dict[str, str], validations: list[tuple[str, str]]
) -> JsonObject:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "exchanged"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules},
            "matchConditions": [{"name": "ours", "expression": condition}],
            "variables": [{"name": key, "expression": expression} for key, expression in variables.items()],
            "validations": [
                {"expression": expression, "message": f"exchanged: {message}", "reason": "Forbidden"}
                for expression, message in validations
            ],
        },
    }


def _binding(policy: JsonObject) -> JsonObject:
    name = policy["metadata"]["name"]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "exchanged"}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }


def _rule(groups: list[str], resources: list[str], operations: list[str]) -> JsonObject:
    return {"apiGroups": groups, "apiVersions": ["*"], "operations": operations, "resources": resources}


def _ceiling(cluster: Cluster) -> int:
    return max(600, int(cluster.max_lifetime.total_seconds()))


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join(_text(value) for value in values) + "]"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
