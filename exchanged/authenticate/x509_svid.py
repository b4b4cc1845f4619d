"""X.509-SVIDs: the one place that verifies a certificate chain of a caller's (X509-SVID §5).

1. the leaf has exactly one URI, a SPIFFE ID with a path, and says that it is no authority
2. a path leads to an authority of the leaf's own trust domain: the TLS layer below knows all trust domains in one pool
3. what signs on the way is an authority, and says so
"""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from exchanged.authenticate.bundles import Authorities, Revocations
from exchanged.authenticate.jwk import ALGORITHMS, verification_key
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.svid import claims_of
from exchanged.errors import Reason
from exchanged.model import Claims, PresentedCertificate, TokenDigest
from exchanged.spiffe_id import SCHEME, SpiffeId

MAX_CHAIN = 32 * 1024
"""Bytes of PEM: some ten certificates."""
MAX_DEPTH = 5
"""Authorities between a leaf and its root."""
SHOWN = 300
"""Characters of a detail: what is said of a strange key holds all of it."""
KNOWN_CHAINS = 1_024
"""Chains that need not be read again: a connection has the same one at each call."""

Extension = TypeVar("Extension", bound=x509.ExtensionType)


@dataclass(slots=True, eq=False)
class SvidChain:
    """A chain whose leaf looks like an X.509-SVID; good by `check` alone, and then for one moment."""

    spiffe_id: SpiffeId
    leaf: x509.Certificate
    others: list[x509.Certificate]
    claims: Claims
    digest: TokenDigest
    _verified: tuple[Authorities, Revocations, datetime, datetime] | None = field(default=None, init=False)
    """By whom it was verified last, and from when to when that holds."""

    def check(self, authorities: Authorities, revocations: Revocations, now: datetime) -> None:
        """A path leads to one of these authorities, now (X509-SVID §5.1), and nothing on it is revoked.

        Args:
            authorities: of the leaf's own trust domain.
            revocations: lists of whomever; those count that the issuer of a certificate on the path has signed.
            now: aware UTC.

        Raises:
            TokenRefused: none does.
        """
        match self._verified:
            case (known, lists, begins, ends) if (
                known is authorities and lists is revocations and begins <= now <= ends
            ):
                return
        path = self._path(authorities, now)
        _check_revocations(path, revocations)
        begins, ends = max(each.not_valid_before_utc for each in path), min(each.not_valid_after_utc for each in path)
        self._verified = (authorities, revocations, begins, ends)

    def _path(self, authorities: Authorities, now: datetime) -> list[x509.Certificate]:
        """From the leaf to an authority."""
        begins, ends = self.leaf.not_valid_before_utc, self.leaf.not_valid_after_utc
        if not begins <= now <= ends:
            reason = Reason.CERTIFICATE_INVALID if now < begins else Reason.CERTIFICATE_EXPIRED
            valid = f"{self.spiffe_id} is valid from {begins:%FT%TZ} to {ends:%FT%TZ}"
            raise TokenRefused(reason, valid, verified=self._verified is not None)
        if not authorities:
            raise _invalid(f"trust domain {self.spiffe_id.trust_domain} has no X.509 authority")
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(authorities)))
            .time(now)
            .max_chain_depth(MAX_DEPTH)
            .extension_policies(ca_policy=_AUTHORITY, ee_policy=_LEAF)
            .build_client_verifier()
        )
        try:
            path = verifier.verify(self.leaf, self.others).chain
        except (verification.VerificationError, ValueError) as error:
            said = str(error).split("(encountered")[0].strip()
            said = "none of its authorities has signed it" if said.endswith("no interior errors") else said
            raise _invalid(f"not of trust domain {self.spiffe_id.trust_domain}: {said}") from error
        for position, signing in enumerate(path[1:], 1):
            _check_signing(signing, is_root=position == len(path) - 1)
        return path


def read(presented: PresentedCertificate) -> SvidChain:
    """The chain that a caller opened its connection with; no signature is looked at.

    Raises:
        TokenRefused: its leaf is no X.509-SVID (X509-SVID §5.2).
    """
    return _read(presented.chain_pem)


@lru_cache(maxsize=KNOWN_CHAINS)
def _read(chain_pem: bytes) -> SvidChain:
    if len(chain_pem) > MAX_CHAIN:
        raise _invalid(f"a chain of more than {MAX_CHAIN} bytes")
    try:
        leaf, *others = x509.load_pem_x509_certificates(chain_pem)
        spiffe_id = _spiffe_id(leaf)
        _check_leaf(leaf)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _invalid(f"the certificate cannot be read: {error}") from error
    said = {"dns_names": _names(leaf, x509.DNSName)}
    digest = TokenDigest(leaf.fingerprint(hashes.SHA256()))
    return SvidChain(spiffe_id, leaf, others, claims_of(spiffe_id, "x509", said), digest)


def _spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    """The one URI of a leaf (§2), with a path (§3.1)."""
    uris = _names(leaf, x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _invalid(f"{len(uris)} URIs in the certificate, not one")
    spiffe_id = SpiffeId.parse(uris[0])
    if not spiffe_id.path:
        raise _invalid("a trust domain's own ID is no workload's")
    return spiffe_id


def _check_leaf(leaf: x509.Certificate) -> None:
    """What identifies does not sign (§4.1, §4.3, §5.2)."""
    basic, usage = _extension(leaf, x509.BasicConstraints), _extension(leaf, x509.KeyUsage, critical=True)
    if basic is not None and basic.ca:
        raise _invalid("the leaf is an authority")
    if usage is None or not usage.digital_signature:
        raise _invalid("the leaf is not for digital signatures")
    if usage.key_cert_sign or usage.crl_sign:
        raise _invalid("the leaf's key may sign certificates or revocation lists")
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _invalid("the leaf is not for clients")
    if verification_key(None, leaf.public_key(), ALGORITHMS) is None:
        raise _invalid("the leaf's key is too weak, or of a kind that is not accepted")


def _check_signing(signing: x509.Certificate, *, is_root: bool) -> None:
    """What signs says so (§4.3), and is no workload (§3.2). A root is trusted by name, whatever it leaves out."""
    usage = _extension(signing, x509.KeyUsage)
    if not (is_root if usage is None else usage.key_cert_sign):
        raise _invalid("what signs the certificate may not sign certificates")
    for uri in _names(signing, x509.UniformResourceIdentifier):
        if uri.startswith(SCHEME) and uri.removeprefix(SCHEME).rstrip("/").count("/"):
            raise _invalid("what signs the certificate has a workload's ID")


def _check_revocations(path: list[x509.Certificate], revocations: Revocations) -> None:
    for certificate, issuer in pairwise(path):
        for revoked in revocations:
            if (
                revoked.issuer == issuer.subject
                and revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
                and revoked.is_signature_valid(issuer.public_key())  # type: ignore[arg-type] # of whatever kind
            ):
                raise _invalid(f"certificate {certificate.serial_number:x} is revoked")


def _names(certificate: x509.Certificate, kind: type[x509.DNSName | x509.UniformResourceIdentifier]) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return names.get_values_for_type(kind) if names is not None else []


def _extension(certificate: x509.Certificate, kind: type[Extension], *, critical: bool = False) -> Extension | None:
    try:
        found = certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _invalid(f"an extension cannot be read: {error}") from error
    if critical and not found.critical:
        raise _invalid(f"extension {found.oid.dotted_string} is not critical")
    return found.value


def _invalid(detail: str) -> TokenRefused:
    return TokenRefused(Reason.CERTIFICATE_INVALID, detail[:SHOWN])


_ANY = verification.Criticality.AGNOSTIC
_AUTHORITY = verification.ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, _ANY, None)
_LEAF = verification.ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, _ANY, None)
"""The library's own rules are those of the web, where leaves have DNS names and everything names its issuer's key."""
