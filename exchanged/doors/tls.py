"""TLS for the doors of one event loop: contexts that take up a renewed certificate without dropping a connection."""

import asyncio
import logging
import ssl

from exchanged.keys.certificates import CertificatePair, ServingCertificate, load_pair

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the current certificate is compared with the one that is served."""


def server_context(pair: CertificatePair) -> ssl.SSLContext:
    """A server's context of TLS 1.2 and above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_pair(context, pair)
    return context


async def sync_certificate(context: ssl.SSLContext, certificate: ServingCertificate) -> None:
    """Keeps the context at the current certificate until cancelled."""
    served = certificate.current()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        current = certificate.current()
        if current is not served:
            try:
                load_pair(context, current)
            except OSError:
                log.exception("the renewed certificate cannot be served yet; the one before it is")
            else:
                served = current
