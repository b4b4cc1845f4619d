"""Calls to a daemon that is not there, or that cannot be trusted."""

from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from exchanged.v1 import exchange_pb2 as pb
from sidecar import advice
from sidecar.exchange import Daemon, _credential, _failed, _only_namespace
from sidecar.model import Ask, Fault, Subject


async def test_nobody_is_there() -> None:
    """That is no refusal, and it is said what to look at."""
    daemon = Daemon("127.0.0.1:1", None)
    with pytest.raises(Fault) as failed:
        await daemon.exchange(Ask(scope="a/b"), Subject(token="proof"))
    await daemon.close()
    assert failed.value.reason == ""
    assert "nothing listens there" in advice.cause(failed.value.message)
    assert "proof" not in failed.value.message


async def test_who_vouches_is_read_for_each_connection(tmp_path: Path) -> None:
    """A CA file that is renewed takes effect; while it cannot be read nothing is sent, and it is tried again."""
    file = tmp_path / "ca.crt"
    daemon = Daemon("127.0.0.1:1", file.read_bytes)
    with pytest.raises(Fault, match="No such file"):
        await daemon.lives("token", Subject())
    file.write_text("a CA")
    with pytest.raises(Fault, match="UNAVAILABLE"):
        await daemon.lives("token", Subject())
    await daemon.close()


@pytest.mark.parametrize(
    ("namespaces", "only"),
    [([["web"]], "web"), ([["web"], ["web"]], "web"), ([["web", "b"]], ""), ([["web"], []], ""), ([], "")],
)
def test_the_only_namespace(namespaces: list[list[str]], only: str) -> None:
    """It is the default of in-cluster clients where there is just one; a detail without any is for all."""
    assert _only_namespace([pb.AuthorizationDetail(namespaces=each) for each in namespaces]) == only


def _reply(**changed: object) -> pb.ExchangeResponse:
    usual = {"access_token": "a", "expires_in": 300, "expires_at": Timestamp(seconds=1_800_000_300)}
    return pb.ExchangeResponse(**(usual | changed))  # type: ignore[arg-type] # as the tests have it


def test_a_reply() -> None:
    """As the daemon makes them."""
    assert (_credential(_reply()).token, _credential(_reply()).seconds) == ("a", 300.0)


@pytest.mark.parametrize(
    "changed",
    [{"access_token": ""}, {"expires_in": 0}, {"expires_in": -5}, {"expires_at": Timestamp(seconds=1 << 60)}],
)
def test_a_reply_that_cannot_be_used(changed: dict[str, object]) -> None:
    """It is a fault, not a token: what there is stays."""
    with pytest.raises(Fault, match="the daemon's answer"):
        _credential(_reply(**changed))


@pytest.mark.parametrize(
    "written", [b"\xff\xff", Status(details=[Any(type_url=f"x/{ErrorInfo.DESCRIPTOR.full_name}", value=b"\xff")])]
)
def test_details_that_are_none(written: bytes | Status) -> None:
    """Somebody between us and the daemon wrote them; the code and the text still say what they say."""
    raw = written if isinstance(written, bytes) else written.SerializeToString()
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", raw))
    error = grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), trailing, "go away")
    failed = _failed(error)
    assert (type(failed), failed.reason, failed.message) == (Fault, "", "go away [PERMISSION_DENIED]")
