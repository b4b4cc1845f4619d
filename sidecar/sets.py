"""What a folder of files says together: a drop-in for a service account's folder, and a kubeconfig."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from sidecar.clocks import Held
from sidecar.kubeconfig import token_file
from sidecar.model import Ask, Credential

TOKEN, CA, NAMESPACE, KUBECONFIG = "token", "ca.crt", "namespace", "kubeconfig"
GRANT = ".grant.json"
"""Beside them, and for nobody else: what a sidecar that starts anew has to know to go on. It may not be allowed to
read what it gave away."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def contents(held: Held, namespace: str, server: str, ask: Ask) -> dict[str, bytes]:
    """The files by their names. Without a CA there is no such file: public roots vouch for the API server."""
    credential = held.credential
    namespace = namespace or credential.namespace
    made = {
        TOKEN: credential.token,
        NAMESPACE: namespace or "default",
        # Beside the kubeconfig, wherever the folder is mounted.
        KUBECONFIG: token_file(credential, namespace=namespace, token_path=TOKEN, ca_path=None),
        GRANT: _grant(held, server, ask),
    }
    if credential.certificate_authority:
        made[CA] = credential.certificate_authority
    return {name: text.encode() for name, text in made.items()}


def read_back(folder: Path, server: str, ask: Ask) -> Held | None:
    """What an earlier run left for the same request in this boot; None if there is nothing to go on with."""
    try:
        told = json.loads((folder / GRANT).read_bytes())
        if told.pop("boot") != _boot() or told.pop("for") != _request(server, ask):
            return None
        wall, elapsed = float(told.pop("wall")), float(told.pop("elapsed"))
        credential = Credential(expires_at=datetime.fromisoformat(told.pop("expires_at")), **told)
        return Held(wall=wall, elapsed=elapsed, credential=credential)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _grant(held: Held, server: str, ask: Ask) -> str:
    told = asdict(held.credential) | {"expires_at": held.credential.expires_at.isoformat()}
    more = {"wall": held.wall, "elapsed": held.elapsed, "boot": _boot(), "for": _request(server, ask)}
    return json.dumps(told | more)


def _request(server: str, ask: Ask) -> str:
    return json.dumps([server, asdict(ask)], sort_keys=True)


def _boot() -> str:
    return _BOOT.read_text().strip()
