"""Where key sets and bundles come from: a file, a fixed URL, or OpenID Connect discovery that is never led astray."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from exchanged.authenticate.fetched import SourceError

MAX_BYTES = 512 * 1024
"""Of a document. A hundred large keys have a tenth of it."""
TIME_OUT = aiohttp.ClientTimeout(total=10, connect=5)
DISCOVERY = "/.well-known/openid-configuration"


class FileSource:
    """A JWK Set in a file, read again at each refresh."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> Mapping[str, Any]:
        """See `Source.fetch`."""
        try:
            with self._path.open("rb") as file:
                return _json(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from error


class HttpSource:
    """A document over HTTPS: from `url`, or from where the discovery document of `issuer` says.

    Redirects are not followed: for bundles that is what who looks into where they come from may choose (Federation
    §7.5.1).
    """

    def __init__(
        self,
        *,
        certificate_authority: Path | None,
        url: str | None = None,
        issuer: str = "",
        bearer_token_file: Path | None = None,
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._certificate_authority = certificate_authority
        self._bearer_token_file = bearer_token_file

    async def fetch(self) -> Mapping[str, Any]:
        """See `Source.fetch`."""
        # A session each time: fetches are rare, and the CA may have been renewed.
        try:
            trusting = ssl.create_default_context(cafile=self._certificate_authority)
        except OSError as error:
            raise SourceError(f"{self._certificate_authority} cannot be used: {error}") from error
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with aiohttp.ClientSession(connector=connector, timeout=TIME_OUT, trust_env=False) as session:
            return await self._get(session, self._url or await self._discovered(session))

    async def _discovered(self, session: aiohttp.ClientSession) -> str:
        document = await self._get(session, self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise SourceError(f"the discovery document of {self._issuer} is another issuer's")
        url = document.get("jwks_uri")
        # Keys from another host would make that host the issuer; who wants it says so with jwksUrl.
        if not isinstance(url, str) or _origin(url) != _origin(self._issuer):
            raise SourceError(f"the discovery document of {self._issuer} leads to another host; give keys.jwksUrl")
        return url

    async def _get(self, session: aiohttp.ClientSession, url: str) -> Mapping[str, Any]:
        try:
            async with session.get(url, headers=self._headers(), allow_redirects=False) as reply:
                if reply.status != 200:  # noqa: PLR2004 - OK
                    raise SourceError(f"{url} answered {reply.status}")
                raw = bytearray()
                async for chunk in reply.content.iter_chunked(MAX_BYTES):
                    raw += chunk
                    if len(raw) > MAX_BYTES:
                        break
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SourceError(f"{url} did not answer: {type(error).__name__} {error}") from error
        return _json(bytes(raw))

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/jwk-set+json, application/json"}
        if self._bearer_token_file is not None:
            headers["Authorization"] = f"Bearer {self._bearer_token_file.read_text(encoding='utf-8').strip()}"
        return headers


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _json(raw: bytes) -> Mapping[str, Any]:
    if len(raw) > MAX_BYTES:
        raise SourceError(f"larger than {MAX_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SourceError("not JSON") from error
    if not isinstance(value, dict):
        raise SourceError("not a JSON object")
    return value
