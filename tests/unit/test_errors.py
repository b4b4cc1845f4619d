from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from exchanged import errors
from exchanged.doors.status import abort, oauth
from exchanged.errors import ExchangeError, InternalError, MalformedRequest, Reason, ScopeDenied
from exchanged.model import RequestId


def _classes() -> list[type[ExchangeError]]:
    found: list[type[ExchangeError]] = []
    left = [ExchangeError]
    while left:
        for each in left.pop().__subclasses__():
            found.append(each)
            left.append(each)
    return found


class Aborted(Exception):
    """What a gRPC context raises."""


class Context:
    """A gRPC context that notes how it was aborted."""

    aborted: tuple[Any, ...] = ()

    async def abort(self, *arguments: Any) -> None:
        """Notes it."""
        self.aborted = arguments
        raise Aborted


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
async def test_every_class_has_its_answer_at_both_doors(kind: type[ExchangeError]) -> None:
    """Each class maps to a gRPC code and an OAuth error; the caller gets constant text, reason, id and delay."""
    error = kind(Reason.RATE_LIMITED, "secret detail", public={"hint": "x"}, retry_after=timedelta(seconds=1.5))
    status, body, headers = oauth(error, RequestId("r-1"))
    assert status == kind.answer.http
    assert body == {
        "error": error.oauth_error,
        "error_description": kind.answer.message,
        "reason": "RATE_LIMITED",
        "request_id": "r-1",
        "hint": "x",
    }
    assert headers == {"Retry-After": "2"}
    context = Context()
    with pytest.raises(Aborted):
        await abort(context, error, RequestId("r-1"))  # type: ignore[arg-type] # a stand-in
    code, message, trailing = context.aborted
    assert (code.name, message) == (kind.answer.grpc, kind.answer.message)
    told = Status.FromString(dict(trailing)["grpc-status-details-bin"])
    info, retry = ErrorInfo(), RetryInfo()
    assert told.details[0].Unpack(info)
    assert told.details[1].Unpack(retry)
    assert dict(info.metadata) == {"hint": "x", "request_id": "r-1", "oauth_error": error.oauth_error}
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1.5)
    assert "secret" not in str(body) + str(told)


def test_oauth_errors_with_a_code_of_their_own() -> None:
    """Unsupported grant types and authorization details have codes of their own."""
    assert MalformedRequest(Reason.UNSUPPORTED_GRANT_TYPE).oauth_error == "unsupported_grant_type"
    assert ScopeDenied(Reason.DETAILS_EXCEED_POLICY).oauth_error == "invalid_authorization_details"
    assert str(ScopeDenied(Reason.SCOPE_UNKNOWN)) == "SCOPE_UNKNOWN"


def test_a_bug_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is INTERNAL to the caller, and a traceback to the log."""
    status, body, _ = oauth(RuntimeError("secret"), RequestId("r-1"))
    assert (status, body["error"], body["error_description"]) == (500, "server_error", InternalError.answer.message)
    assert "secret" not in str(body)
    assert "secret" in caplog.text


def test_the_documents_name_every_reason_and_class() -> None:
    """docs/errors.md leaves nothing out."""
    text = Path("docs/errors.md").read_text()
    for reason in Reason:
        assert f"`{reason.value}`" in text, reason
    for kind in _classes():
        assert kind.__name__ in text or kind is errors.Unavailable
