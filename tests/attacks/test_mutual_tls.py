"""Attacks over connections with certificates: what was good at the handshake is judged again at each call."""

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc.experimental import session_cache

from exchanged.authenticate.spiffe import SpiffeAuthenticator
from exchanged.doors.grpc_tls import presented
from exchanged.errors import ExchangeError, MalformedRequest, Reason, SubjectTokenRejected
from exchanged.log.record import Record, RecordKind
from exchanged.model import IssuerName, PresentedCertificate, PresentedToken
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.fixtures import JWT
from tests.policies import policy
from tests.spiffe.certificates import LEAF_USAGE
from tests.spiffe.pki import Svid, TrustDomain
from tests.svids import MutualDoor, Published, authenticators, exchanged, over, reason_of, signed_anew, with_leaf
from tests.world import World, world

DEPLOYER = "spiffe://acme.example/ns/web/sa/deployer"
PROXY = "spiffe://partner.example/proxy"
UNAVAILABLE = "UNAVAILABLE"
POLICIES = (
    policy("deploy-web", subjects=[{"issuer": "acme", "claims": {"sub": DEPLOYER}}]),
    policy(
        "by-proxy",
        name="proxied",
        subjects=[{"issuer": "acme", "claims": {"sub": DEPLOYER}, "when": f'request.peer == "{PROXY}"'}],
    ),
)


@dataclass(slots=True)
class Lab:
    """A world that knows two trust domains, and the clock of all."""

    world: World
    acme: Published
    partner: Published
    known: list[SpiffeAuthenticator] = field(default_factory=list)

    def know(self, *domains: Published) -> None:
        """From now on these trust domains are configured, and no others."""
        self.known = [each.authenticator() for each in domains]
        self.world.exchanger._authenticators = authenticators(*self.known)

    def roots(self) -> tuple[Any, ...]:
        """Who may have issued the certificates of callers."""
        return tuple(each.roots() for each in self.known)

    def later(self, by: timedelta) -> None:
        """Time goes by."""
        self.acme.clock.later(by)
        self.world.time = self.acme.clock.time

    async def fetch(self) -> None:
        """All bundles, anew."""
        for each in self.known:
            await each._bundle.again()

    async def revoke(self, issuer: str, subject: str) -> None:
        """What `exchanged grants revoke-subject` writes down."""
        now = self.world.time
        record = Record(kind=RecordKind.SUBJECT_REVOKED, time=now)
        await self.world.store.revoke_subject(IssuerName(issuer), subject, now, record)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """Such a world, whose bundles are there."""
    async with world(tmp_path / "world", *POLICIES) as made:
        acme = Published.of("acme.example")
        partner = Published(TrustDomain("partner.example"), acme.clock)
        found = Lab(made, acme, partner)
        found.know(acme, partner)
        await found.fetch()
        yield found


@pytest.fixture
async def door(tmp_path: Path, lab: Lab) -> AsyncIterator[MutualDoor]:
    """The door of that world."""
    async with MutualDoor.serve(tmp_path, lab.world, lab.roots) as serving:
        yield serving


def _token(outcome: str) -> bool:
    return outcome.count(".") == 2


async def _refused(lab: Lab, svid: Svid, reason: Reason, **changes: Any) -> None:
    """An exchange over this certificate is refused for this."""
    request = lab.world.request(**({"subject_token": None, "subject_token_type": ""} | changes))
    with pytest.raises(ExchangeError) as refused:
        await lab.world.exchanger.exchange(request, over(lab.world, svid))
    assert refused.value.reason is reason, refused.value.detail


async def _granted(lab: Lab, svid: Svid, **changes: Any) -> Any:
    request = lab.world.request(**({"subject_token": None, "subject_token_type": ""} | changes))
    return await lab.world.exchanger.exchange(request, over(lab.world, svid))


async def test_a_certificate_is_a_proof(lab: Lab, door: MutualDoor) -> None:
    """With nothing wrong there is a token for the workload of the certificate, of either trust domain's own."""
    for svid in (lab.acme.domain.svid(), lab.acme.domain.svid(under=lab.acme.domain.intermediate())):
        async with door.channel(svid) as channel:
            assert _token(await exchanged(channel))
            assert _token(await exchanged(channel))
    async with door.channel(lab.partner.domain.svid("/proxy")) as channel:
        assert await exchanged(channel) == "NO_POLICY"


HANDSHAKES: dict[str, tuple[Any, str]] = {
    "no certificate": (lambda _: None, UNAVAILABLE),
    "a certificate of nobody we know": (lambda _: TrustDomain("acme.example").svid(), UNAVAILABLE),
    "a self-signed certificate": (lambda lab: _self_signed(lab.acme.domain), UNAVAILABLE),
    "an expired certificate": (
        lambda lab: lab.acme.domain.svid(lifetime=timedelta(seconds=-1)), UNAVAILABLE),
    "a certificate that is not yet valid": (
        lambda lab: lab.acme.domain.svid(not_before=lab.world.time + timedelta(hours=1),
                                         not_after=lab.world.time + timedelta(hours=2)), UNAVAILABLE),
    "a certificate without its intermediate": (
        lambda lab: lab.acme.domain.svid(under=lab.acme.domain.intermediate(), intermediates=[]), UNAVAILABLE),
    "our ID from the authority of another trust domain": (
        lambda lab: lab.partner.domain.svid(uris=[DEPLOYER]), "CERTIFICATE_INVALID"),
    "our ID below an intermediate of another trust domain": (
        lambda lab: lab.partner.domain.svid(uris=[DEPLOYER], under=lab.partner.domain.intermediate()),
        "CERTIFICATE_INVALID"),
    "an ID of another trust domain from our authority": (
        lambda lab: lab.acme.domain.svid(uris=[PROXY]), "CERTIFICATE_INVALID"),
    "an ID of no trust domain that is configured": (
        lambda lab: lab.acme.domain.svid(uris=["spiffe://elsewhere.example/web"]), "TOKEN_ISSUER_UNKNOWN"),
    "two IDs": (lambda lab: lab.acme.domain.svid(uris=[DEPLOYER, PROXY]), "CERTIFICATE_INVALID"),
    "no ID": (lambda lab: lab.acme.domain.svid(uris=[]), "CERTIFICATE_INVALID"),
    "an authority's certificate": (lambda lab: lab.acme.domain.svid(ca=True), "CERTIFICATE_INVALID"),
    "a key that may sign certificates": (
        lambda lab: lab.acme.domain.svid(usage=LEAF_USAGE | {"key_cert_sign"}), "CERTIFICATE_INVALID"),
    "no key usage": (lambda lab: lab.acme.domain.svid(usage=None), "CERTIFICATE_INVALID"),
}  # fmt: skip


def _self_signed(domain: TrustDomain) -> Svid:
    svid = domain.svid()
    return with_leaf(svid, signed_anew(svid.certificates[0], svid.key, name=svid.certificates[0].subject))


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_who_does_not_come_in(lab: Lab, door: MutualDoor, name: str) -> None:
    """The handshake turns away who is unknown to all trust domains, and the call whom its own does not vouch for."""
    make, outcome = HANDSHAKES[name]
    async with door.channel(make(lab)) as channel:
        assert await exchanged(channel) == outcome


async def test_authorities_with_the_same_names(lab: Lab, tmp_path: Path) -> None:
    """Two trust domains whose authorities have the same names are told apart, at the handshake and at the call."""
    twin = lab.partner.domain._current
    twin.certificate = signed_anew(twin.certificate, twin.key, name=lab.acme.domain.authorities[0].subject)
    for domains in ((lab.acme, lab.partner), (lab.partner, lab.acme)):
        lab.know(*domains)
        await lab.fetch()
        async with MutualDoor.serve(tmp_path, lab.world, lab.roots) as door:
            async with door.channel(lab.acme.domain.svid()) as channel:
                assert _token(await exchanged(channel))
            async with door.channel(lab.partner.domain.svid(uris=[DEPLOYER])) as channel:
                assert await exchanged(channel) == "CERTIFICATE_INVALID"


async def test_a_certificate_that_ends_while_the_connection_stays(lab: Lab, door: MutualDoor) -> None:
    """The call after the end of the SVID is refused, and so is one below an intermediate that has ended."""
    ends = lab.world.time + timedelta(minutes=20)
    below = lab.acme.domain.svid(under=lab.acme.domain.intermediate(not_after=ends))
    async with door.channel(lab.acme.domain.svid()) as channel, door.channel(below) as other:
        assert _token(await exchanged(channel))
        assert _token(await exchanged(other))
        lab.later(timedelta(minutes=30))
        assert _token(await exchanged(channel))
        assert await exchanged(other) == "CERTIFICATE_INVALID"
        lab.later(timedelta(minutes=31))
        assert await exchanged(channel) == "CERTIFICATE_EXPIRED"


async def test_an_authority_that_is_dropped_while_the_connection_stays(lab: Lab, door: MutualDoor) -> None:
    """Once the bundle is known without an authority, calls below it are refused; those below the new one are not."""
    svid = lab.acme.domain.svid()
    async with door.channel(svid) as channel:
        assert _token(await exchanged(channel))
        lab.acme.domain.rotate()
        lab.later(timedelta(minutes=1))
        await lab.fetch()
        assert _token(await exchanged(channel))
        lab.acme.domain.drop_old()
        lab.later(timedelta(minutes=1))
        await lab.fetch()
        assert await exchanged(channel) == "CERTIFICATE_INVALID"
        async with door.channel(lab.acme.domain.svid()) as newer:
            assert _token(await exchanged(newer))
    async with door.channel(svid) as channel:
        assert await exchanged(channel) == UNAVAILABLE


async def test_a_bundle_that_grows_too_old_while_the_connection_stays(lab: Lab, door: MutualDoor) -> None:
    """While the trust domain cannot be asked its last bundle holds for a while, and then nobody is vouched for."""
    lab.acme.broken = True
    svid = lab.acme.domain.svid(lifetime=timedelta(hours=3))
    async with door.channel(svid) as channel:
        lab.later(timedelta(hours=1, minutes=4))
        assert _token(await exchanged(channel))
        lab.later(timedelta(minutes=2))
        assert await exchanged(channel) == "KEYS_UNAVAILABLE"
        lab.acme.broken = False
        lab.later(timedelta(seconds=6))
        assert _token(await exchanged(channel))


async def test_a_trust_domain_that_is_removed_while_the_connection_stays(lab: Lab, door: MutualDoor) -> None:
    """Calls of a trust domain that is gone are refused; those of another go on."""
    async with door.channel(lab.acme.domain.svid()) as ours, door.channel(lab.partner.domain.svid("/proxy")) as other:
        assert _token(await exchanged(ours))
        assert await exchanged(other) == "NO_POLICY"
        lab.know(lab.acme)
        await lab.fetch()
        assert await exchanged(other) == "TOKEN_ISSUER_UNKNOWN"
        assert _token(await exchanged(ours))
    async with door.channel(lab.partner.domain.svid("/proxy")) as other:
        assert await exchanged(other) == UNAVAILABLE


async def test_a_subject_that_is_revoked_while_the_connection_stays(lab: Lab, door: MutualDoor) -> None:
    """An SVID from before the revocation is refused, over a new connection too; one from after it is not."""
    svid = lab.acme.domain.svid()
    async with door.channel(svid) as channel:
        assert _token(await exchanged(channel))
        await lab.revoke("acme", DEPLOYER)
        assert await exchanged(channel) == "SUBJECT_REVOKED"
        async with door.channel(svid) as again:
            assert await exchanged(again) == "SUBJECT_REVOKED"
    lab.later(timedelta(seconds=5))
    newer = lab.acme.domain.svid(not_before=lab.world.time)
    assert (await _granted(lab, newer)).grant.subject.subject == DEPLOYER


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """What each call's connection was authenticated by."""
    seen: list[Mapping[str, Any]] = []

    def noted(context: Any) -> PresentedCertificate:
        seen.append(context.auth_context())
        return presented(context)

    monkeypatch.setattr("exchanged.doors.grpc.presented", noted)
    return seen


def _sessions() -> tuple[tuple[str, Any], tuple[str, Any]]:
    """How a client keeps a session; by the name of its server, so it needs one."""
    cache: Any = session_cache.ssl_session_cache_lru(1)  # type: ignore[no-untyped-call] # has no types
    return ("grpc.ssl_session_cache", cache), ("grpc.ssl_target_name_override", "localhost")


async def test_a_session_that_is_resumed(lab: Lab, door: MutualDoor, connections: list[Mapping[str, Any]]) -> None:
    """A resumed session shows the certificate of the first, whole, which is judged as at any call."""
    cache, named = _sessions()
    svid = lab.acme.domain.svid(under=lab.acme.domain.intermediate())
    for _ in range(2):
        async with door.channel(svid, cache, named) as channel:
            assert _token(await exchanged(channel))
    lab.later(timedelta(minutes=61))
    async with door.channel(svid, cache, named) as channel:
        assert await exchanged(channel) == "CERTIFICATE_EXPIRED"
    assert [each["ssl_session_reused"][0] for each in connections] == [b"false", b"true", b"true"]


async def test_a_session_of_a_dropped_authority(lab: Lab, door: MutualDoor) -> None:
    """No session outlives the authority that it was begun under."""
    (cache, named), svid = _sessions(), lab.acme.domain.svid()
    async with door.channel(svid, cache, named) as channel:
        assert _token(await exchanged(channel))
    lab.acme.domain.rotate()
    lab.acme.domain.drop_old()
    lab.later(timedelta(minutes=1))
    await lab.fetch()
    async with door.channel(svid, cache, named) as channel:
        assert await exchanged(channel) in {UNAVAILABLE, "CERTIFICATE_INVALID"}


async def test_other_calls_are_for_peers_that_are_vouched_for(lab: Lab, door: MutualDoor) -> None:
    """Giving back and introspecting ask for a good certificate too."""
    async with door.channel(lab.acme.domain.svid()) as channel:
        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
        token = await exchanged(channel)
        assert (await stub.Introspect(pb.IntrospectRequest(token=token), timeout=10)).active
        async with door.channel(lab.partner.domain.svid(uris=[DEPLOYER])) as crossed:
            other = exchange_pb2_grpc.TokenExchangeStub(crossed)  # type: ignore[no-untyped-call] # generated
            for call, request in (
                (other.Introspect, pb.IntrospectRequest(token=token)),
                (other.Revoke, pb.RevokeRequest(token=token)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(request, timeout=10)
                assert reason_of(refused.value) == "CERTIFICATE_INVALID"
        assert (await stub.Introspect(pb.IntrospectRequest(token=token), timeout=10)).active
        await stub.Revoke(pb.RevokeRequest(token=token), timeout=10)
        assert not (await stub.Introspect(pb.IntrospectRequest(token=token), timeout=10)).active


async def test_a_request_without_a_token(lab: Lab) -> None:
    """Without a certificate there has to be a token; with one there may be, and then its type too."""
    plain = lab.world.request(subject_token=None, subject_token_type="")
    with pytest.raises(MalformedRequest) as refused:
        await lab.world.exchanger.exchange(plain, lab.world.context())
    assert (refused.value.reason, refused.value.public) == (Reason.PARAMETER_MISSING, {"parameter": "subject_token"})
    svid = lab.acme.domain.svid()
    await _refused(lab, svid, Reason.PARAMETER_CONFLICT, subject_token_type=JWT)
    await _refused(lab, svid, Reason.PARAMETER_MISSING, subject_token=PresentedToken(text=""), subject_token_type=JWT)
    await _refused(lab, svid, Reason.PARAMETER_MISSING, subject_token=_shown(lab.acme.domain.jwt()))


def _shown(token: str) -> PresentedToken:
    return PresentedToken(text=token)


async def test_a_token_of_somebody_else_over_a_certificate(lab: Lab) -> None:
    """The token says who it is for, the certificate who brings it: a policy that names the peer holds for it alone."""
    token, proxy = _shown(lab.acme.domain.jwt()), lab.partner.domain.svid("/proxy")
    asked: dict[str, Any] = {"subject_token": token, "subject_token_type": JWT, "scope": ("by-proxy/proxied",)}
    found = await _granted(lab, proxy, **asked)
    assert (found.grant.policy, found.grant.subject.subject) == ("by-proxy", DEPLOYER)
    await _refused(lab, lab.partner.domain.svid("/other"), Reason.CONDITION_FALSE, **asked)
    await _refused(lab, lab.acme.domain.svid("/proxy"), Reason.CONDITION_FALSE, **asked)
    request = lab.world.request(**asked)
    with pytest.raises(ExchangeError) as refused:
        await lab.world.exchanger.exchange(request, lab.world.context())
    assert refused.value.reason is Reason.CONDITION_FALSE


async def test_a_bad_certificate_is_not_made_good_by_a_token(lab: Lab) -> None:
    """A token that is good by itself is refused over a certificate that is not, and the other way round."""
    good = {"subject_token": _shown(lab.acme.domain.jwt()), "subject_token_type": JWT}
    await _refused(lab, lab.partner.domain.svid(uris=[PROXY, DEPLOYER]), Reason.CERTIFICATE_INVALID, **good)
    bad = {"subject_token": _shown(lab.acme.domain.jwt(aud="x")), "subject_token_type": JWT}
    await _refused(lab, lab.acme.domain.svid(), Reason.TOKEN_AUDIENCE, **bad)
    crossed = {"subject_token": _shown(lab.partner.domain.jwt(sub=DEPLOYER)), "subject_token_type": JWT}
    await _refused(lab, lab.acme.domain.svid(), Reason.TOKEN_SIGNATURE, **crossed)


async def test_a_revoked_peer(lab: Lab) -> None:
    """A token of somebody else is not taken from a workload that is revoked; from another it is."""
    asked = {"subject_token": _shown(lab.acme.domain.jwt()), "subject_token_type": JWT, "scope": ("by-proxy/proxied",)}
    proxy = lab.partner.domain.svid("/proxy")
    await _granted(lab, proxy, **asked)
    await lab.revoke("partner", PROXY)
    await _refused(lab, proxy, Reason.SUBJECT_REVOKED, **asked)
    await lab.revoke("acme", PROXY)
    lab.later(timedelta(seconds=5))
    newer = lab.partner.domain.svid("/proxy", not_before=lab.world.time)
    await _granted(lab, newer, **asked)


async def test_a_jwt_svid_is_revoked_with_its_subject(lab: Lab) -> None:
    """A JWT-SVID from before the revocation is refused, also one that does not say when it was issued."""
    asked = {"subject_token_type": JWT}
    old, undated = _shown(lab.acme.domain.jwt()), _shown(lab.acme.domain.jwt(iat=None))
    lab.world.time += timedelta(seconds=2)
    await lab.revoke("acme", DEPLOYER)
    for token in (old, undated):
        with pytest.raises(SubjectTokenRejected) as refused:
            await lab.world.exchanger.exchange(lab.world.request(subject_token=token, **asked), lab.world.context())
        assert refused.value.reason is Reason.SUBJECT_REVOKED
    issued = int(lab.world.time.timestamp()) + 2
    newer = _shown(lab.acme.domain.jwt(iat=issued))
    assert await lab.world.exchanger.exchange(lab.world.request(subject_token=newer, **asked), lab.world.context())


async def test_what_refusals_are_on_record(lab: Lab) -> None:
    """The certificate of a stranger is sampled; who was vouched for and has ended is on record by name."""
    crossed = lab.partner.domain.svid(uris=[DEPLOYER])
    await _refused(lab, crossed, Reason.CERTIFICATE_INVALID)
    svid = lab.acme.domain.svid()
    await _granted(lab, svid)
    lab.later(timedelta(hours=2))
    await _refused(lab, svid, Reason.CERTIFICATE_EXPIRED)
    assert await lab.world.kinds() == ["unverified", "intended", "issued", "refused"]


def _copies(lab: Lab) -> list[x509.Certificate]:
    """What another trust domain can publish in the name of ours: its own key, or ours with what makes it no use."""
    ours, theirs = lab.acme.domain.authorities[0], lab.partner.domain._current
    forged = signed_anew(ours, theirs.key, key=theirs.key, name=ours.subject)
    same_id = x509.SubjectKeyIdentifier.from_public_key(lab.acme.domain._current.key.public_key())
    useless = x509.BasicConstraints(ca=True, path_length=0)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    nobody = x509.NameConstraints(None, [x509.UniformResourceIdentifier("acme.example")])
    return [
        forged,
        signed_anew(forged, theirs.key, (same_id, False)),
        signed_anew(ours, theirs.key, (useless, True), name=ours.subject),
        signed_anew(ours, theirs.key, (unknown, True), name=ours.subject),
        signed_anew(ours, theirs.key, (nobody, True), name=ours.subject),
    ]


@pytest.mark.parametrize("number", range(5))
async def test_a_trust_domain_cannot_shut_out_one_before_it(lab: Lab, tmp_path: Path, number: int) -> None:
    """What a trust domain publishes in the name of another that is configured before it shuts out nobody of that."""
    entry = lab.partner.domain._current.x509_jwk()
    copy = base64.b64encode(_copies(lab)[number].public_bytes(Encoding.DER)).decode()
    lab.partner.document = {"keys": [entry | {"x5c": [copy]}, entry]}
    lab.know(lab.acme, lab.partner)
    await lab.fetch()
    below = lab.acme.domain.intermediate()
    async with MutualDoor.serve(tmp_path, lab.world, lab.roots) as door:
        for svid in (
            lab.acme.domain.svid(),
            lab.acme.domain.svid(under=lab.acme.domain.intermediate("b", under=below)),
        ):
            async with door.channel(svid) as channel:
                assert _token(await exchanged(channel))
        async with door.channel(lab.partner.domain.svid("/proxy")) as channel:
            assert await exchanged(channel) == "NO_POLICY"
