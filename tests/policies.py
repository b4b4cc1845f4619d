"""Policies for tests and the demo, as files, and a workload to hold against them."""

import json
from typing import Any

from exchanged.authenticate.svid import claims_of
from exchanged.model import Identity, IssuerName
from exchanged.spiffe_id import SpiffeId
from tests.grants import identity


def policy(policy_name: str, /, *, subjects: list[dict[str, Any]] | None = None, **scope: Any) -> str:
    """A policy for the job of repository 4711, with one scope; give what is to be different."""
    usual = {
        "name": "rollout",
        "clusters": ["prod"],
        "namespaces": ["web"],
        "rules": [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments"],
                "resourceNames": ["web"],
                "verbs": ["get", "patch"],
            }
        ],
        "acknowledge": ["workloads"],
        "workloads": {"serviceAccounts": ["web"]},
        "lifetime": {"default": "5m", "max": "15m"},
    }
    made = {key: value for key, value in (usual | scope).items() if value is not None}
    document = {
        "apiVersion": "exchanged.dev/v1alpha1",
        "kind": "Policy",
        "metadata": {"name": policy_name},
        "spec": {
            "owner": "team-web@example.com",
            "function": "deploy",
            "subjects": subjects or [{"issuer": "github", "claims": {"repository_id": "4711"}}],
            "scopes": [made],
        },
    }
    return json.dumps(document, indent=1)


def reading(policy_name: str = "read-pods", /, **scope: Any) -> str:
    """A policy that lets the same job read pods."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    return policy(policy_name, **({"name": "pods", "rules": rules, "acknowledge": None, "workloads": None} | scope))


def workload(path: str = "/ns/web/sa/deployer", /, kind: str = "jwt", **changes: Any) -> Identity:
    """A workload of trust domain prod.example, by an SVID of its own."""
    spiffe_id = SpiffeId.parse(f"spiffe://prod.example{path}")
    claims = claims_of(spiffe_id, kind, {})
    usual = {"issuer": IssuerName("workloads"), "subject": str(spiffe_id), "claims": claims, "single_use": None}
    return identity(**(usual | changes))


def demo() -> str:
    """The policy of the README and the demo, as a person would write it."""
    return """\
apiVersion: exchanged.dev/v1alpha1
kind: Policy
metadata: {name: deploy-web}
spec:
  owner: team-web@example.com
  function: deploy
  subjects:
  - issuer: github
    claims: {repository_id: "4711", environment: production}
    when: claims.ref == "refs/heads/main" && claims.event_name in ["push", "workflow_dispatch"]
  scopes:
  - name: rollout
    clusters: [prod]
    namespaces: [web]
    rules:
    - {apiGroups: [apps], resources: [deployments], resourceNames: [web], verbs: [get, watch, patch]}
    acknowledge: [workloads]
    workloads: {serviceAccounts: [web]}
    lifetime: {default: 5m, max: 15m}
"""


def for_repository(number: int) -> str:
    """One of many policies: all of one issuer and one owner, each for a repository of its own."""
    return f"""\
apiVersion: exchanged.dev/v1alpha1
kind: Policy
metadata: {{name: repository-{number}}}
spec:
  owner: team-{number}@example.com
  function: deploy
  subjects:
  - issuer: github
    claims: {{repository_owner_id: "42", repository_id: "{number}"}}
    when: claims.ref == "refs/heads/main"
  scopes:
  - name: rollout
    clusters: [prod]
    namespaces: [web]
    rules:
    - {{apiGroups: [apps], resources: [deployments], resourceNames: [web], verbs: [get, patch]}}
    acknowledge: [workloads]
    workloads: {{serviceAccounts: [web]}}
    lifetime: {{default: 5m, max: 15m}}
"""
