"""What an administrator applies at a cluster: the daemon's rights, the fence, and the API server's configuration."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from exchanged.cluster.authorizer import USER_PREFIX
from exchanged.cluster.fence import DAEMON_ACCOUNT, fence
from exchanged.cluster.manifests import RUN_AS
from exchanged.config import Cluster, Configuration, KubernetesIssuer

JsonObject = dict[str, Any]
WEBHOOK_PATH = "/authorize"
WEBHOOK_SECONDS = 3
_RBAC = "rbac.authorization.k8s.io"
_RBAC_V1 = f"{_RBAC}/v1"


def render(configuration: Configuration, name: str, directory: str) -> list[tuple[str, str]]:
    """File names and texts, in the order in which they are applied.

    `directory` is where files will lie on the control plane's hosts. No text holds a key.

    Raises:
        ValueError: the configuration lacks what a file needs.
    """
    cluster = configuration.clusters[name]
    files = [("manifests.yaml", _manifests(configuration, name, cluster))]
    if cluster.mode == "authorizer":
        files += [
            ("authentication.yaml", _authentication(configuration, name, cluster)),
            ("authorizer.kubeconfig", _kubeconfig(configuration, name, directory)),
            ("authorizer-ca.crt", _own_ca(configuration)),
            ("authorization.yaml", _authorization(directory)),
        ]
    return files


def token_audience(cluster: Cluster) -> str:
    """The audience of tokens in mode bindings: the API server's own."""
    return cluster.audience or cluster.server


def audience(configuration: Configuration, name: str) -> str:
    """The audience of tokens in mode authorizer: one for each cluster, so that a token is good at one alone."""
    return configuration.clusters[name].audience or f"{configuration.issuer.rstrip('/')}/clusters/{name}"


def _manifests(configuration: Configuration, name: str, cluster: Cluster) -> str:
    reviewed = any(
        isinstance(issuer, KubernetesIssuer) and issuer.cluster == name for issuer in configuration.issuers.values()
    )
    objects = [_namespace(cluster.daemon_namespace), _service_account(cluster)]
    rules: list[JsonObject] = []
    if reviewed:
        rules.append({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]})
    if cluster.mode == "bindings":
        objects.insert(1, _namespace(cluster.grants_namespace))
        rules.append(
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}
        )
        # Roles are watched because they change; bindings are read by `cluster check`. Neither says a secret.
        rules.append({"apiGroups": [_RBAC], "resources": ["clusterroles"], "verbs": ["get", "list", "watch"]})
        rules.append({"apiGroups": [_RBAC], "resources": ["clusterrolebindings"], "verbs": ["list"]})
    if cluster.credential is not None:
        # To see that the fence stands, and where; never to move it.
        rules.append(
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
                "verbs": ["get"],
            }
        )
    if rules:
        objects += _bound("ClusterRole", "", rules, cluster)
    if cluster.mode == "bindings":
        objects += _bindings_rights(cluster)
    objects += fence(cluster, token_audience(cluster))
    head = (
        f"# Rights of the daemon at cluster {name} (mode {cluster.mode}), and the fence around it and its grants.\n"
        "# kubectl apply --server-side -f manifests.yaml\n"
    )
    return head + yaml.safe_dump_all(objects, sort_keys=False, width=120)


def _bindings_rights(cluster: Cluster) -> list[JsonObject]:
    own = ["create", "delete", "get", "list"]
    in_grants: list[JsonObject] = [
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": own},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]
    objects = _bound("Role", cluster.grants_namespace, in_grants, cluster)
    in_targets: list[JsonObject] = [
        {"apiGroups": [_RBAC], "resources": ["rolebindings", "roles"], "verbs": own},
        # Held so that it may be given: nothing but the fence knows this verb.
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": [RUN_AS]},
    ]
    if cluster.cluster_roles:
        listed = list(cluster.cluster_roles)
        in_targets.append(
            {"apiGroups": [_RBAC], "resources": ["clusterroles"], "resourceNames": listed, "verbs": ["bind"]}
        )
    if cluster.fenced_roles:
        # To make a role with rules that it does not hold itself, and to bind it. The fence says which rules.
        in_targets.append({"apiGroups": [_RBAC], "resources": ["roles"], "verbs": ["escalate", "bind"]})
    for namespace in cluster.namespaces:
        objects += _bound("Role", namespace, in_targets, cluster)
    return objects


def _bound(kind: str, namespace: str, rules: list[JsonObject], cluster: Cluster) -> list[JsonObject]:
    head: JsonObject = {"name": DAEMON_ACCOUNT}
    if namespace:
        head["namespace"] = namespace
    subject = {"kind": "ServiceAccount", "name": DAEMON_ACCOUNT, "namespace": cluster.daemon_namespace}
    return [
        {"apiVersion": _RBAC_V1, "kind": kind, "metadata": head, "rules": rules},
        {
            "apiVersion": _RBAC_V1,
            "kind": f"{kind}Binding",
            "metadata": head,
            "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": DAEMON_ACCOUNT},
            "subjects": [subject],
        },
    ]


def _namespace(name: str) -> JsonObject:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _service_account(cluster: Cluster) -> JsonObject:
    head = {"name": DAEMON_ACCOUNT, "namespace": cluster.daemon_namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head, "automountServiceAccountToken": False}


def _authentication(configuration: Configuration, name: str, cluster: Cluster) -> str:
    """AuthenticationConfiguration: whose tokens are believed, and for how little."""
    issuer: JsonObject = {"url": configuration.issuer, "audiences": [audience(configuration, name)]}
    ca = _issuer_ca(configuration)
    if ca:
        issuer["certificateAuthority"] = ca
    longest = int(cluster.max_lifetime.total_seconds())
    extras = {
        "grant": "claims.grant",
        "owner": "claims.owner",
        "subject": "claims.subject",
        "kind": "claims.kind",
        "actor": "has(claims.actor) ? claims.actor : ''",
    }
    authenticator = {
        "issuer": issuer,
        # A token without iat makes the expression fail, and is refused.
        "claimValidationRules": [
            {"expression": f"claims.exp - claims.iat <= {longest}", "message": "lives longer than a grant may"},
            {"expression": "claims.jti != ''", "message": "has no id"},
        ],
        "claimMappings": {
            "username": {"claim": "sub", "prefix": USER_PREFIX},
            "uid": {"claim": "grant"},
            "extra": [{"key": f"exchanged.dev/{key}", "valueExpression": value} for key, value in extras.items()],
        },
        "userValidationRules": [
            {"expression": f"user.username.startsWith('{USER_PREFIX}')", "message": "is no user of exchanged"},
            {"expression": "user.groups.size() == 0", "message": "has groups"},
        ],
    }
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "jwt": [authenticator],
    }
    head = "# --authentication-config of every API server. Add the `jwt` entry if there is a configuration already.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _authorization(directory: str) -> str:
    """AuthorizationConfiguration: the daemon answers for grants, and for nobody else."""
    webhook = {
        "timeout": f"{WEBHOOK_SECONDS}s",
        "subjectAccessReviewVersion": "v1",
        "matchConditionSubjectAccessReviewVersion": "v1",
        "failurePolicy": "Deny",
        # A cached answer is a time during which a revoked grant still works.
        "cacheAuthorizedRequests": False,
        "cacheUnauthorizedRequests": False,
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": f"{directory}/authorizer.kubeconfig"},
        "matchConditions": [{"expression": f"request.user.startsWith('{USER_PREFIX}')"}],
    }
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "Webhook", "name": "exchanged", "webhook": webhook},
            {"type": "Node", "name": "node"},
            {"type": "RBAC", "name": "rbac"},
        ],
    }
    head = "# --authorization-config of every API server, in the place of --authorization-mode=Node,RBAC.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _kubeconfig(configuration: Configuration, name: str, directory: str) -> str:
    """How the API server reaches the authorizer: by file paths, never with a key in it."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "exchanged",
                "cluster": {
                    "server": _authorizer_url(configuration) + WEBHOOK_PATH,
                    "certificate-authority": f"{directory}/authorizer-ca.crt",
                },
            }
        ],
        "users": [
            {
                "name": "api-server",
                "user": {"client-certificate": f"{directory}/client.crt", "client-key": f"{directory}/client.key"},
            }
        ],
        "contexts": [{"name": "exchanged", "context": {"cluster": "exchanged", "user": "api-server"}}],
        "current-context": "exchanged",
    }
    head = (
        f"# The certificate that tells cluster {name} from others:\n"
        f"#   exchanged cluster client-certificate {name} --directory {directory}\n"
    )
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def _authorizer_url(configuration: Configuration) -> str:
    door = configuration.doors.authorizer
    if door is None:
        raise ValueError("doors.authorizer is not configured")
    if door.url is not None:
        return door.url.rstrip("/")
    port = door.listen.rpartition(":")[2]
    return f"https://{urlsplit(configuration.issuer).hostname}:{port}"


def _issuer_ca(configuration: Configuration) -> str:
    """Who vouches for the issuer's URL, or "" where public roots do."""
    tls = configuration.doors.http.tls
    if tls is None:
        return (configuration.state / "ca" / "ca.crt").read_text(encoding="utf-8")
    return tls.certificate_authority.read_text(encoding="utf-8") if tls.certificate_authority else ""


def _own_ca(configuration: Configuration) -> str:
    """Who vouches for the authorizer's door."""
    tls = configuration.doors.authorizer.tls if configuration.doors.authorizer else None
    path: Path = configuration.state / "ca" / "ca.crt"
    if tls is not None:
        if tls.certificate_authority is None:
            raise ValueError("doors.authorizer.tls.certificateAuthority says who vouches for the door; it is missing")
        path = tls.certificate_authority
    return path.read_text(encoding="utf-8")
