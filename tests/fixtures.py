"""A running daemon for tests that look at it from outside."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.policies import policy, reading

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class Running:
    """A daemon and the issuer that it trusts."""

    daemon: Daemon
    issuer: FakeIssuer

    def form(self, **changes: str | list[str] | None) -> dict[str, Any]:
        """A good request; None leaves a parameter out."""
        usual: dict[str, Any] = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": self.issuer.github_token(),
            "subject_token_type": JWT,
            "audience": "prod",
            "scope": "deploy-web/rollout",
        }
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def post(self, path: str, form: Any, headers: dict[str, str] | None = None) -> Reply:
        """A form to a path; or a body as it is."""
        body = form if isinstance(form, bytes) else urlencode(form, doseq=True).encode()
        return self.ask("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})})

    def get(self, path: str) -> Reply:
        """A document."""
        return self.ask("GET", path, None, {})

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        """Any request."""
        context = ssl.create_default_context(cafile=self.daemon.ca)
        request = urllib.request.Request(self.daemon.url + path, body, headers, method=method)  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as reply:  # noqa: S310 - ours
                return Reply(reply.status, _lower(reply.headers), _json(reply.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, _lower(error.headers), _json(error.read()))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with a cluster that is only configured, shared by tests that change nothing of it."""
    folder = tmp_path_factory.mktemp("running")
    with FakeIssuer.served(folder / "issuer") as issuer:
        daemon = Daemon.make(
            folder / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            clusters={"prod": {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}},
            policies={"web.yaml": policy("deploy-web"), "pods.yaml": reading()},
            limits={"liveGrantsPerSubject": 10_000, "unverifiedRecordsPerMinute": 5},
        )
        with daemon.running():
            yield Running(daemon, issuer)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode()
