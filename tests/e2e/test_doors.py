"""The doors of a running daemon: renewed certificates, overload, draining, and who may come in by the socket."""

import asyncio
import http.client
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from exchanged.doors.grpc import GrpcDoor, Servicer, source
from exchanged.doors.http import HttpDoor
from exchanged.keys.certificates import Authority
from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from tests.daemon import Daemon
from tests.fixtures import JWT
from tests.issuers import FakeIssuer
from tests.policies import policy


def _request(issuer: FakeIssuer) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(
        subject_token=issuer.github_token(), subject_token_type=JWT, audience=["prod"], scope="deploy-web/rollout"
    )


def _daemon(folder: Path, issuer: FakeIssuer, **more: Any) -> Daemon:
    cluster = {"mode": "authorizer", "server": "https://127.0.0.1:6443", "allow": ["workloads"]}
    return Daemon.make(
        folder,
        issuers={"github": issuer.settings(profile="github")},
        clusters={"prod": cluster},
        policies={"web.yaml": policy("deploy-web")},
        **more,
    )


def test_a_renewed_certificate_drops_nobody(tmp_path: Path) -> None:
    """New connections see the new certificate at both doors; the old ones go on."""
    authority = Authority.open(tmp_path / "ca", "test", lambda: datetime.now(UTC))
    certificate, key, ca = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca" / "ca.crt"

    def renew() -> None:
        pair = authority.serving(["127.0.0.1", "localhost"])
        key.write_bytes(pair.key_pem)
        certificate.write_bytes(pair.chain_pem)

    renew()
    tls = {"certificate": str(certificate), "key": str(key), "certificateAuthority": str(ca)}
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = _daemon(tmp_path / "d", issuer)
        for door in ("grpc", "http"):
            daemon.settings["doors"][door]["tls"] = tls
        daemon.write()
        trusting = ssl.create_default_context(cafile=ca)
        with daemon.running(), grpc.secure_channel(
            daemon.grpc, grpc.ssl_channel_credentials(ca.read_bytes())
        ) as channel:  # fmt: skip
            stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated
            kept = http.client.HTTPSConnection("127.0.0.1", urlsplit(daemon.url).port or 0, context=trusting)
            stub.Exchange(_request(issuer), timeout=5)
            addresses = [("127.0.0.1", daemon.ports[door]) for door in ("grpc", "http")]
            before = [ssl.get_server_certificate(address) for address in addresses]
            kept.request("GET", "/healthz")
            assert kept.getresponse().read() == b"ok"
            renew()
            until = time.monotonic() + 20
            while any(ssl.get_server_certificate(one) == old for one, old in zip(addresses, before, strict=True)):
                assert time.monotonic() < until
            stub.Exchange(_request(issuer), timeout=5)
            kept.request("GET", "/healthz")
            assert kept.getresponse().read() == b"ok"
            kept.close()


def test_overload_is_told_and_what_is_under_way_is_drained(tmp_path: Path) -> None:
    """Beyond the bound a call is refused with a delay; on SIGTERM the daemon finishes and says so in the record."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = _daemon(tmp_path / "d", issuer, limits={"requestsInFlight": 1})
        with daemon.running():
            results = asyncio.run(_many(daemon, issuer))
        reasons = {reason for reason in results if reason}
        assert reasons == {"OVERLOADED"}
        assert None in results
        with daemon.running():
            kinds = [record["kind"] for record in daemon.json("records", "list", "--limit", "200")["records"]]
        assert "stopped" in kinds
        assert kinds.count("intended") == kinds.count("issued") == results.count(None)


async def _many(daemon: Daemon, issuer: FakeIssuer) -> list[str | None]:
    credentials = grpc.ssl_channel_credentials(daemon.ca.read_bytes())
    async with grpc.aio.secure_channel(daemon.grpc, credentials) as channel:
        stub = exchange_pb2_grpc.TokenExchangeStub(channel)  # type: ignore[no-untyped-call] # generated

        async def one() -> str | None:
            try:
                await stub.Exchange(_request(issuer), timeout=10)
            except grpc.aio.AioRpcError as error:
                info = ErrorInfo()
                rpc_status.from_call(error).details[0].Unpack(info)
                return str(info.reason)
            return None

        return list(await asyncio.gather(*(one() for _ in range(20))))


def test_plaintext_stays_on_loopback() -> None:
    """Without a certificate a door opens on loopback alone."""
    nothing: Any = None
    needs = ("exchanger", "clock", "time_limit", "turned_away")
    servicer = Servicer(door="grpc", most_in_flight=1, **dict.fromkeys(needs, nothing))
    common: dict[str, Any] = {"port": 0, "certificate": None, "most_connections": 1, "drain": timedelta(0)}
    rest = ("issuer", "exchanger", "jwks", "unready", "metrics", "clock", "most_in_flight", "time_limit", "turned_away")
    for host in ("0.0.0.0", "192.0.2.1", "::", "exchanged.example"):  # noqa: S104 - that is what is refused
        with pytest.raises(ValueError, match="loopback only"):
            GrpcDoor(host=host, servicer=servicer, max_message=1, **common)
        with pytest.raises(ValueError, match="loopback only"):
            HttpDoor(host=host, max_body=1, **dict.fromkeys(rest, nothing), **common)
    for host in ("127.0.0.1", "::1", "localhost"):
        assert GrpcDoor(host=host, servicer=servicer, max_message=1, **common)


def test_where_a_call_comes_from() -> None:
    """The peer's address is read from what gRPC says of it."""
    for peer, address in (("ipv4:1.2.3.4:567", "1.2.3.4"), ("ipv6:%5B::1%5D:567", "::1"), ("unix:/x", "unix")):
        assert source(peer) == address


def test_the_socket_is_the_owners(tmp_path: Path) -> None:
    """Nobody but the daemon's user and root can connect to the local socket."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = _daemon(tmp_path / "d", issuer)
        with daemon.running():
            path = daemon.folder / "state" / "admin.sock"
            assert path.stat().st_mode & 0o777 == 0o600
            assert (daemon.folder / "state").stat().st_mode & 0o777 == 0o700
        assert not path.exists()


def test_whoever_sends_slowly_holds_up_nobody(tmp_path: Path) -> None:
    """Bodies that do not come take no place of those that do."""
    with FakeIssuer.served(tmp_path / "issuer") as issuer:
        daemon = _daemon(tmp_path / "d", issuer, limits={"requestsInFlight": 2})
        with daemon.running():
            context = ssl.create_default_context(cafile=daemon.ca)
            slow = [http.client.HTTPSConnection("127.0.0.1", daemon.ports["http"], context=context) for _ in range(4)]
            for connection in slow:
                connection.putrequest("POST", "/token")
                connection.putheader("Content-Type", "application/x-www-form-urlencoded")
                connection.putheader("Content-Length", "1000")
                connection.endheaders(b"grant_type=")
            quick = http.client.HTTPSConnection("127.0.0.1", daemon.ports["http"], context=context)
            quick.request("POST", "/introspect", "token=x", {"Content-Type": "application/x-www-form-urlencoded"})
            reply = quick.getresponse()
            assert (reply.status, reply.read()) == (200, b'{"active":false}')
            reply = slow[0].getresponse()
            assert (reply.status, b"MALFORMED" in reply.read()) == (400, True)
            for connection in (*slow, quick):
                connection.close()
