"""Whether an API server trusts our tokens and asks our authorizer, in mode `authorizer`: tried from outside.

The token that is shown is signed by the daemon's own key and of no grant on record, so it opens nothing anywhere. An
API server that is set up as printed takes it, asks the daemon, and repeats the daemon's own words of refusal.
"""

import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp

from exchanged.cluster.finding import Finding
from exchanged.cluster.review import NO_SUCH_GRANT
from exchanged.cluster.setup import audience
from exchanged.cluster.state import signing_keys
from exchanged.config import Configuration
from exchanged.errors import ClusterUnavailable, Reason

LIFETIME: Final = timedelta(minutes=1)
PATH: Final = "/api/v1/namespaces"
"""Nobody may read this without being told so: were it open to everybody, another authorizer could answer for ours."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read; a refusal is one sentence."""
_UNAUTHENTICATED: Final = 401
_FORBIDDEN: Final = 403


async def is_asked(configuration: Configuration, name: str, clock: Callable[[], datetime]) -> AsyncIterator[Finding]:
    """The API server takes our tokens, and it is our authorizer that answers.

    Raises:
        ClusterUnavailable: the API server does not answer.
        OSError, ValueError: the state folder has no signing keys.
    """
    status, message = await _shown(configuration, name, _token(configuration, name, clock))
    if status == _FORBIDDEN and NO_SUCH_GRANT in message:
        return
    files = f"of `exchanged cluster setup {name}`"
    if status == _UNAUTHENTICATED:
        remedy = f"give it authentication.yaml {files}, and see that it reaches {configuration.issuer} for the keys"
        yield Finding(level="wrong", what="the API server does not take our tokens", remedy=remedy)
    else:
        what = f"the API server takes our tokens, and does not ask us what they may do, or cannot: {status} {message}"
        remedy = f"give it authorization.yaml {files}, and see that this daemon runs and {name} reaches its door"
        yield Finding(level="wrong", what=what, remedy=remedy)


def _token(configuration: Configuration, name: str, clock: Callable[[], datetime]) -> str:
    now, nobody = clock(), "0" * 20
    return signing_keys(configuration, clock).sign(
        {
            "iss": configuration.issuer,
            "aud": audience(configuration, name),
            "sub": f"cluster-check:{nobody}",
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + LIFETIME).timestamp()),
            "jti": secrets.token_hex(16),
            "grant": nobody,
            "owner": "exchanged",
            "subject": "exchanged/cluster-check",
            "kind": "workload",
        }
    )


async def _shown(configuration: Configuration, name: str, token: str) -> tuple[int, str]:
    """Status and message of the API server's answer, as one of its clients gets them."""
    settings = configuration.clusters[name]
    trusted = ssl.create_default_context(cafile=settings.certificate_authority)
    limit = aiohttp.ClientTimeout(total=settings.time_out.total_seconds())
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(
                settings.server.rstrip("/") + PATH, ssl=trusted, headers={"Authorization": f"Bearer {token}"}
            ) as response,
        ):
            return response.status, _message(await response.content.read(MAX_ANSWER))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, f"{name}: {type(error).__name__} {error}") from error


def _message(raw: bytes) -> str:
    try:
        answer: Any = json.loads(raw)
    except ValueError:
        return ""
    return str(answer.get("message", ""))[:200] if isinstance(answer, dict) else ""
