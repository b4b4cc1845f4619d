"""SVIDs from the Workload API at SPIFFE_ENDPOINT_SOCKET; blocking, for a thread."""

import os

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import SpiffeId, WorkloadApiClient
from spiffe.errors import PySpiffeError

from sidecar.model import Subject
from sidecar.sources import SOCKET_VARIABLE, SourceFailed

SECONDS = 10.0
"""For one answer."""


def subject(audience: str, spiffe_id: str, *, certificate: bool, seconds: float = SECONDS) -> Subject:
    """A JWT-SVID if there is an audience, an X.509-SVID if a certificate is wanted; of this ID, or the first.

    An answer takes so many seconds at most, and never more than SECONDS.

    Raises:
        SourceFailed: with what to do about it.
    """
    if not os.environ.get(SOCKET_VARIABLE):
        raise SourceFailed(f"{SOCKET_VARIABLE} is not set: where is the Workload API? With SPIRE, its agent's socket")
    try:
        within = min(seconds, SECONDS)
        with WorkloadApiClient(default_timeout=within) as client:
            wanted = SpiffeId(spiffe_id) if spiffe_id else None
            token = client.fetch_jwt_svid(audience={audience}, subject=wanted, timeout=within).token if audience else ""
            return _with_certificate(client, token, wanted, within) if certificate else Subject(token=token)
    except PySpiffeError as error:
        entry = f"an entry of {spiffe_id}" if spiffe_id else "a registration entry"
        hint = f"; is there {entry} for this process?" if "PERMISSION_DENIED" in str(error) else ""
        raise SourceFailed(f"the Workload API at {os.environ[SOCKET_VARIABLE]}: {error}{hint}") from error


def _with_certificate(client: WorkloadApiClient, token: str, wanted: SpiffeId | None, within: float) -> Subject:
    context = client.fetch_x509_context(timeout=within)
    found = [svid for svid in context.x509_svids if wanted in {None, svid.spiffe_id}]
    if not found:
        ids = ", ".join(str(svid.spiffe_id) for svid in context.x509_svids)
        raise SourceFailed(f"the Workload API has no SVID {wanted} for this process, but {ids}")
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(found[0].spiffe_id.trust_domain)
    return Subject(
        token=token,
        certificate=b"".join(each.public_bytes(Encoding.PEM) for each in found[0].cert_chain),
        key=found[0].private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        roots=b"".join(each.public_bytes(Encoding.PEM) for each in bundle.x509_authorities) if bundle else b"",
    )
