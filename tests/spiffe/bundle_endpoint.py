"""A bundle endpoint on loopback (SPIFFE_Federation.md §5) with the https_web profile."""

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from tests.lab.pki import Authority
from tests.spiffe.pki import TrustDomain


@dataclass(slots=True)
class BundleEndpoint:
    """Serves a trust domain's bundle at `url`; what is set holds from the next request on."""

    domain: TrustDomain
    url: str
    certificate_authority: Path
    sequence: int = 1
    refresh_hint: int | None = 300
    status: int = 200
    redirect: str | None = None
    body: bytes | None = None
    silent: bool = False
    requests: list[str] = field(default_factory=list)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def rotate(self) -> None:
        """A new CA and JWT key in a bundle with the next sequence number."""
        self.domain.rotate()
        self.sequence += 1

    @classmethod
    @asynccontextmanager
    async def serve(cls, folder: Path, domain: TrustDomain) -> AsyncIterator["BundleEndpoint"]:
        """The endpoint, with a CA of its own in `folder`."""
        authority = Authority("bundles")
        folder.mkdir(parents=True, exist_ok=True)
        certificate, private = authority.server().write(folder, "bundles")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private)
        endpoint = cls(domain, "", folder / "bundles-ca.crt")
        endpoint.certificate_authority.write_bytes(authority.pem)
        application = web.Application()
        application.router.add_get("/{anywhere:.*}", endpoint._answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            endpoint.url = f"https://127.0.0.1:{runner.addresses[0][1]}/bundle"
            yield endpoint
        finally:
            endpoint._over.set()
            await runner.cleanup()

    @classmethod
    @contextmanager
    def served(cls, folder: Path, domain: TrustDomain) -> Iterator["BundleEndpoint"]:
        """The same, from a thread of its own, for tests that wait."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        serving = cls.serve(folder, domain)
        try:
            yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(10)
        finally:
            asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def document(self) -> bytes:
        """What it serves."""
        if self.body is not None:
            return self.body
        return json.dumps(self.domain.bundle(sequence=self.sequence, refresh_hint=self.refresh_hint)).encode()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if self.silent:
            await self._over.wait()
        if self.redirect is not None and request.path == "/bundle":
            raise web.HTTPTemporaryRedirect(self.redirect)
        return web.Response(status=self.status, body=self.document(), content_type="application/json")
