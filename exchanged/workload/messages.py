"""Messages of the Workload API as the daemon's own values.

What is mandatory for the daemon itself has to be right, or the whole message is left aside. A foreign trust domain's
bundle that makes no sense is that domain's own trouble: nobody can take the others down with it.
"""

import base64
import json
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509 as certificates
from cryptography.hazmat.primitives.serialization import Encoding

from exchanged.authenticate.bundles import JWT_SVID, Authorities, certificate_of
from exchanged.authenticate.jwk import ALGORITHMS, VerificationKey, public_keys
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.x509_svid import read
from exchanged.model import PresentedCertificate
from exchanged.spiffe_id import SpiffeId
from exchanged.workload import api_pb2 as pb

log = logging.getLogger(__name__)

_SEQUENCE, _SHORT, _LONGEST = 0x30, 0x80, 4
"""Of DER (X.690 §8.1): the tag of a certificate, where lengths of several bytes begin, and how many there may be."""

JwtUpdate = Mapping[str, tuple[VerificationKey, ...] | None]
"""JWT keys by trust domain; None where they make no sense."""
Keys = TypeVar("Keys")


@dataclass(frozen=True, slots=True, eq=False)
class Svid:
    """An X.509-SVID of the daemon's own: PEM, with the authorities of its trust domain."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    authorities_pem: bytes


@dataclass(frozen=True, slots=True, eq=False)
class X509Update:
    """The daemon's own SVIDs, authorities by trust domain (None where they make no sense), and what is revoked."""

    svids: tuple[Svid, ...]
    bundles: Mapping[str, Authorities | None]
    revocations: tuple[certificates.CertificateRevocationList, ...]


def x509(message: pb.X509Response) -> X509Update:
    """What FetchX509SVID says (SPIFFE_Workload_API §5.2.1).

    Raises:
        ValueError: something mandatory is missing or makes no sense.
    """
    if not message.svids:
        raise ValueError("no X.509-SVID")
    bundles = _each(message.federated_bundles, _authorities)
    svids = []
    for svid in message.svids:
        spiffe_id, authorities = SpiffeId.parse(svid.spiffe_id), _authorities(svid.bundle)
        if not authorities:
            raise ValueError(f"no bundle beside {spiffe_id}")
        bundles[spiffe_id.trust_domain] = authorities
        svids.append(_svid(svid, spiffe_id, authorities))
    return X509Update(tuple(svids), bundles, tuple(_revocations(each) for each in message.crl))


def jwt(message: pb.JwtBundlesResponse) -> JwtUpdate:
    """What FetchJWTBundles says (§6.2.2).

    Raises:
        ValueError: no trust domain at all.
    """
    if not message.bundles:
        raise ValueError("no JWT bundle")
    return _each(message.bundles, _jwt_keys)


def _each(bundles: Mapping[str, bytes], keys_in: Callable[[bytes], Keys]) -> dict[str, Keys | None]:
    found: dict[str, Keys | None] = {}
    for name, bundle in bundles.items():
        try:
            trust_domain = _trust_domain(name)
        except ValueError:
            log.warning("a bundle of no trust domain was left aside", extra={"name_of_bundle": name[:200]})
            continue
        try:
            found[trust_domain] = keys_in(bundle)
        except (ValueError, RecursionError) as error:
            detail = {"trust_domain": trust_domain, "detail": str(error)}
            log.warning("the bundle of a trust domain makes no sense; nobody of it comes in", extra=detail)
            found[trust_domain] = None
    return found


def _trust_domain(name: str) -> str:
    spiffe_id = SpiffeId.parse(name)
    if spiffe_id.path:
        # A workload has no bundle; its trust domain may have one under its own name.
        raise ValueError("the ID of a workload")
    return spiffe_id.trust_domain


def _svid(svid: pb.X509Svid, spiffe_id: SpiffeId, authorities: Authorities) -> Svid:
    """One that is what it says, by its own form; who vouches for it is for those to judge who are shown it."""
    chain = _pem(_certificates(svid.x509_svid))
    try:
        named = read(PresentedCertificate(chain_pem=chain)).spiffe_id
    except TokenRefused as refused:
        raise ValueError(refused.detail) from refused
    if named != spiffe_id:
        raise ValueError(f"the SVID of {spiffe_id} is that of {named}")
    return Svid(str(spiffe_id), chain, _key_pem(svid.x509_svid_key), _pem(authorities))


def _pem(chain: Iterable[certificates.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def _key_pem(der: bytes) -> bytes:
    """PKCS#8; whether it is the certificate's key is found out before it is served."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""]).encode()


def _revocations(der: bytes) -> certificates.CertificateRevocationList:
    """One list, whose issuer is read here: who it is would otherwise be found out at a caller's cost."""
    try:
        found = certificates.load_der_x509_crl(der)
        if not list(found.issuer):
            raise ValueError("a revocation list of nobody")
    except (TypeError, certificates.InvalidVersion) as error:
        raise ValueError(f"a revocation list cannot be read: {error}") from error
    return found


def _authorities(der: bytes) -> Authorities:
    return tuple(_certificates(der))


def _jwt_keys(key_set: bytes) -> tuple[VerificationKey, ...]:
    document = json.loads(key_set)
    if not isinstance(document, dict):
        raise ValueError("no JWK Set")  # noqa: TRY004 - what the caller is told to expect
    # Plain JWK Sets are what the API carries; a SPIFFE bundle's `use` is there with some.
    return public_keys(document, ALGORITHMS, uses=(JWT_SVID, None, "sig"))


def _certificates(der: bytes) -> Iterator[certificates.Certificate]:
    """Certificates, DER, one behind the other."""
    while der:
        length = _length(der)
        yield certificate_of(der[:length])
        der = der[length:]


def _length(der: bytes) -> int:
    """Of the sequence at the beginning, with its head."""
    if len(der) < 2 or der[0] != _SEQUENCE:  # noqa: PLR2004 - a tag and a length
        raise ValueError("not DER")
    short = der[1]
    if short < _SHORT:
        return 2 + short
    size = short - _SHORT
    if not 0 < size <= _LONGEST:
        raise ValueError("not DER")
    return 2 + size + int.from_bytes(der[2 : 2 + size], "big")
