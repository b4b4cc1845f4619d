"""The command line as its users run it, within the test's own process."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from exchanged.cli.main import app

VARIABLES = (
    "EXCHANGED_AUDIENCE",
    "EXCHANGED_CA",
    "EXCHANGED_CONFIG",
    "EXCHANGED_ID_TOKEN",
    "EXCHANGED_SERVER",
    "EXCHANGED_SOCKET",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
)
"""Unset, unless a test sets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    wrong: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def run(*arguments: str | Path, stdin: str = "", environment: Mapping[str, str | Path] | None = None) -> Done:
    """Runs `exchanged` with these arguments. What it does not answer with a sentence comes out as an exception."""
    unset: dict[str, str | None] = dict.fromkeys(VARIABLES)
    given = {name: str(value) for name, value in (environment or {}).items()}
    result = CliRunner().invoke(
        app, [str(each) for each in arguments], input=stdin, env=unset | given, catch_exceptions=False
    )
    return Done(code=result.exit_code, out=result.stdout, wrong=result.stderr)


def configuration(folder: Path, **changes: Any) -> Path:
    """A configuration of one CI system and a cluster of each mode, in a file that names no other; None leaves out."""
    usual: dict[str, Any] = {
        "apiVersion": "exchanged.dev/v1alpha1",
        "kind": "Configuration",
        "issuer": "https://exchanged.example",
        "state": "state",
        "policies": "policies",
        "doors": {"authorizer": {"url": "https://10.0.0.5:8445"}},
        "issuers": {
            "github": {
                "type": "oidc",
                "profile": "github",
                "issuer": "https://token.actions.githubusercontent.com",
            },
            "pods": {"type": "kubernetes", "verification": "offline"},
        },
        "clusters": {
            "prod": {"mode": "authorizer", "server": "https://prod.example:6443", "allow": ["workloads"]},
            "managed": {
                "mode": "bindings",
                "server": "https://managed.example",
                "credential": {"tokenFile": "token"},
                "namespaces": ["web"],
                "clusterRoles": ["web-rollout"],
            },
        },
    }
    made = {name: value for name, value in (usual | changes).items() if value is not None}
    folder.mkdir(exist_ok=True)
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "token").write_text("a token")
    file = folder / "exchanged.yaml"
    file.write_text(json.dumps(made, indent=1))
    return file
