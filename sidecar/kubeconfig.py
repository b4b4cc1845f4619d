"""A kubeconfig for programs beside a sidecar: its user is a token file, so it holds no secret and never changes."""

import json
from typing import Any

from sidecar.model import Credential


def token_file(credential: Credential, *, namespace: str, token_path: str, ca_path: str | None) -> str:
    """A kubeconfig (JSON, which is YAML) for the cluster of a credential; client-go reads the token anew each minute.

    Args:
        credential: whose cluster it is about.
        namespace: of its context; "" for none.
        token_path: where the token is, absolute or beside the kubeconfig.
        ca_path: where the API server's CA is; None puts the credential's own into the text, if it has one.
    """
    cluster: dict[str, str] = {"server": credential.server}
    if ca_path is not None:
        cluster["certificate-authority"] = ca_path
    elif credential.certificate_authority:
        cluster["certificate-authority-data"] = encoded(credential.certificate_authority)
    name = credential.cluster
    context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"tokenFile": token_path}}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    return json.dumps(config, indent=2) + "\n"


def encoded(pem: str) -> str:
    """PEM as a kubeconfig has it."""
    from base64 import b64encode  # noqa: PLC0415 - most have a file

    return b64encode(pem.encode()).decode()
