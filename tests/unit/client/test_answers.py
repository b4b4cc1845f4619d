"""Answers that are none, such as a proxy in between may give: nobody said no, and nothing is shown for a token."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from exchanged.client import Unavailable
from exchanged.v1 import exchange_pb2 as pb
from tests.doors import listening
from tests.lab.pki import Authority
from tests.unit.client.kinds import Kind

NEVER = 10**15
GARBAGE = b"\xff\xff\xff"


@dataclass(slots=True)
class Proxy(grpc.GenericRpcHandler):
    """Answers each call with the bytes it is told, or with a status that says nothing."""

    client: Callable[[], Any]
    answer: bytes | None = None
    asked: list[str] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Whatever is called."""

        def answered(_: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(handler_call_details.method.rpartition("/")[2])
            if self.answer is None:
                context.set_trailing_metadata((("grpc-status-details-bin", GARBAGE),))
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "by a proxy")
            return self.answer

        return grpc.unary_unary_rpc_method_handler(answered)


@pytest.fixture
def proxy(kind: Kind, tmp_path: Path) -> Iterator[Proxy]:
    """It, and a client of it, of either kind."""
    authority, ca = Authority("proxy"), tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    served = grpc.server(ThreadPoolExecutor(4))
    address = listening(served, authority)
    made = Proxy(lambda: kind.exchange(address, ca, 0))
    served.add_generic_rpc_handlers((made,))
    served.start()
    yield made
    served.stop(None).wait()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (pb.ExchangeResponse(access_token="t", expires_in=0), "no token that lives"),
        (pb.ExchangeResponse(access_token="t", expires_in=-1), "no token that lives"),
        (pb.ExchangeResponse(expires_in=300), "no token that lives"),
        (pb.ExchangeResponse(access_token="t", expires_in=300, expires_at=Timestamp(seconds=NEVER)), "no time"),
        (GARBAGE, "INTERNAL|cannot be read"),
        (None, "by a proxy"),
    ],
)
def test_what_is_no_token_is_none(kind: Kind, proxy: Proxy, answer: Any, why: str) -> None:
    """Whoever asks is told so; a credential does not ask again for each who wants a grant."""
    proxy.answer = answer.SerializeToString() if isinstance(answer, pb.ExchangeResponse) else answer
    exchange = proxy.client()
    with pytest.raises(Unavailable, match=why):
        kind.begin(exchange.token, "proof").result(10)
    proxy.asked.clear()
    credential = exchange.credential(lambda: "proof")
    for _ in range(5):
        with pytest.raises(Unavailable, match=why):
            kind.begin(credential.grant).result(10)
    assert proxy.asked == ["Exchange"]
    kind.begin(exchange.close).result(10)


@pytest.mark.parametrize("answer", [pb.IntrospectResponse(active=True, exp=NEVER).SerializeToString(), GARBAGE, None])
def test_what_tells_nothing_of_a_token(kind: Kind, proxy: Proxy, answer: bytes | None) -> None:
    """Nobody knows whether it lives."""
    proxy.answer = answer
    exchange = proxy.client()
    with pytest.raises(Unavailable):
        kind.begin(exchange.introspect, "a token").result(10)
    kind.begin(exchange.close).result(10)


@pytest.mark.parametrize("answer", [GARBAGE, None])
def test_what_is_no_word_of_the_daemon_gives_nothing_back(kind: Kind, proxy: Proxy, answer: bytes | None) -> None:
    """It may live still."""
    proxy.answer = answer
    exchange = proxy.client()
    with pytest.raises(Unavailable):
        kind.begin(exchange.revoke, "a token").result(10)
    kind.begin(exchange.close).result(10)
