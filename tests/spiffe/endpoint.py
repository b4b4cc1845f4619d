"""A Workload Endpoint on a Unix socket (SPIFFE_Workload_Endpoint.md): calls, streams, and how they fail.

It answers from threads of its own, so that tests that wait and tests in an event loop can use it alike.
"""

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
from google.protobuf.message import Message
from spiffe._proto.workload_pb2 import (
    JWTBundlesRequest,
    JWTSVIDRequest,
    ValidateJWTSVIDRequest,
    X509BundlesRequest,
    X509SVIDRequest,
)

SERVICE = "SpiffeWorkloadAPI"
SECURITY_HEADER = ("workload.spiffe.io", "true")
STREAMS: dict[str, type[Message]] = {
    "FetchX509SVID": X509SVIDRequest,
    "FetchX509Bundles": X509BundlesRequest,
    "FetchJWTBundles": JWTBundlesRequest,
}
UNARY: dict[str, type[Message]] = {"FetchJWTSVID": JWTSVIDRequest, "ValidateJWTSVID": ValidateJWTSVIDRequest}
METHODS = (*STREAMS, *UNARY)
CALLS_AT_ONCE = 64
"""Each open call has a thread."""
PATIENCE_SECONDS = 10.0


class Refused(Exception):
    """A call that ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


_Event = Message | Refused | None
"""What happens to an open stream; None is its end."""


class Endpoint(ABC):
    """The endpoint; a subclass says what it answers. Methods can be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: Counter[str] = Counter()
        self._changed = threading.Condition(threading.RLock())
        self._streams: dict[SimpleQueue[_Event], str] = {}
        self._refusing: dict[str, grpc.StatusCode] = {}
        self._hanging: frozenset[str] = frozenset()
        self._server: grpc.Server | None = None

    @abstractmethod
    def state(self, method: str) -> Message:
        """What a stream of this method says now, in full; raises Refused."""

    @abstractmethod
    def reply(self, request: Message) -> Message:
        """The answer to a call; raises Refused."""

    @property
    def address(self) -> str:
        """What SPIFFE_ENDPOINT_SOCKET says."""
        return f"unix://{self.path}"

    def start(self) -> None:
        """Listens."""
        server = grpc.server(futures.ThreadPoolExecutor(CALLS_AT_ONCE))
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, request in STREAMS.items():
            handlers[name] = grpc.unary_stream_rpc_method_handler(self._stream(name), request.FromString, _bytes)
        for name, request in UNARY.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._call(name), request.FromString, _bytes)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        server.add_insecure_port(f"unix:{self.path}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Breaks all connections and goes away, with its socket."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def push(self) -> None:
        """Sends all open streams what holds now."""
        with self._changed:
            for events, method in self._streams.items():
                if method not in self._hanging:
                    events.put(self._event(method))

    def fail(self, code: grpc.StatusCode, *methods: str) -> None:
        """Refuses new calls, of these methods or of all; open streams stay."""
        with self._changed:
            self._refusing = dict.fromkeys(methods or METHODS, code)

    def hang(self, *methods: str) -> None:
        """Accepts calls and sends nothing any more, for these methods or for all."""
        with self._changed:
            self._hanging = frozenset(methods or METHODS)

    def recover(self) -> None:
        """Ends `fail` and `hang`, and sends what holds."""
        with self._changed:
            self._refusing, self._hanging = {}, frozenset()
            self._changed.notify_all()
            self.push()

    def break_streams(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends all open streams with this status."""
        self._put(Refused(code, "broken by the test"))

    def end_streams(self) -> None:
        """Ends all open streams as if all were said."""
        self._put(None)

    def open_streams(self, *methods: str) -> int:
        """How many streams are open, of these methods or of all."""
        with self._changed:
            return sum(method in (methods or METHODS) for method in self._streams.values())

    def wait_calls(self, method: str, count: int) -> None:
        """Returns when so many calls of this method were made since the beginning, also such as were refused.

        Raises:
            AssertionError: they were not, for PATIENCE_SECONDS.
        """
        self._wait(lambda: self.calls[method] >= count, f"{count} calls of {method}")

    def wait_open(self, count: int, *methods: str) -> None:
        """Returns when exactly so many streams are open.

        Raises:
            AssertionError: it did not come to that, for PATIENCE_SECONDS.
        """
        self._wait(lambda: self.open_streams(*methods) == count, f"{count} open streams")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE_SECONDS):
                raise AssertionError(f"no {what}: {self.calls}, open: {list(self._streams.values())}")

    def _put(self, event: _Event) -> None:
        with self._changed:
            for events in self._streams:
                events.put(event)

    def _event(self, method: str) -> _Event:
        try:
            return self.state(method)
        except Refused as refused:
            return refused

    def _stream(self, method: str) -> Callable[[Message, grpc.ServicerContext], Iterator[Message]]:
        def answer(_request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            events: SimpleQueue[_Event] = SimpleQueue()
            context.add_callback(lambda: events.put(None))
            with self._changed:
                self._admit(method, context)
                self._streams[events] = method
                if method not in self._hanging:
                    events.put(self._event(method))
                self._changed.notify_all()
            try:
                while (event := events.get()) is not None:
                    if isinstance(event, Refused):
                        context.abort(event.code, event.details)
                    yield event
            finally:
                with self._changed:
                    del self._streams[events]
                    self._changed.notify_all()

        return answer

    def _call(self, method: str) -> Callable[[Message, grpc.ServicerContext], Message]:
        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            context.add_callback(self._wake)
            with self._changed:
                self._admit(method, context)
                self._changed.wait_for(lambda: method not in self._hanging or not context.is_active())
                try:
                    return self.reply(request)
                except Refused as refused:
                    context.abort(refused.code, refused.details)

        return answer

    def _admit(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls[method] += 1
        self._changed.notify_all()
        if SECURITY_HEADER not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if (code := self._refusing.get(method)) is not None:
            context.abort(code, "refused by the test")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
