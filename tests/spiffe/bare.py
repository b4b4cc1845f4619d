"""Calls of the Workload API without a client's help."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.spiffe.endpoint import PATIENCE_SECONDS, SECURITY_HEADER, SERVICE
from tests.spiffe.workload_api import WorkloadApi


def code(api: WorkloadApi, method: str, *metadata: tuple[str, str], request: bytes = b"") -> grpc.StatusCode:
    """How a call ends; OK as soon as it says something."""
    with grpc.insecure_channel(f"unix:{api.path}") as channel:
        begin: Callable[..., Any] = channel.unary_stream(f"/{SERVICE}/{method}")
        call = begin(request, metadata=metadata, timeout=PATIENCE_SECONDS)
        with suppress(grpc.RpcError):
            next(call)
            return grpc.StatusCode.OK
        ended: grpc.StatusCode = call.code()
        return ended


def answer(api: WorkloadApi, method: str, request: Message, response: type[Message]) -> Any:
    """The first message of a call, as it was sent."""
    with grpc.insecure_channel(f"unix:{api.path}") as channel:
        begin: Callable[..., Any] = channel.unary_stream(f"/{SERVICE}/{method}", None, response.FromString)
        return next(begin(request.SerializeToString(), metadata=[SECURITY_HEADER], timeout=PATIENCE_SECONDS))
