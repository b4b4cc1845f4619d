"""Errors on the wire: the only place that aborts an RPC or composes an OAuth error."""

import logging
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from exchanged.errors import ExchangeError, InternalError, Reason
from exchanged.model import RequestId

log = logging.getLogger(__name__)

DOMAIN = "exchanged.dev"
_DETAILS = "grpc-status-details-bin"
_CODES = {code.name: code for code in grpc.StatusCode}


def told(error: BaseException, request_id: RequestId) -> ExchangeError:
    """What a caller is told of an error. A bug's text and traceback go to the daemon's own log alone."""
    if isinstance(error, ExchangeError):
        return error
    log.error("internal error", extra={"request_id": request_id}, exc_info=error)
    return InternalError(Reason.INTERNAL)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException, request_id: RequestId) -> NoReturn:
    """Ends an RPC with the error's code, its constant message, and what it may tell (google.rpc)."""
    answer = told(error, request_id)
    code = _CODES[answer.answer.grpc]
    metadata = {**answer.public, "request_id": request_id, "oauth_error": answer.oauth_error}
    details = [_packed(ErrorInfo(reason=answer.reason.value, domain=DOMAIN, metadata=metadata))]
    if answer.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(answer.retry_after)
        details.append(_packed(RetryInfo(retry_delay=delay)))
    number, _ = code.value
    status = Status(code=number, message=answer.answer.message, details=details)
    trailing = ((_DETAILS, status.SerializeToString()), ("x-request-id", request_id))
    await context.abort(code, answer.answer.message, trailing)
    raise AssertionError("abort raises")


def oauth(error: BaseException, request_id: RequestId) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """HTTP status, body and headers (RFC 6749 §5.2, RFC 8693 §2.2.2)."""
    answer = told(error, request_id)
    body = {
        "error": answer.oauth_error,
        "error_description": answer.answer.message,
        "reason": answer.reason.value,
        "request_id": request_id,
        **answer.public,
    }
    headers = {}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(answer.retry_after.total_seconds()))
    return answer.answer.http, body, headers


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
