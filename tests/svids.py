"""Trust domains as the daemon knows them, and its door for their certificates, in one process and by one clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from exchanged.authenticate.bundles import Authorities, Bundle, bundle_of
from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.fetched import Fetched, SourceError
from exchanged.authenticate.jwk import ALGORITHMS
from exchanged.authenticate.jws import Accepted
from exchanged.authenticate.spiffe import SpiffeAuthenticator
from exchanged.doors.grpc import GrpcDoor, Servicer
from exchanged.errors import ExchangeError
from exchanged.keys.certificates import Authority, OwnCertificate
from exchanged.model import IssuerName, PresentedCertificate, RequestContext
from exchanged.ports import Authenticator
from exchanged.time_limit import TimeLimit
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.issuers import AUDIENCE, PrivateKey
from tests.spiffe.pki import Svid, TrustDomain
from tests.world import OWN, World


class Clock:
    """All clocks of a process."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)
        self.elapsed = 0.0

    def __call__(self) -> datetime:
        """Now."""
        return self.time

    def later(self, by: timedelta) -> None:
        """Time goes by."""
        self.time += by
        self.elapsed += by.total_seconds()


@dataclass(slots=True)
class Published:
    """A trust domain whose bundle is fetched; `document` stands instead of what it publishes."""

    domain: TrustDomain
    clock: Clock = field(default_factory=Clock)
    document: Any = None
    broken: bool = False
    fetches: int = 0

    @classmethod
    def of(cls, name: str, **settings: Any) -> "Published":
        """A trust domain of this name."""
        return cls(TrustDomain(name), **settings)

    async def fetch(self) -> Bundle:
        """Its bundle."""
        self.fetches += 1
        if self.broken:
            raise SourceError("broken")
        return bundle_of(self.domain.bundle() if self.document is None else self.document, ALGORITHMS)

    def bundle(self) -> Fetched[Bundle]:
        """Its bundle as the daemon keeps it."""
        return Fetched(
            fetch=self.fetch,
            refresh=lambda bundle: bundle.refresh,
            stale_limit=timedelta(hours=1),
            clock=self.clock,
            on_fetch=lambda _: None,
            elapsed=lambda: self.clock.elapsed,
        )

    def authenticator(self, svids: frozenset[str] = frozenset({"jwt", "x509"}), **changes: Any) -> SpiffeAuthenticator:
        """Who judges its SVIDs; the issuer is called by the first label of the trust domain."""
        accepted: dict[str, Any] = {
            "audience": AUDIENCE,
            "allow_several_audiences": False,
            "algorithms": ALGORITHMS,
            "max_lifetime": timedelta(hours=1),
            "leeway": timedelta(seconds=30),
        }
        return SpiffeAuthenticator(
            name=IssuerName(self.domain.name.partition(".")[0]),
            trust_domain=self.domain.name,
            accepted=Accepted(**(accepted | changes)),
            svids=svids,
            bundle=self.bundle(),
        )


def authenticators(*spiffe: SpiffeAuthenticator, others: tuple[Authenticator, ...] = ()) -> Authenticators:
    """All of them, as the daemon asks them."""
    return Authenticators(authenticators=[*others, *spiffe], own_issuer=OWN, certificates=spiffe)


def presented(svid: Svid) -> PresentedCertificate:
    """The certificate of a connection."""
    return PresentedCertificate(chain_pem=svid.chain_pem)


def signed_anew(
    certificate: x509.Certificate,
    signer: PrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    key: Any = None,
    name: x509.Name | None = None,
    algorithm: Any = None,
) -> x509.Certificate:
    """The certificate, signed again: with these extensions instead of its own of the same kind, and with this key.

    `name` is who it is and who signed it; each extension has whether it is critical.
    """
    kept = [(each.value, each.critical) for each in certificate.extensions]
    replaced = {each.oid for each, _ in extensions}
    builder = (
        x509.CertificateBuilder()
        .subject_name(name or certificate.subject)
        .issuer_name(name or certificate.issuer)
        .public_key(key.public_key() if key is not None else certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension, critical in (*(each for each in kept if each[0].oid not in replaced), *extensions):
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, algorithm or hashes.SHA256())


def with_leaf(svid: Svid, leaf: x509.Certificate, key: Any = None) -> Svid:
    """The SVID with another leaf."""
    return replace(svid, certificates=(leaf, *svid.certificates[1:]), key=key or svid.key)


def over(world: World, svid: Svid) -> RequestContext:
    """A call over a connection that was opened with this SVID."""
    return replace(world.context(), door="mtls", certificate=presented(svid))


@dataclass(slots=True)
class MutualDoor:
    """The daemon's door for callers' certificates, on loopback."""

    address: str
    certificate_authority: bytes

    def channel(self, svid: Svid | None, *options: tuple[str, Any]) -> grpc.aio.Channel:
        """A connection with this SVID."""
        mine = (svid.key_pem, svid.chain_pem) if svid is not None else (None, None)
        return grpc.aio.secure_channel(
            self.address, grpc.ssl_channel_credentials(self.certificate_authority, *mine), options=options
        )

    @classmethod
    @asynccontextmanager
    async def serve(
        cls, folder: Path, world: World, roots: Callable[[], tuple[Authorities, ...]]
    ) -> AsyncIterator["MutualDoor"]:
        """The door of this world."""
        authority = Authority.open(folder / "ca", "test", world.clock)
        servicer = Servicer(
            door="mtls",
            exchanger=world.exchanger,
            clock=world.clock,
            most_in_flight=100,
            time_limit=TimeLimit(10),
            turned_away=_nobody_is_turned_away,
        )
        door = GrpcDoor(
            host="127.0.0.1",
            port=0,
            certificate=OwnCertificate(authority=authority, hosts=["127.0.0.1", "localhost"], clock=world.clock),
            client_roots=roots,
            servicer=servicer,
            max_message=64 * 1024,
            most_connections=100,
            drain=timedelta(0),
        )
        started = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(door.run(lambda host, port: started.set_result(f"{host}:{port}")))
        try:
            await asyncio.wait({started, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            yield cls(started.result(), authority.pem)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def _nobody_is_turned_away(refusal: ExchangeError, context: RequestContext) -> None:
    raise AssertionError(f"{context.request_id}: {refusal.reason}")


async def exchanged(channel: grpc.aio.Channel, **fields: Any) -> str:
    """What comes of an exchange for deploy-web/rollout over this channel: the reason of a refusal, or the token."""
    stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
    request = pb.ExchangeRequest(**({"audience": ["prod"], "scope": "deploy-web/rollout"} | fields))
    try:
        reply = await stub.Exchange(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return str(reply.access_token)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason of a refusal; the code alone where there is none."""
    status = rpc_status.from_call(error)
    if status is None:
        return error.code().name
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return str(info.reason)
