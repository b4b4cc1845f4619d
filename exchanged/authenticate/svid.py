"""What both kinds of SVID say of a workload, as policies see it."""

from typing import Any

from exchanged.model import Claims
from exchanged.spiffe_id import SpiffeId


def claims_of(spiffe_id: SpiffeId, kind: str, said: Claims) -> dict[str, Any]:
    """The claims of an SVID: what it says besides, and over that its ID, whole and in parts.

    Args:
        spiffe_id: of the workload.
        kind: `jwt` or `x509`.
        said: what else the SVID says; where it uses one of our names, ours holds.
    """
    return {
        **said,
        "sub": str(spiffe_id),
        "trust_domain": spiffe_id.trust_domain,
        "path": spiffe_id.path,
        "segments": list(spiffe_id.segments),
        "svid": kind,
    }
