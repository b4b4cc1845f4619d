import re
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from exchanged import errors
from exchanged.doors.status import abort, oauth
from exchanged.errors import ExchangeError, InternalError, MalformedRequest, Reason, ScopeDenied
from exchanged.model import RequestId


class Told(NamedTuple):
    """What a caller is told at the doors: gRPC code, OAuth error and HTTP status."""

    grpc: str
    oauth: str
    http: int


TABLE = {
    "MalformedRequest": Told("INVALID_ARGUMENT", "invalid_request", 400),
    "SubjectTokenRejected": Told("UNAUTHENTICATED", "invalid_request", 400),
    "ActorTokenRejected": Told("UNAUTHENTICATED", "invalid_request", 400),
    "PolicyDenied": Told("PERMISSION_DENIED", "invalid_request", 400),
    "TargetDenied": Told("PERMISSION_DENIED", "invalid_target", 400),
    "ScopeDenied": Told("PERMISSION_DENIED", "invalid_scope", 400),
    "ApprovalRequired": Told("FAILED_PRECONDITION", "authorization_pending", 400),
    "TooManyRequests": Told("RESOURCE_EXHAUSTED", "slow_down", 429),
    "LogUnavailable": Told("UNAVAILABLE", "temporarily_unavailable", 503),
    "ClusterUnavailable": Told("UNAVAILABLE", "temporarily_unavailable", 503),
    "KeysUnavailable": Told("UNAVAILABLE", "temporarily_unavailable", 503),
    "StoreUnavailable": Told("UNAVAILABLE", "temporarily_unavailable", 503),
    "InternalError": Told("INTERNAL", "server_error", 500),
}
"""What is promised to callers, written down a second time: a change of it is a change of the contract."""
OF_THEIR_OWN = {
    (MalformedRequest, Reason.UNSUPPORTED_GRANT_TYPE): "unsupported_grant_type",
    (ScopeDenied, Reason.DETAILS_EXCEED_POLICY): "invalid_authorization_details",
    (ScopeDenied, Reason.DETAILS_CANNOT_NARROW): "invalid_authorization_details",
    (ScopeDenied, Reason.DETAILS_UNSUPPORTED): "invalid_authorization_details",
}
"""Reasons whose OAuth error is not their class's (RFC 6749 §5.2, RFC 9396 §5)."""


def _classes() -> dict[str, type[ExchangeError]]:
    """All that can be told: a class that others are made of is told of as one of them."""
    found: dict[str, type[ExchangeError]] = {}
    left = [ExchangeError]
    while left:
        for each in left.pop().__subclasses__():
            if each is not errors.Unavailable:
                found[each.__name__] = each
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


async def _aborted(error: Exception) -> tuple[str, str, Status]:
    context = Context()
    with pytest.raises(Aborted):
        await abort(context, error, RequestId("r-1"))  # type: ignore[arg-type] # a stand-in
    code, message, trailing = context.aborted
    return code.name, message, Status.FromString(dict(trailing)["grpc-status-details-bin"])


def test_the_table_has_every_class() -> None:
    """What can be told is promised, and nothing is promised that cannot."""
    assert _classes().keys() == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
async def test_every_class_has_its_answer_at_both_doors(name: str) -> None:
    """Each class has its gRPC code, its OAuth error and HTTP status; callers get constant text, reason, id, delay."""
    expected = TABLE[name]
    details = {"public": {"hint": "x"}, "retry_after": timedelta(seconds=1.5)}
    error = _classes()[name](Reason.RATE_LIMITED, "secret detail", **details)  # type: ignore[arg-type] # as they are
    status, body, headers = oauth(error, RequestId("r-1"))
    message = body.pop("error_description")
    assert (status, headers) == (expected.http, {"Retry-After": "2"})
    assert body == {"error": expected.oauth, "reason": "RATE_LIMITED", "request_id": "r-1", "hint": "x"}
    code, text, told = await _aborted(error)
    assert (code, text, told.message) == (expected.grpc, message, message)
    info, retry = ErrorInfo(), RetryInfo()
    assert told.details[0].Unpack(info)
    assert told.details[1].Unpack(retry)
    assert (info.reason, info.domain) == ("RATE_LIMITED", "exchanged.dev")
    assert dict(info.metadata) == {"hint": "x", "request_id": "r-1", "oauth_error": expected.oauth}
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1.5)
    other = _classes()[name](Reason.MALFORMED, "another detail")
    assert oauth(other, RequestId("r-2"))[1]["error_description"] == message
    assert "secret" not in str(body) + str(told)


@pytest.mark.parametrize("reason", Reason)
def test_oauth_errors_with_a_code_of_their_own(reason: Reason) -> None:
    """Unsupported grant types and authorization details have codes of their own, and nothing else has."""
    for name, kind in _classes().items():
        assert kind(reason).oauth_error == OF_THEIR_OWN.get((kind, reason), TABLE[name].oauth)
    assert str(ScopeDenied(reason)) == reason.value


async def test_a_bug_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is INTERNAL to the caller, and a traceback to the log."""
    status, body, _ = oauth(RuntimeError("secret"), RequestId("r-1"))
    assert (status, body["error"], body["error_description"]) == (500, "server_error", InternalError.answer.message)
    code, message, told = await _aborted(RuntimeError("secret"))
    assert (code, message) == ("INTERNAL", InternalError.answer.message)
    assert "secret" not in str(body) + str(told)
    assert "secret" in caplog.text


def test_the_document_says_what_the_table_says() -> None:
    """docs/errors.md has each class once, with its gRPC code, its OAuth errors and its HTTP status, cell by cell."""
    text = Path("docs/errors.md").read_text()
    table = text.split("| class |")[1].split("\n\n")[0]
    found: dict[str, tuple[str, set[str], set[int]]] = {}
    for row in table.splitlines()[2:]:
        classes, code, told, _ = (cell.strip() for cell in row.strip("|").split("|"))
        for name in classes.split(", "):
            assert name not in found
            found[name] = (
                code,
                set(re.findall("`([a-z_]+)`", told)),
                {int(each) for each in re.findall("[0-9]+", told)},
            )
    expected = {}
    for name, answer in TABLE.items():
        own = {code for (kind, _), code in OF_THEIR_OWN.items() if kind.__name__ == name}
        expected[name] = (answer.grpc, {answer.oauth} | own, {answer.http})
    assert found == expected


def test_the_document_names_every_reason() -> None:
    """docs/errors.md leaves no reason out, and makes none up."""
    text = Path("docs/errors.md").read_text()
    reasons = text.split("## Reasons")[1].split("\n## ")[0]
    named = set(re.findall("`([A-Z_]+)`", reasons))
    assert named == {reason.value for reason in Reason}
