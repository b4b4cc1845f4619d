"""The pieces of an admission policy: ValidatingAdmissionPolicy, its binding, and values as CEL has them.

What the API server would fill in is written out: `exchanged cluster check` compares the whole, and applying it again
takes back what was moved.
"""

from collections.abc import Iterable
from typing import Any, Final

JsonObject = dict[str, Any]

KIND: Final = (
    "request.resource.resource + (!has(request.subResource) || request.subResource == '' ? '' : "
    "'/' + request.subResource)"
)
"""CEL: what a request is about, as RBAC writes it: pods, pods/exec."""
_EVERY_OBJECT: Final[JsonObject] = {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}}


def policy(
    name: str, condition: str, rules: list[JsonObject], variables: dict[str, str], validations: list[tuple[str, str]]
) -> JsonObject:
    """A policy for requests that fulfil `condition`: each validation is an expression, and what is said where it fails.

    An expression that cannot be evaluated denies.
    """
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "exchanged"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {**_EVERY_OBJECT, "resourceRules": rules},
            "matchConditions": [{"name": "ours", "expression": condition}],
            "variables": [{"name": key, "expression": expression} for key, expression in variables.items()],
            "validations": [
                {"expression": expression, "message": f"exchanged: {message}", "reason": "Forbidden"}
                for expression, message in validations
            ],
        },
    }


def binding(bound: JsonObject) -> JsonObject:
    """What puts a policy in force, everywhere."""
    name = bound["metadata"]["name"]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "exchanged"}},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": dict(_EVERY_OBJECT)},
    }


def rule(groups: list[str], resources: list[str], operations: list[str]) -> JsonObject:
    """Requests that a policy looks at."""
    return {
        "apiGroups": groups,
        "apiVersions": ["*"],
        "operations": operations,
        "resources": resources,
        "scope": "*",
    }


def listed(values: Iterable[str]) -> str:
    """A list of strings in CEL."""
    return "[" + ", ".join(quoted(value) for value in values) + "]"


def quoted(value: str) -> str:
    """A string in CEL."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
