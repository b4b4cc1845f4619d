"""The daemon's own certificate at a cluster: shown, renewed without dropping a connection, and missing."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from exchanged.cluster import api as module
from exchanged.cluster.api import KubernetesApi
from exchanged.config import Credential
from exchanged.errors import ClusterUnavailable
from exchanged.keys.certificates import CertificatePair, pair_of
from tests.grants import PROD
from tests.lab.pki import Authority
from tests.spiffe.pki import Svid, TrustDomain


class Own:
    """A `ServingCertificate` that a test changes."""

    def __init__(self, svid: Svid | None) -> None:
        self.take(svid)

    def take(self, svid: Svid | None) -> None:
        """From now on this one."""
        self._pair = pair_of(svid.chain_pem, svid.key_pem, b"") if svid is not None else None

    def current(self) -> CertificatePair:
        """See `ServingCertificate.current`."""
        if self._pair is None:
            raise ValueError("no SVID yet")
        return self._pair

    async def available(self) -> None:
        """See `ServingCertificate.available`."""

    async def run(self) -> None:
        """See `ServingCertificate.run`."""


@asynccontextmanager
async def _server(folder: Path, domain: TrustDomain) -> AsyncIterator[tuple[str, Path, list[tuple[int, int]]]]:
    """An API server by certificates alone; its URL, its CA, and of each request the connection and who was shown."""
    authority, seen = Authority("cluster"), list[tuple[int, int]]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server().write(folder, "server"))
    context.load_verify_locations(cadata=domain.x509_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        shown = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        seen.append((id(request.transport), x509.load_der_x509_certificate(shown).serial_number))
        if request.query.get("close"):
            return web.json_response({}, headers={"Connection": "close"})
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/version", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        ca = folder / "cluster-ca.crt"
        ca.write_bytes(authority.pem)
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", ca, seen
    finally:
        await runner.cleanup()


def _api(url: str, ca: Path, own: Own) -> KubernetesApi:
    return KubernetesApi(
        name=PROD,
        server=url,
        certificate_authority=ca,
        credential=Credential(svid=True),
        certificate=own,
        time_out=5,
        observe=lambda _: None,
    )


async def test_a_renewed_certificate_is_for_new_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that is there stays, with what it was opened with; the next one shows the new certificate."""
    monkeypatch.setattr(module, "CREDENTIAL_SECONDS", 0.0)
    domain = TrustDomain("prod.example")
    first, second = domain.svid("/exchanged"), domain.svid("/exchanged")
    own = Own(first)
    async with _server(tmp_path, domain) as (url, ca, seen):
        api = _api(url, ca, own)
        await api.call("GET", "/version")
        own.take(second)
        await api.call("GET", "/version", query={"close": "1"})
        await api.call("GET", "/version")
        await api.close()
    assert [serial for _, serial in seen] == [each.certificates[0].serial_number for each in (first, first, second)]
    assert seen[0][0] == seen[1][0]


async def test_without_an_svid_the_cluster_is_out_of_reach(tmp_path: Path) -> None:
    """Until the Workload API has given one, and no longer."""
    domain = TrustDomain("prod.example")
    own = Own(None)
    async with _server(tmp_path, domain) as (url, ca, _):
        api = _api(url, ca, own)
        with pytest.raises(ClusterUnavailable, match="no SVID yet"):
            await api.call("GET", "/version")
        own.take(domain.svid("/exchanged"))
        assert await api.call("GET", "/version") == {}
        await api.close()
