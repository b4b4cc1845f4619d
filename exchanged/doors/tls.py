"""TLS for the doors of one event loop: contexts that take up a renewed certificate without dropping a connection."""

import asyncio
import logging
import ssl
import tempfile
from pathlib import Path

from exchanged.keys.certificates import CertificatePair, ServingCertificate

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the current certificate is compared with the one that is served."""


def server_context(pair: CertificatePair) -> ssl.SSLContext:
    """A server's context of TLS 1.2 and above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, pair)
    return context


def load(context: ssl.SSLContext, pair: CertificatePair) -> None:
    """New connections get this pair; those that are there keep theirs."""
    # The ssl module reads chains and keys from files only: from a folder that nobody else may enter, for a moment.
    with tempfile.TemporaryDirectory(prefix="exchanged-") as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(pair.chain_pem)
        key.write_bytes(pair.key_pem)
        context.load_cert_chain(chain, key)


async def sync_certificate(context: ssl.SSLContext, certificate: ServingCertificate) -> None:
    """Keeps the context at the current certificate until cancelled."""
    served = certificate.current()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        current = certificate.current()
        if current is not served:
            try:
                load(context, current)
            except OSError:
                log.exception("the renewed certificate cannot be served yet; the one before it is")
            else:
                served = current
