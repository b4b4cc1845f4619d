"""Issuers that sign with real keys, and let one thing be wrong."""

import asyncio
import itertools
import secrets
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.lab.pki import Authority

AUDIENCE = "https://exchanged.example"
Kind = Literal["RSA", "EC"]
_JOBS = itertools.count(time.time_ns() // 1_000)
"""Ids of jobs; a provider's grow."""
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def key(kind: Kind, number: int = 0) -> PrivateKey:
    """A key of this kind; the same number is the same key, for they are slow to make."""
    with _MAKING:
        return _key(kind, number)


_MAKING = threading.Lock()
"""Issuers that are served have threads of their own; one number is one key for all of them."""


@cache
def _key(kind: Kind, number: int) -> PrivateKey:
    del number
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(slots=True)
class FakeIssuer:
    """An issuer. `serve` puts it on loopback; without that its key set can be had all the same."""

    url: str
    kind: Kind = "RSA"
    number: int = 0
    audience: str = AUDIENCE
    requests: list[str] = field(default_factory=list)
    broken: bool = False
    certificate_authority: Path | None = None
    request_token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def kid(self) -> str:
        """The id of the current key."""
        return f"{self.kind}-{self.number}"

    @property
    def algorithm(self) -> str:
        """What it signs with."""
        return "RS256" if self.kind == "RSA" else "ES256"

    def rotate(self) -> None:
        """From now on another key."""
        self.number += 1

    def jwks(self) -> dict[str, Any]:
        """The JWK Set."""
        private = key(self.kind, self.number)
        if isinstance(private, rsa.RSAPrivateKey):
            jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        else:
            jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        return {"keys": [{**jwk, "kid": self.kid, "use": "sig", "alg": self.algorithm}]}

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, with_key: Any = None) -> str:
        """A token with these claims, signed by the current key unless another is given."""
        headers = {"kid": self.kid, **(header or {})}
        return jwt.encode(claims, with_key or key(self.kind, self.number), algorithm=self.algorithm, headers=headers)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What every token says; None leaves a claim out."""
        now = int(time.time())
        usual = {
            "iss": self.url,
            "aud": self.audience,
            "sub": "somebody",
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(16),
        }
        return {name: value for name, value in (usual | changes).items() if value is not None}

    def token(self, **changes: Any) -> str:
        """A plain token."""
        return self.sign(self.claims(**changes))

    def github_token(self, **changes: Any) -> str:
        """A token as GitHub Actions gives one to a job."""
        return self.sign(self.claims(**(github_claims() | changes)))

    def gitlab_token(self, **changes: Any) -> str:
        """A token as GitLab gives one to a job."""
        return self.sign(self.claims(**(gitlab_claims() | changes)))

    def kubernetes_token(self, **changes: Any) -> str:
        """A projected service account token of a pod."""
        return self.sign(self.claims(**(kubernetes_claims() | {"aud": [self.audience]} | changes)))

    @classmethod
    @asynccontextmanager
    async def serve(cls, folder: Path, **settings: Any) -> AsyncIterator["FakeIssuer"]:
        """The issuer on loopback, over HTTPS, with a CA of its own in `folder`."""
        authority = Authority("issuer")
        folder.mkdir(parents=True, exist_ok=True)
        certificate, private = authority.server().write(folder, "issuer")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private)
        issuer = cls(url="", **settings)
        issuer.certificate_authority = folder / "issuer-ca.crt"
        issuer.certificate_authority.write_bytes(authority.pem)
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", issuer._discovery)
        application.router.add_get("/keys", issuer._keys)
        application.router.add_get("/token", issuer._actions_token)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            port = runner.addresses[0][1]
            issuer.url = f"https://127.0.0.1:{port}"
            yield issuer
        finally:
            await runner.cleanup()

    @classmethod
    @contextmanager
    def served(cls, folder: Path, **settings: Any) -> Iterator["FakeIssuer"]:
        """The same, from a thread of its own, for tests that wait."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        serving = cls.serve(folder, **settings)
        try:
            yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(10)
        finally:
            asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def settings(self, **more: Any) -> dict[str, Any]:
        """How a daemon's configuration names it."""
        keys = {"certificateAuthority": str(self.certificate_authority)}
        return {"type": "oidc", "issuer": self.url, "audience": self.audience, "keys": keys, **more}

    async def _discovery(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.json_response(self.jwks())

    async def _actions_token(self, request: web.Request) -> web.Response:
        """As ACTIONS_ID_TOKEN_REQUEST_URL answers a job."""
        self._note(request)
        if request.headers.get("Authorization") != f"Bearer {self.request_token}":
            raise web.HTTPUnauthorized
        return web.json_response({"value": self.github_token(aud=request.query.get("audience", self.audience))})

    def _note(self, request: web.Request) -> None:
        self.requests.append(request.path)
        if self.broken:
            raise web.HTTPServiceUnavailable


def github_claims() -> dict[str, Any]:
    """What GitHub says of a job that deploys."""
    return {
        "sub": "repo:acme/web:environment:production",
        "repository": "acme/web",
        "repository_id": "4711",
        "repository_owner": "acme",
        "repository_owner_id": "42",
        "repository_visibility": "private",
        "environment": "production",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_protected": "true",
        "sha": "a" * 40,
        "event_name": "push",
        "workflow": "deploy",
        "workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "a" * 40,
        "job_workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_sha": "a" * 40,
        "run_id": "1001",
        "run_number": "7",
        "run_attempt": "1",
        "check_run_id": str(next(_JOBS)),
        "runner_environment": "github-hosted",
        "actor": "octocat",
        "actor_id": "583231",
        "head_ref": "",
        "base_ref": "",
    }


def gitlab_claims() -> dict[str, Any]:
    """What GitLab says of a job."""
    return {
        "sub": "project_path:acme/web:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "acme",
        "project_id": "20",
        "project_path": "acme/web",
        "user_id": "1",
        "user_login": "sample-user",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": str(next(_JOBS)),
        "ref": "main",
        "ref_type": "branch",
        "ref_protected": "true",
        "runner_environment": "self-hosted",
        "sha": "a" * 40,
    }


def kubernetes_claims() -> dict[str, Any]:
    """What a cluster says of a pod's service account."""
    return {
        "sub": "system:serviceaccount:web:deployer",
        "kubernetes.io": {
            "namespace": "web",
            "serviceaccount": {"name": "deployer", "uid": "0b1f7ab9-29d5-4c5d-8ee4-0b5d1b9f7a11"},
            "pod": {"name": "deployer-0", "uid": "5c1c9a3c-9c8e-4f55-8a53-3b8a5f6d3a10"},
            "node": {"name": "n1", "uid": "7d5f8a77-6c29-4d83-9f0b-1f7f1a2b3c4d"},
        },
    }
