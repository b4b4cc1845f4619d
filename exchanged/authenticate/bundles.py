"""A trust domain's bundle (SPIFFE Trust Domain and Bundle §4): the keys that vouch for its SVIDs and no other's."""

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from cryptography import x509

from exchanged.authenticate.jwk import MAX_KEYS, VerificationKey, public_keys
from exchanged.authenticate.keysets import Source

X509_SVID, JWT_SVID = "x509-svid", "jwt-svid"
"""Values of `use`; entries with another are left out (§4.2.2)."""
KEY_TYPES = ("RSA", "EC")
REFRESH_UNHINTED = timedelta(minutes=5)
"""Between two fetches of a bundle that does not hint (§6.1)."""
QUICKEST_REFRESH, SLOWEST_REFRESH = timedelta(seconds=5), timedelta(hours=1)
"""What is made of hints beyond: a hint of weeks would keep a withdrawn key for as long."""

Authorities = tuple[x509.Certificate, ...]
Revocations = tuple[x509.CertificateRevocationList, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """The keys of one trust domain; None of a kind that is not known now, empty of one that it does not have.

    Attributes:
        revocations: lists that may revoke certificates below these authorities.
        refresh_hint: how often its publisher wants to be asked.
    """

    authorities: Authorities | None
    jwt_keys: tuple[VerificationKey, ...] | None
    revocations: Revocations = ()
    refresh_hint: timedelta | None = None

    @property
    def refresh(self) -> timedelta:
        """How often it is fetched, as it hints."""
        if self.refresh_hint is None:
            return REFRESH_UNHINTED
        return min(max(self.refresh_hint, QUICKEST_REFRESH), SLOWEST_REFRESH)


class TrustBundle(Protocol):
    """Where a trust domain's bundle is found at each moment; `Fetched` is one."""

    @property
    def last(self) -> Bundle | None:
        """The bundle as it was known last, however long ago."""
        ...

    def fresh(self) -> Bundle | None:
        """The bundle, or None where there is none that is fresh enough."""
        ...

    async def get(self) -> Bundle:
        """The bundle.

        Raises:
            KeysUnavailable: there is none, or none that is fresh enough.
        """
        ...

    async def again(self) -> Bundle | None:
        """The bundle, asked for anew where that can be done: for who misses a key in it."""
        ...

    async def run(self) -> None:
        """Keeps it fresh until cancelled."""
        ...

    def unready(self) -> str | None:
        """Why there is no bundle that is fresh enough, or None."""
        ...


def bundle_of(document: Mapping[str, Any], algorithms: frozenset[str]) -> Bundle:
    """The bundle in a document (§4).

    An empty one is a bundle too: its trust domain has taken back all keys (§4.1.3).

    Raises:
        ValueError: it is none.
    """
    jwt_keys = public_keys(document, algorithms, uses=(JWT_SVID,))
    # Entries of an unknown kind are ignored, whatever else they hold (§4.2.1).
    known = [entry for entry in document["keys"] if isinstance(entry, dict) and entry.get("kty") in KEY_TYPES]
    used = [entry for entry in known if entry.get("use") == X509_SVID]
    # Entries without a certificate are ignored, and all but the first of several (X509-SVID §6.2).
    chains = [entry["x5c"] for entry in used[:MAX_KEYS] if isinstance(entry.get("x5c"), list) and entry["x5c"]]
    return Bundle(
        authorities=tuple(_certificate(chain[0]) for chain in chains), jwt_keys=jwt_keys, refresh_hint=_hint(document)
    )


class Published:
    """A bundle that a source publishes as a document; the same one for as long as the document is the same."""

    def __init__(self, source: Source, algorithms: frozenset[str]) -> None:
        self._source = source
        self._algorithms = algorithms
        self._last: tuple[Mapping[str, Any], Bundle] | None = None

    async def fetch(self) -> Bundle:
        """The bundle.

        Raises:
            SourceError, ValueError: it cannot be had, or is none.
        """
        document = await self._source.fetch()
        if self._last is None or self._last[0] != document:
            self._last = (document, bundle_of(document, self._algorithms))
        return self._last[1]


def certificate_of(der: bytes) -> x509.Certificate:
    """A certificate that everybody can read.

    Raises:
        ValueError: it is none.
    """
    try:
        found = x509.load_der_x509_certificate(der)
        # The handshake's pool of all trust domains ends where its library comes upon one that it cannot read.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=der)
    except (ssl.SSLError, x509.InvalidVersion) as error:
        raise ValueError(f"not a certificate: {error}") from error
    return found


def _certificate(text: object) -> x509.Certificate:
    try:
        return certificate_of(base64.b64decode(str(text), validate=True))
    except ValueError as error:
        raise ValueError("x5c holds no certificate") from error


def _hint(document: Mapping[str, Any]) -> timedelta | None:
    hint = document.get("spiffe_refresh_hint")
    if type(hint) is not int or hint <= 0:
        return None
    return timedelta(seconds=min(hint, int(SLOWEST_REFRESH.total_seconds())))
