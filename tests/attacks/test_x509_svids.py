"""Attacks on X.509-SVIDs: each lets one thing be wrong with a chain, and is refused for exactly that."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.x509_svid import MAX_CHAIN
from exchanged.errors import Reason
from exchanged.model import Identity, PresentedCertificate
from tests.spiffe.certificates import LEAF_USAGE, now
from tests.spiffe.pki import Intermediate, Svid, TrustDomain
from tests.svids import Published, authenticators, presented, signed_anew, with_leaf

HOME, OTHER = TrustDomain("acme.example"), TrustDomain("partner.example")
DEPLOYER = "spiffe://acme.example/ns/web/sa/deployer"
DAY = timedelta(days=1)


async def _certificate(shown: Svid | PresentedCertificate, home: TrustDomain = HOME) -> Identity:
    known = authenticators(*(Published(each).authenticator() for each in (home, OTHER)))
    certificate = presented(shown) if isinstance(shown, Svid) else shown
    return await known.authenticate_certificate(certificate, datetime.now(UTC))


def _below(**faults: Any) -> Svid:
    return HOME.svid(under=HOME.intermediate(**faults))


def _deep(levels: int, **faults: Any) -> Svid:
    above: Intermediate | None = None
    for level in range(levels):
        above = HOME.intermediate(f"level-{level}", under=above, **(faults if level == 0 else {}))
    return HOME.svid(under=above)


def _constrained(name: x509.GeneralName, *, excluded: bool = False) -> Svid:
    trees = ([name], None) if not excluded else (None, [name])
    return HOME.svid(dns=["web.example"], under=HOME.intermediate(name_constraints=x509.NameConstraints(*trees)))


def _leaf(*extensions: tuple[x509.ExtensionType, bool], key: Any = None, algorithm: Any = None) -> Svid:
    """An SVID whose leaf has these extensions too, or this key."""
    svid = HOME.svid()
    leaf = signed_anew(svid.certificates[0], HOME._current.key, *extensions, key=key, algorithm=algorithm)
    return with_leaf(svid, leaf, key)


def _above(*extensions: tuple[x509.ExtensionType, bool], key: Any = None) -> Svid:
    """An SVID below an intermediate that has these extensions too, or this key."""
    plain = HOME.intermediate()
    own = signed_anew(plain.chain[0], HOME._current.key, *extensions, key=key)
    return HOME.svid(under=Intermediate((own,), key or plain.key))


def _as_an_intermediate(usage: frozenset[str] = LEAF_USAGE, *, ca: bool = False) -> Svid:
    """What a workload signed with the key of its own SVID."""
    workload = HOME.svid("/ns/web/sa/other", usage=usage, ca=ca)
    return HOME.svid(under=Intermediate(workload.certificates, workload.key))


def _same_name(domain: TrustDomain) -> Svid:
    """Signed by an authority of another trust domain that has the names of ours."""
    twin = TrustDomain(domain.name)
    twin._current.certificate = signed_anew(twin.authorities[0], twin._current.key, name=HOME.authorities[0].subject)
    return twin.svid(uris=[DEPLOYER])


def _sha1(domain: TrustDomain) -> Svid:
    """Signed with SHA-1 by an authority with an RSA key; the library does not sign so any more."""
    name, key = HOME.authorities[0].subject, rsa.generate_private_key(public_exponent=65537, key_size=2048)
    domain._current.certificate = signed_anew(HOME.authorities[0], key, key=key, name=name)
    leaf = signed_anew(HOME.svid().certificates[0], key)
    sha256, sha1 = (bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("0b", "05"))
    signed = leaf.tbs_certificate_bytes.replace(sha256, sha1)
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - that is the point
    der = leaf.public_bytes(Encoding.DER).replace(sha256, sha1)[: -len(signature)] + signature
    return with_leaf(HOME.svid(), x509.load_der_x509_certificate(der))


def _raw(oid: x509.ObjectIdentifier, value: str) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(oid, bytes.fromhex(value)), False


UNHEARD_OF = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
NOT_CRITICAL = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
ID = "not a SPIFFE ID"
NOBODY, CANNOT_SIGN = "none of its authorities has signed it", "may not sign certificates"
CERTIFICATES: dict[str, tuple[Callable[[], Svid], str]] = {
    "two URIs": (lambda: HOME.svid(uris=[DEPLOYER, "spiffe://acme.example/admin"]), "2 URIs"),
    "two URIs, one of the web": (lambda: HOME.svid(uris=["https://acme.example", DEPLOYER]), "2 URIs"),
    "the same URI twice": (lambda: HOME.svid(uris=[DEPLOYER, DEPLOYER]), "2 URIs"),
    "no URI": (lambda: HOME.svid(uris=[], dns=["acme.example"]), "0 URIs"),
    "no names at all": (lambda: HOME.svid(uris=[], common_name=DEPLOYER), "0 URIs"),
    "a URI of the web": (lambda: HOME.svid(uris=["https://acme.example/ns/web/sa/deployer"]), ID),
    "a scheme in upper case": (lambda: HOME.svid(uris=["SPIFFE://acme.example/web"]), ID),
    "a trust domain in upper case": (lambda: HOME.svid(uris=["spiffe://ACME.example/web"]), ID),
    "a slash at the end": (lambda: HOME.svid(uris=[DEPLOYER + "/"]), ID),
    "a percent-encoded path": (lambda: HOME.svid(uris=["spiffe://acme.example/%61dmin"]), ID),
    "a path that goes up": (lambda: HOME.svid(uris=["spiffe://acme.example/web/../admin"]), ID),
    "a path that stays": (lambda: HOME.svid(uris=["spiffe://acme.example/./admin"]), ID),
    "an empty segment": (lambda: HOME.svid(uris=["spiffe://acme.example//admin"]), ID),
    "a query": (lambda: HOME.svid(uris=[DEPLOYER + "?a"]), ID),
    "a fragment": (lambda: HOME.svid(uris=[DEPLOYER + "#a"]), ID),
    "a port": (lambda: HOME.svid(uris=["spiffe://acme.example:443/web"]), ID),
    "a user": (lambda: HOME.svid(uris=["spiffe://root@acme.example/web"]), ID),
    "a zero byte": (lambda: HOME.svid(uris=[DEPLOYER + "\0.evil"]), ID),
    "a line end": (lambda: HOME.svid(uris=[DEPLOYER + "\n"]), ID),
    "2,049 characters": (lambda: HOME.svid(uris=[DEPLOYER.ljust(2_049, "x")]), ID),
    "the trust domain's own ID": (lambda: HOME.svid(uris=["spiffe://acme.example"]), "no workload's"),
    "a CA flag": (lambda: HOME.svid(ca=True), "the leaf is an authority"),
    "no key usage": (lambda: HOME.svid(usage=None), "not for digital signatures"),
    "key usage that may be passed over": (lambda: _leaf((NOT_CRITICAL, False)), "2.5.29.15 is not critical"),
    "no digital signature": (lambda: HOME.svid(usage={"key_agreement"}), "not for digital signatures"),
    "may sign certificates": (lambda: HOME.svid(usage=LEAF_USAGE | {"key_cert_sign"}), "may sign certificates"),
    "may sign revocation lists": (lambda: HOME.svid(usage=LEAF_USAGE | {"crl_sign"}), "revocation lists"),
    "for servers alone": (lambda: HOME.svid(extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "not for clients"),
    "for whatever": (
        lambda: HOME.svid(extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "not for clients"),
    "expired": (lambda: HOME.svid(not_before=now() - DAY, not_after=now() - DAY / 2), "is valid from"),
    "not yet valid": (lambda: HOME.svid(not_before=now() + DAY, not_after=now() + 2 * DAY), "is valid from"),
    "a critical extension nobody knows": (lambda: _leaf((UNHEARD_OF, True)), "critical extensions"),
    "key usage that cannot be read": (lambda: _leaf(_raw(ExtensionOID.KEY_USAGE, "0500")), "cannot be read"),
    "names that cannot be read": (
        lambda: _leaf(_raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, "0500")), "cannot be read"),
    "a name of a kind nobody uses": (
        lambda: _leaf(_raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, "3004a3023000")), "cannot be read"),
    "an RSA key that is too short": (
        lambda: _leaf(key=rsa.generate_private_key(65537, 1024)), "too weak"),  # noqa: S505
    "an EC key on a curve that is too small": (lambda: _leaf(key=ec.generate_private_key(ec.SECP192R1())), "weak"),
    "an EC key on a curve of coins": (lambda: _leaf(key=ec.generate_private_key(ec.SECP256K1())), "not accepted"),
    "an Edwards key": (lambda: _leaf(key=ed25519.Ed25519PrivateKey.generate()), "not accepted"),
    "a DSA key": (lambda: _leaf(key=dsa.generate_private_key(2048)), "not accepted"),
    "a signature by SHA-224": (lambda: _leaf(algorithm=hashes.SHA224()), "Forbidden signature algorithm"),
    "an intermediate without the CA flag": (lambda: _below(ca=False), "cA must be asserted"),
    "an intermediate that may not sign": (lambda: _below(usage={"digital_signature"}), CANNOT_SIGN),
    "an intermediate that may sign revocation lists alone": (lambda: _below(usage={"crl_sign"}), CANNOT_SIGN),
    "an intermediate without key usage": (lambda: _below(usage=None), CANNOT_SIGN),
    "an expired intermediate": (lambda: _below(not_after=now() - DAY / 2), "not valid at validation time"),
    "an intermediate that is not yet valid": (
        lambda: _below(not_before=now() + DAY / 4), "not valid at validation time"),
    "deeper than the intermediate allows": (lambda: _deep(2, path_length=0), "path length constraint violated"),
    "deeper than anybody goes": (lambda: _deep(6), "chain construction exceeds max depth"),
    "outside of the intermediate's DNS names": (
        lambda: _constrained(x509.DNSName("elsewhere.example")), "no permitted name constraints"),
    "within the DNS names that the intermediate excludes": (
        lambda: _constrained(x509.DNSName("web.example"), excluded=True), "excluded name constraint"),
    "outside of the intermediate's trust domains": (
        lambda: _constrained(x509.UniformResourceIdentifier("partner.example")), "name constraint"),
    "an intermediate with a critical extension nobody knows": (lambda: _above((UNHEARD_OF, True)), "critical ext"),
    "an intermediate with key usage that cannot be read": (
        lambda: _above(_raw(ExtensionOID.KEY_USAGE, "0500")), "cannot be read"),
    "an intermediate with an RSA key that is too short": (
        lambda: _above(key=rsa.generate_private_key(65537, 1024)), "RSA key is too weak"),  # noqa: S505
    "an intermediate that is a workload": (
        lambda: _above((x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEPLOYER)]), False)),
        "a workload's ID"),
    "a leaf as an intermediate": (_as_an_intermediate, "cA must be asserted"),
    "a leaf that may sign as an intermediate": (
        lambda: _as_an_intermediate(LEAF_USAGE | {"key_cert_sign"}), "cA must be asserted"),
    "a leaf with a CA flag as an intermediate": (
        lambda: _as_an_intermediate(LEAF_USAGE | {"key_cert_sign"}, ca=True), "a workload's ID"),
    "an intermediate that is missing": (lambda: HOME.svid(under=HOME.intermediate(), intermediates=[]), NOBODY),
    "another intermediate": (
        lambda: HOME.svid(under=HOME.intermediate(), intermediates=[HOME.intermediate()]), "signature"),
    "self-signed": (lambda: _self_signed(HOME.svid()), NOBODY),
    "an authority that is not published": (lambda: TrustDomain("acme.example").svid(), NOBODY),
    "an authority of its own among the intermediates": (lambda: _with_authority(TrustDomain(HOME.name)), "max depth"),
    "an authority of another trust domain": (lambda: OTHER.svid(uris=[DEPLOYER]), NOBODY),
    "an authority of another trust domain among the intermediates": (
        lambda: _with_authority(OTHER, uris=[DEPLOYER]), "max depth"),
    "an intermediate of another trust domain": (
        lambda: OTHER.svid(uris=[DEPLOYER], under=OTHER.intermediate()), NOBODY),
    "an intermediate of another trust domain, with ours beside it": (
        lambda: OTHER.svid(uris=[DEPLOYER], under=OTHER.intermediate(), intermediates=[HOME.intermediate()]), NOBODY),
    "our intermediate beside a leaf of another trust domain": (
        lambda: OTHER.svid(uris=[DEPLOYER], intermediates=[HOME.intermediate()]), NOBODY),
    "our authority for a workload of another trust domain": (
        lambda: HOME.svid(uris=["spiffe://partner.example/web"]), NOBODY),
    "our intermediate for a workload of another trust domain": (
        lambda: HOME.svid(uris=["spiffe://partner.example/web"], under=HOME.intermediate()), NOBODY),
    "an authority of another trust domain with the names of ours": (lambda: _same_name(OTHER), "signature"),
    "an authority of ours that is not published, with the names of one that is": (
        lambda: _same_name(HOME), "signature"),
}  # fmt: skip


def _self_signed(svid: Svid) -> Svid:
    return with_leaf(svid, signed_anew(svid.certificates[0], svid.key, name=svid.certificates[0].subject))


def _with_authority(domain: TrustDomain, **changes: Any) -> Svid:
    svid = domain.svid(**changes)
    return replace(svid, certificates=(*svid.certificates, domain.authorities[0]))


@pytest.mark.parametrize("name", CERTIFICATES)
async def test_x509_svid(name: str) -> None:
    """The X.509-SVID is refused, for what is wrong with it."""
    make, said = CERTIFICATES[name]
    with pytest.raises(TokenRefused) as refused:
        await _certificate(make())
    expired = Reason.CERTIFICATE_EXPIRED if name == "expired" else Reason.CERTIFICATE_INVALID
    assert (refused.value.reason, refused.value.verified) == (expired, False)
    assert said in refused.value.detail


@pytest.mark.parametrize(
    "make",
    [
        HOME.svid,
        lambda: HOME.svid(key_kind="RSA"),
        lambda: HOME.svid(basic=False),
        lambda: HOME.svid(extended=None),
        lambda: HOME.svid(extended=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        lambda: HOME.svid(dns=["web.example"], addresses=["127.0.0.1"], common_name="web"),
        lambda: HOME.svid(usage={"digital_signature"}),
        lambda: _leaf((UNHEARD_OF, False)),
        lambda: _leaf(key=ec.generate_private_key(ec.SECP521R1())),
        lambda: _deep(5),
        lambda: _deep(2, path_length=1),
        lambda: _with_authority(HOME),
        lambda: HOME.svid(under=HOME.intermediate(), uris=[DEPLOYER.ljust(2_048, "x")]),
        lambda: HOME.svid(intermediates=[OTHER.intermediate()]),
    ],
)
async def test_what_an_x509_svid_may_be(make: Callable[[], Svid]) -> None:
    """What the specification leaves open is accepted, so that each attack is refused for what it changed."""
    found = await _certificate(make())
    assert (found.issuer, found.single_use, found.claims["svid"]) == ("acme", None, "x509")
    assert found.subject.startswith(DEPLOYER)


async def test_a_trust_domain_that_is_not_configured() -> None:
    """A certificate of a trust domain that no issuer stands for is nobody's."""
    with pytest.raises(TokenRefused, match=r"no configured issuer for trust domain elsewhere\.example") as refused:
        await _certificate(TrustDomain("elsewhere.example").svid())
    assert refused.value.reason is Reason.TOKEN_ISSUER_UNKNOWN


async def test_a_signature_by_sha1() -> None:
    """A chain is not verified by SHA-1, though its authority is the trust domain's own."""
    domain = TrustDomain("acme.example")
    with pytest.raises(TokenRefused, match="Forbidden signature algorithm"):
        await _certificate(_sha1(domain), domain)


async def test_an_authority_that_has_expired() -> None:
    """An authority of the bundle that is over vouches for nobody."""
    domain = TrustDomain("acme.example")
    svid, later = domain.svid(lifetime=60 * DAY), Published(domain).clock.time + 31 * DAY
    known = authenticators(Published(domain).authenticator())
    with pytest.raises(TokenRefused, match="not valid at validation time"):
        await known.authenticate_certificate(presented(svid), later)


@pytest.mark.parametrize(
    "chain",
    [
        b"",
        b"garbage",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        HOME.svid().key_pem,
        HOME.svid().chain_pem * (MAX_CHAIN // 500),
    ],
    ids=["nothing", "garbage", "empty", "short", "a key", "too long"],
)
async def test_what_is_no_chain(chain: bytes) -> None:
    """No bytes, other bytes, and too many of them are refused."""
    with pytest.raises(TokenRefused) as refused:
        await _certificate(PresentedCertificate(chain_pem=chain))
    assert refused.value.reason is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    ("own", "other"),
    [("06092a864886f70d010101", "06092a864886f70d010163"), ("0603551d0e", "0603551d0f"), ("a003020102", "a003020108")],
)
async def test_a_certificate_that_contradicts_itself(own: str, other: str) -> None:
    """A key of no known kind, an extension that is there twice, and a version that there is not: each is refused."""
    der = HOME.svid(key_kind="RSA").certificates[0].public_bytes(Encoding.DER)
    assert bytes.fromhex(own) in der
    changed = base64.b64encode(der.replace(bytes.fromhex(own), bytes.fromhex(other))).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{changed}\n-----END CERTIFICATE-----\n".encode()
    with pytest.raises(TokenRefused) as refused:
        await _certificate(PresentedCertificate(chain_pem=pem))
    assert refused.value.reason is Reason.CERTIFICATE_INVALID


async def test_a_maze_of_intermediates_ends() -> None:
    """Intermediates that sign each other in every way lead nowhere in a bounded time."""
    key, above = ec.generate_private_key(ec.SECP256R1()), TrustDomain("acme.example").intermediate()
    loops = [signed_anew(above.chain[0], key, key=key, name=above.chain[0].subject) for _ in range(20)]
    svid = HOME.svid(under=Intermediate((loops[0],), key))
    async with asyncio.timeout(5):
        with pytest.raises(TokenRefused, match="maximum signature check limit"):
            await _certificate(replace(svid, certificates=(svid.certificates[0], *loops)))


async def test_a_detail_is_short() -> None:
    """Whatever a certificate holds, what is recorded of it is a few lines at most."""
    key = dsa.generate_private_key(2048)
    with pytest.raises(TokenRefused, match="Forbidden public key algorithm") as refused:
        await _certificate(_above(key=key))
    assert len(refused.value.detail) <= 300
