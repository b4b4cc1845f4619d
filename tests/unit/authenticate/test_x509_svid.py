from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.x509_svid import SvidChain, read
from exchanged.errors import Reason
from tests.issuers import PrivateKey
from tests.spiffe.certificates import now
from tests.spiffe.pki import Intermediate, Svid, TrustDomain
from tests.svids import presented, signed_anew

HOUR = timedelta(hours=1)


def _chain(svid: Svid) -> SvidChain:
    return read(presented(svid))


def _list(issuer: x509.Certificate, signer: PrivateKey, revoked: Iterable[x509.Certificate]) -> Any:
    """A revocation list; long over, which makes nothing good again."""
    day, at = timedelta(days=1), now() - timedelta(days=9)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(at).next_update(at + day)
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(signer, hashes.SHA256())


class Counting:
    """Counts how often a path is looked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = 0
        path = SvidChain._path

        def counted(*arguments: Any) -> Any:
            self.paths += 1
            return path(*arguments)

        monkeypatch.setattr(SvidChain, "_path", counted)


def test_what_is_read() -> None:
    """The ID, whole and in parts, and the DNS names; the same chain is read once."""
    svid = TrustDomain("acme.example").svid(dns=["web.example", "www.example"], addresses=["10.0.0.1"])
    chain = _chain(svid)
    assert chain.claims == {
        "sub": "spiffe://acme.example/ns/web/sa/deployer",
        "trust_domain": "acme.example",
        "path": "/ns/web/sa/deployer",
        "segments": ["ns", "web", "sa", "deployer"],
        "svid": "x509",
        "dns_names": ["web.example", "www.example"],
    }
    assert chain.digest == svid.certificates[0].fingerprint(hashes.SHA256())
    assert _chain(svid) is chain


def test_a_path_is_looked_for_when_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the authorities, the lists and the certificates hold, a chain that was good is good; each is for itself."""
    domain, counting = TrustDomain("acme.example"), Counting(monkeypatch)
    chain, other = _chain(domain.svid()), _chain(domain.svid())
    authorities, lists, at = tuple(domain.authorities), (), now()
    for number in range(5):
        chain.check(authorities, lists, at + number * timedelta(minutes=1))
    assert counting.paths == 1
    other.check(authorities, lists, at)
    assert counting.paths == 2
    chain.check(tuple(domain.authorities), lists, at)
    assert counting.paths == 3
    chain.check(authorities, (_list(domain.authorities[0], domain._current.key, []),), at)
    assert counting.paths == 4


def test_a_chain_that_was_good_is_not_good_for_ever() -> None:
    """It is refused before it begins, after it ends, without its authority and without any, and good again with it."""
    domain, at = TrustDomain("acme.example"), now()
    chain, authorities = _chain(domain.svid()), tuple(domain.authorities)

    def refused(by: Any, when: Any, reason: Reason, said: str, *, verified: bool = False) -> None:
        with pytest.raises(TokenRefused, match=said) as error:
            chain.check(by, (), when)
        assert (error.value.reason, error.value.verified) == (reason, verified)

    refused(authorities, at + 2 * HOUR, Reason.CERTIFICATE_EXPIRED, "is valid from")
    chain.check(authorities, (), at)
    refused(authorities, at + 2 * HOUR, Reason.CERTIFICATE_EXPIRED, "is valid from", verified=True)
    refused(authorities, at - HOUR, Reason.CERTIFICATE_INVALID, "is valid from", verified=True)
    refused((), at, Reason.CERTIFICATE_INVALID, r"acme\.example has no X\.509 authority")
    refused(tuple(TrustDomain("acme.example").authorities), at, Reason.CERTIFICATE_INVALID, "none of its authorities")
    chain.check(authorities, (), at)


def test_to_the_second() -> None:
    """A certificate holds in its first and its last second, and in no other (RFC 5280 §4.1.2.5)."""
    domain = TrustDomain("acme.example")
    svid = domain.svid()
    first, last = svid.certificates[0].not_valid_before_utc, svid.certificates[0].not_valid_after_utc
    chain, authorities, second = _chain(svid), tuple(domain.authorities), timedelta(seconds=1)
    for moment in (first, last):
        chain.check(authorities, (), moment)
    for moment in (first - second, last + second):
        with pytest.raises(TokenRefused, match="is valid from"):
            chain.check(authorities, (), moment)


def test_an_intermediate_that_ends_first() -> None:
    """What was verified below an intermediate is looked at again once that has ended."""
    domain, at = TrustDomain("acme.example"), now()
    chain = _chain(domain.svid(under=domain.intermediate(not_after=at + HOUR / 2)))
    authorities = tuple(domain.authorities)
    chain.check(authorities, (), at)
    with pytest.raises(TokenRefused, match="not valid at validation time"):
        chain.check(authorities, (), at + HOUR / 2 + timedelta(seconds=1))


class Revoking:
    """A leaf below an intermediate, and lists that revoke."""

    def __init__(self) -> None:
        self.domain = TrustDomain("acme.example")
        self.above = self.domain.intermediate()
        self.svid = self.domain.svid(under=self.above)
        self.root, self.key = self.domain.authorities[0], self.domain._current.key

    def check(self, *lists: Any) -> None:
        """Whether the leaf is accepted with these lists."""
        _chain(self.svid).check(tuple(self.domain.authorities), lists, now())


def test_certificates_that_are_revoked() -> None:
    """A leaf or an intermediate is refused that is on a list of its issuer's, among whatever other lists."""
    made = Revoking()
    leaf, above = made.svid.certificates
    other = TrustDomain("partner.example")
    unrelated = _list(other.authorities[0], other._current.key, [leaf, above])
    made.check(unrelated)
    for revoking in (_list(above, made.above.key, [leaf]), _list(made.root, made.key, [above])):
        for lists in ((revoking,), (unrelated, revoking), (revoking, unrelated)):
            with pytest.raises(TokenRefused, match="is revoked") as refused:
                made.check(*lists)
            assert refused.value.reason is Reason.CERTIFICATE_INVALID
    made.check()


def test_lists_that_revoke_nothing_here() -> None:
    """A list of another authority, though it has the same name, or of other certificates, revokes none of ours."""
    made = Revoking()
    leaf, above = made.svid.certificates
    twin = TrustDomain("partner.example")
    named = signed_anew(twin.authorities[0], twin._current.key, name=made.root.subject)
    sibling: Intermediate = made.domain.intermediate()
    made.check(
        _list(named, twin._current.key, [leaf, above]),
        _list(made.root, made.key, [leaf]),
        _list(above, sibling.key, [leaf]),
        _list(above, made.above.key, [above, made.root]),
        _list(made.root, made.key, [made.domain.svid().certificates[0]]),
    )


def test_what_was_good_is_revoked() -> None:
    """A list that comes later counts at the next call, and so does one that is gone."""
    made = Revoking()
    made.check()
    revoking = _list(made.root, made.key, [made.above.chain[0]])
    with pytest.raises(TokenRefused, match="is revoked"):
        made.check(revoking)
    made.check()
