import pickle
import subprocess
import sys

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from exchanged import client, errors
from exchanged.client import Refused, Unavailable
from exchanged.client.calls import failed, may_pass
from exchanged.client.schedule import pause

UNAVAILABLE, DENIED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED


def _error(code: grpc.StatusCode, *details: ErrorInfo | RetryInfo) -> grpc.aio.AioRpcError:
    status = Status(code=code.value[0], message="The message.")
    for each in details:
        packed = AnyMessage()
        packed.Pack(each)
        status.details.append(packed)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "r1"))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing if details else grpc.aio.Metadata(), "The message.")


def _info(reason: str, **more: str) -> ErrorInfo:
    return ErrorInfo(reason=reason, domain="exchanged.dev", metadata={"request_id": "r1", **more})


def test_the_reasons_are_the_daemons() -> None:
    """Each reason of the daemon has its constant, and no other is there."""
    assert {each.name: each.value for each in client.Reason} == {each.name: each.value for each in errors.Reason}


def test_a_refusal_says_why() -> None:
    """The reason, the request's id and what else may be told, as values and in the text."""
    error = failed(_error(DENIED, _info("SCOPE_UNKNOWN", oauth_error="invalid_scope", parameter="scope")))
    assert isinstance(error, Refused)
    assert (error.reason, error.request_id) == (client.Reason.SCOPE_UNKNOWN, "r1")
    assert error.metadata == {"oauth_error": "invalid_scope", "parameter": "scope"}
    assert str(error) == "The message. [SCOPE_UNKNOWN, request r1]; parameter: scope"


@pytest.mark.parametrize(
    ("code", "reason", "kind", "again"),
    [
        ("INVALID_ARGUMENT", "PARAMETER_MISSING", Refused, False),
        ("UNAUTHENTICATED", "TOKEN_REPLAYED", Refused, False),
        ("PERMISSION_DENIED", "NO_POLICY", Refused, False),
        ("PERMISSION_DENIED", "POLICY_CHANGED", Unavailable, True),
        ("FAILED_PRECONDITION", "APPROVAL_REQUIRED", Refused, False),
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED", Unavailable, True),
        ("UNAVAILABLE", "KEYS_UNAVAILABLE", Unavailable, True),
        ("INTERNAL", "INTERNAL", Unavailable, False),
        ("UNAVAILABLE", "", Unavailable, True),
        ("DEADLINE_EXCEEDED", "", Unavailable, True),
        ("UNIMPLEMENTED", "", Unavailable, False),
        # A proxy in between may deny too; that is not the daemon's word.
        ("PERMISSION_DENIED", "", Unavailable, False),
    ],
)
def test_what_is_a_refusal_and_what_may_pass(code: str, reason: str, kind: type[Exception], again: bool) -> None:  # noqa: FBT001 - a row of the table
    """As docs/errors.md has it: who was refused does not try again, who could not be answered may."""
    error = _error(grpc.StatusCode[code], *([_info(reason)] if reason else []))
    failure = failed(error)
    assert type(failure) is kind
    assert may_pass(error, failure) is again


def test_the_daemons_delay_is_told() -> None:
    """RetryInfo is `retry_after`, to the fraction."""
    delay = RetryInfo(retry_delay=Duration(seconds=5, nanos=250_000_000))
    assert failed(_error(UNAVAILABLE, _info("OVERLOADED"), delay)).retry_after == 5.25


@pytest.mark.parametrize(("said", "told"), [(36_000, 36_000), (0, 0), (-1_000, 0)])
def test_no_delay_lies_in_the_past(said: int, told: int) -> None:
    """Who waits for `retry_after` can, whatever a proxy wrote; with the pause on top there is one each time."""
    failure = failed(_error(UNAVAILABLE, RetryInfo(retry_delay=Duration(seconds=said))))
    assert failure.retry_after == told
    assert pause(1, failure.retry_after) >= told


def test_a_detail_that_is_none_is_passed_over() -> None:
    """What stands before it is told all the same."""
    error = _error(UNAVAILABLE, _info("OVERLOADED"), RetryInfo(retry_delay=Duration(seconds=5)))
    (_, raw), _ = error.trailing_metadata()
    status = Status.FromString(raw)
    status.details[1].value = b"\xff"
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    failure = failed(grpc.aio.AioRpcError(UNAVAILABLE, grpc.aio.Metadata(), trailing))
    assert (failure.reason, failure.retry_after) == ("OVERLOADED", None)


def test_errors_travel_between_processes() -> None:
    """With all that they say: a pool of workers hands them on."""
    error = Refused("no", "NO_POLICY", "r1", {"oauth_error": "invalid_request"}, 1.5)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(again), vars(again), str(again)) == (Refused, vars(error), "no")


def test_an_import_is_the_client_alone() -> None:
    """Nothing of the daemon comes along, and the `kubernetes` package comes for who asks for it."""
    script = "import sys, exchanged.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    loaded = done.stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] in {"exchanged", "sidecar"}}
    assert all(name == "exchanged" or name.startswith(("exchanged.client", "exchanged.v1")) for name in ours)
    assert not {"kubernetes", "aiohttp", "pydantic", "typer", "spiffe", "yaml"} & set(loaded)
