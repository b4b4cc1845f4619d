from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from exchanged.authenticate.bundles import Bundle, bundle_of
from exchanged.authenticate.jwk import ALGORITHMS
from exchanged.authenticate.jws import Accepted, unverified
from exchanged.authenticate.refused import TokenRefused
from exchanged.authenticate.spiffe import SpiffeAuthenticator
from exchanged.authenticate.x509_svid import read
from exchanged.errors import KeysUnavailable, Reason
from exchanged.model import IdentityKind, IssuerName, PresentedToken
from tests.issuers import AUDIENCE, FakeIssuer
from tests.spiffe.pki import TrustDomain
from tests.svids import Published, presented

BOTH = frozenset({"jwt", "x509"})


def _now() -> datetime:
    return datetime.now(UTC)


class Known:
    """Implements `TrustBundle` with what a test sets; `newer` is what asking anew brings."""

    def __init__(self, last: Bundle | None) -> None:
        self.last = last
        self.newer = last
        self.asked = 0

    def fresh(self) -> Bundle | None:
        """See `TrustBundle.fresh`."""
        return self.last

    async def get(self) -> Bundle:
        """See `TrustBundle.get`."""
        assert self.last is not None
        return self.last

    async def again(self) -> Bundle | None:
        """See `TrustBundle.again`."""
        self.asked += 1
        return self.newer

    async def run(self) -> None:
        """See `TrustBundle.run`."""

    def unready(self) -> str | None:
        """See `TrustBundle.unready`."""
        return None if self.last is not None else "not known"


def _knowing(bundle: Known, svids: frozenset[str] = BOTH) -> SpiffeAuthenticator:
    accepted = Accepted(
        audience=AUDIENCE,
        allow_several_audiences=False,
        algorithms=ALGORITHMS,
        max_lifetime=timedelta(hours=1),
        leeway=timedelta(seconds=30),
    )
    return SpiffeAuthenticator(
        name=IssuerName("acme"), trust_domain="acme.example", accepted=accepted, svids=svids, bundle=bundle
    )


def _bundle(domain: TrustDomain) -> Bundle:
    return bundle_of(domain.bundle(), ALGORITHMS)


def _token(text: str) -> Any:
    return unverified(PresentedToken(text=text))


async def test_what_svids_become() -> None:
    """Both kinds are the same workload; other claims of a JWT-SVID are there for policies, and no use is single."""
    made = Published.of("acme.example")
    judge, svid, text = made.authenticator(), made.domain.svid(), made.domain.jwt(team="web", jti="1")
    by_token = await judge.authenticate(_token(text), _now())
    by_certificate = await judge.authenticate_certificate(read(presented(svid)), _now())
    for found in (by_token, by_certificate):
        assert (found.issuer, found.subject) == ("acme", "spiffe://acme.example/ns/web/sa/deployer")
        assert (found.kind, found.single_use, found.job) == (IdentityKind.WORKLOAD, None, None)
        assert found.claims["segments"] == ["ns", "web", "sa", "deployer"]
    assert (by_token.claims["team"], by_token.claims["svid"]) == ("web", "jwt")
    assert by_token.token_digest == PresentedToken(text=text).digest()
    leaf = svid.certificates[0]
    assert (by_certificate.issued_at, by_certificate.expires_at) == (
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
    )
    assert made.fetches == 1


@pytest.mark.parametrize(
    ("subject", "may"),
    [
        ("spiffe://acme.example/web", True),
        ("spiffe://acme.example/../web", True),
        ("spiffe://acme.example", False),
        ("spiffe://acme.example.evil/web", False),
        ("spiffe://acme.examp/web", False),
        ("repo:acme/web", False),
        (["spiffe://acme.example/web"], False),
        (None, False),
    ],
)
def test_who_is_asked(subject: Any, may: bool) -> None:  # noqa: FBT001 - a column
    """A JWT-SVID is for the trust domain that its subject names, whatever it calls its issuer; or for nobody."""
    token = _token(FakeIssuer("https://spire.example").sign({"sub": subject}))
    assert _knowing(Known(None)).may_vouch(token) is may
    assert not _knowing(Known(None), frozenset({"x509"})).may_vouch(token)


@pytest.mark.parametrize("subject", ["spiffe://partner.example/web", "spiffe://acme.example", "acme", None, 7])
async def test_a_key_vouches_for_its_own_workloads_alone(subject: Any) -> None:
    """Whoever asks: what a trust domain's key says of others, or of the domain itself, is refused (JWT-SVID §3.1)."""
    domain = TrustDomain("acme.example")
    with pytest.raises(TokenRefused) as refused:
        await _knowing(Known(_bundle(domain))).authenticate(_token(domain.jwt(sub=subject)), _now())
    assert (refused.value.reason, refused.value.verified) == (Reason.TOKEN_CLAIMS, True)


def test_what_is_known_without_asking() -> None:
    """Whether a key is known is told by the last bundle, however old."""
    domain = TrustDomain("acme.example")
    known, unknown = _token(domain.jwt()), _token(domain.jwt(header={"kid": "another"}))
    assert not _knowing(Known(None)).knows(known)
    assert not _knowing(Known(Bundle((), None))).knows(known)
    assert _knowing(Known(_bundle(domain))).knows(known)
    assert not _knowing(Known(_bundle(domain))).knows(unknown)


async def test_keys_that_are_newer_than_the_bundle() -> None:
    """A key, or an authority, that is missing is asked for once, and not again for what is invented."""
    domain = TrustDomain("acme.example")
    known = Known(_bundle(domain))
    judge = _knowing(known)
    domain.rotate()
    known.newer = _bundle(domain)
    assert await judge.authenticate(_token(domain.jwt()), _now())
    assert await judge.authenticate_certificate(read(presented(domain.svid())), _now())
    assert known.asked == 2
    for text in (TrustDomain("acme.example").jwt(), domain.jwt(header={"kid": "invented"})):
        with pytest.raises(TokenRefused) as refused:
            await judge.authenticate(_token(text), _now())
        assert refused.value.reason is Reason.TOKEN_SIGNATURE


async def test_a_flood_of_strangers_makes_no_storm_of_fetches() -> None:
    """Invented key ids and forged certificates cost the trust domain one fetch, not one each."""
    made = Published.of("acme.example")
    judge = made.authenticator()
    for number in range(20):
        with pytest.raises(TokenRefused):
            await judge.authenticate(_token(made.domain.jwt(header={"kid": f"k{number}"})), _now())
        with pytest.raises(TokenRefused):
            await judge.authenticate_certificate(read(presented(TrustDomain("acme.example").svid())), _now())
    assert made.fetches == 1
    made.clock.later(timedelta(seconds=31))
    with pytest.raises(TokenRefused):
        await judge.authenticate(_token(made.domain.jwt(header={"kid": "k"})), made.clock())
    assert made.fetches == 2


@pytest.mark.parametrize("newer", [None, Bundle((), None)])
async def test_nothing_newer(newer: Bundle | None) -> None:
    """Where asking anew brings nothing, what is refused stays refused."""
    domain = TrustDomain("acme.example")
    known = Known(_bundle(domain))
    known.newer = newer
    stranger = TrustDomain("acme.example")
    for refusing in (
        _knowing(known).authenticate(_token(stranger.jwt()), _now()),
        _knowing(known).authenticate_certificate(read(presented(stranger.svid())), _now()),
    ):
        with pytest.raises(TokenRefused):
            await refusing


async def test_one_kind_of_key_is_not_known() -> None:
    """Who cannot be judged now is not refused for good: it may be tried again; the other kind is judged."""
    domain = TrustDomain("acme.example")
    whole = _bundle(domain)
    without_jwt, without_x509 = Known(Bundle(whole.authorities, None)), Known(Bundle(None, whole.jwt_keys))
    token, chain = _token(domain.jwt()), read(presented(domain.svid()))
    for refusing, kind in (
        (_knowing(without_jwt).authenticate(token, _now()), "JWT"),
        (_knowing(without_x509).authenticate_certificate(chain, _now()), r"X\.509"),
    ):
        with pytest.raises(KeysUnavailable, match=f"{kind} keys of trust domain acme") as error:
            await refusing
        assert error.value.retry_after
    assert await _knowing(without_x509).authenticate(token, _now())
    assert await _knowing(without_jwt).authenticate_certificate(chain, _now())


async def test_what_becomes_unknown_meanwhile() -> None:
    """A chain is refused by the authorities that were known; that they are not known any more says nothing for it."""
    known = Known(_bundle(TrustDomain("acme.example")))
    known.newer = Bundle(None, None)
    with pytest.raises(KeysUnavailable):
        await _knowing(known).authenticate_certificate(read(presented(TrustDomain("acme.example").svid())), _now())


async def test_an_empty_bundle_vouches_for_nobody() -> None:
    """A trust domain that took its keys back has no workloads here, and is not ready."""
    domain = TrustDomain("acme.example")
    judge = _knowing(Known(Bundle((), ())))
    with pytest.raises(TokenRefused) as refused:
        await judge.authenticate(_token(domain.jwt()), _now())
    assert refused.value.reason is Reason.TOKEN_SIGNATURE
    with pytest.raises(TokenRefused, match=r"has no X\.509 authority"):
        await judge.authenticate_certificate(read(presented(domain.svid())), _now())
    assert judge.unready() == "the bundle of trust domain acme.example is empty"
    assert _knowing(Known(None)).unready() == "not known"
    assert _knowing(Known(_bundle(domain))).unready() is None


def test_roots_of_the_handshake() -> None:
    """The authorities that are known, while they are, of who accepts certificates at all."""
    domain = TrustDomain("acme.example")
    assert _knowing(Known(_bundle(domain))).roots() == tuple(domain.authorities)
    for bundle, svids in ((None, BOTH), (Bundle(None, ()), BOTH), (_bundle(domain), frozenset({"jwt"}))):
        assert _knowing(Known(bundle), svids).roots() == ()


async def test_the_background_is_the_bundles() -> None:
    """An authenticator keeps its bundle fresh."""
    await _knowing(Known(None)).run()
