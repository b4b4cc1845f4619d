"""What an administrator applies at a cluster: the daemon's rights, the fence, and the API server's configuration."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from exchanged.cluster.authorizer import USER_PREFIX
from exchanged.cluster.fence import DAEMON_ACCOUNT, fence
from exchanged.cluster.rights import reviews_tokens, rights
from exchanged.cluster.state import instance as instance_of
from exchanged.config import Cluster, Configuration

JsonObject = dict[str, Any]
WEBHOOK_PATH = "/authorize"
WEBHOOK_SECONDS = 3


def render(configuration: Configuration, name: str, directory: str) -> list[tuple[str, str]]:
    """File names and texts, in the order in which they are applied.

    `directory` is where files will lie on the control plane's hosts. No text holds a key.

    Raises:
        ValueError: the configuration, or the state folder, lacks what a file needs.
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
    """The fence comes before any right that it bounds."""
    namespaces = [cluster.daemon_namespace]
    instance = ""
    if cluster.mode == "bindings":
        namespaces.append(cluster.grants_namespace)
        instance = instance_of(configuration.state)
    objects = [_namespace(namespace) for namespace in namespaces]
    objects += fence(cluster, token_audience(cluster), instance)
    if cluster.daemon_user is None:
        objects.append(_service_account(cluster))
    objects += rights(cluster, reviewing_tokens=reviews_tokens(configuration, name))
    head = (
        f"# The fence around the daemon and its grants at cluster {name} (mode {cluster.mode}), and its rights.\n"
        "# kubectl apply --server-side --force-conflicts -f manifests.yaml\n"
    )
    return head + yaml.safe_dump_all(objects, sort_keys=False, width=120)


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
