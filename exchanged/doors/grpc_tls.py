"""TLS of the gRPC doors: what they serve, for whom a handshake is made, and what a caller showed in it."""

from collections.abc import Callable
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from exchanged.keys.certificates import CertificatePair, ServingCertificate
from exchanged.model import PresentedCertificate

Authorities = tuple[tuple[x509.Certificate, ...], ...]
ClientRoots = Callable[[], Authorities]
"""Who may have issued callers' certificates: all trust domains' authorities, for the handshake alone."""


def credentials(certificate: ServingCertificate, client_roots: ClientRoots | None) -> grpc.ServerCredentials:
    """A door's; with `client_roots` callers must show a certificate."""

    def current() -> tuple[CertificatePair, Authorities | None]:
        return certificate.current(), client_roots() if client_roots is not None else None

    served = current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked at each handshake; None keeps what is served."""
        nonlocal served
        found = current()
        if found == served:
            return None
        served = found
        return _configuration(*found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(*served),
        renewed,  # type: ignore[arg-type] # None is documented, and not in the stubs
        require_client_authentication=client_roots is not None,
    )


def presented(context: grpc.aio.ServicerContext[Any, Any]) -> PresentedCertificate:
    """What the caller opened its connection with. At each call, for a connection outlives much."""
    shown = context.auth_context()
    (leaf,), (chain,) = (shown.get(f"x509_pem_{name}", (b"",)) for name in ("cert", "cert_chain"))
    # The chain is without the leaf where the library's TLS is the usual one, and with it elsewhere.
    return PresentedCertificate(chain_pem=chain if chain.startswith(leaf) else leaf + chain)


def _configuration(pair: CertificatePair, roots: Authorities | None) -> grpc.ServerCertificateConfiguration:
    """What is served, and for whom a handshake is made: where no root is known, for whoever has our own key."""
    if roots is None:
        return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.chain_pem)])
    pool = b"".join(each.public_bytes(Encoding.PEM) for authorities in roots for each in authorities)
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.chain_pem)], pool or pair.chain_pem)
