"""SVIDs of whoever runs the command, from the Workload API at SPIFFE_ENDPOINT_SOCKET."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exchanged.cli.source import SOCKET_VARIABLE, SourceError

if TYPE_CHECKING:
    from spiffe import SpiffeId, WorkloadApiClient

SECONDS = 10
"""For one answer."""


@dataclass(frozen=True, slots=True)
class X509:
    """An X.509-SVID and the authorities of its trust domain, PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    roots: bytes


def jwt_svid(audience: str, spiffe_id: str) -> str:
    """A JWT-SVID for this audience; of this ID if one is given, else the first.

    Raises:
        SourceError: with what to do about it.
    """
    with _asking(spiffe_id) as (client, parsed):
        subject = parsed(spiffe_id) if spiffe_id else None
        return client.fetch_jwt_svid(audience={audience}, subject=subject, timeout=SECONDS).token


def x509_svid(spiffe_id: str) -> X509:
    """An X.509-SVID; of this ID if one is given, else the first.

    Raises:
        SourceError: with what to do about it.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    with _asking(spiffe_id) as (client, parsed):
        wanted = parsed(spiffe_id) if spiffe_id else None
        context = client.fetch_x509_context(timeout=SECONDS)
        found = [svid for svid in context.x509_svids if wanted in {None, svid.spiffe_id}]
        if not found:
            ids = ", ".join(str(svid.spiffe_id) for svid in context.x509_svids)
            raise SourceError(f"the Workload API has no SVID {spiffe_id} for this process, but {ids}")
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(found[0].spiffe_id.trust_domain)
        return X509(
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in found[0].cert_chain),
            key=found[0].private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            roots=b"".join(each.public_bytes(Encoding.PEM) for each in bundle.x509_authorities) if bundle else b"",
        )


@contextmanager
def _asking(spiffe_id: str) -> "Iterator[tuple[WorkloadApiClient, Callable[[str], SpiffeId]]]":
    """The client; what goes wrong is told with what can be done."""
    if not os.environ.get(SOCKET_VARIABLE):
        raise SourceError(f"{SOCKET_VARIABLE} is not set: where is the Workload API? With SPIRE, its agent's socket")
    from spiffe import SpiffeId, WorkloadApiClient
    from spiffe.errors import PySpiffeError

    try:
        with WorkloadApiClient(default_timeout=SECONDS) as client:
            yield client, SpiffeId
    except PySpiffeError as error:
        entry = f"an entry of {spiffe_id}" if spiffe_id else "a registration entry"
        hint = f"; is there {entry} for this process?" if "PERMISSION_DENIED" in str(error) else ""
        raise SourceError(f"the Workload API at {os.environ[SOCKET_VARIABLE]}: {error}{hint}") from error
