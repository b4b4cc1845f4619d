"""grpc.health.v1: whether grants could be issued, told so that no watcher can hold up anything."""

import asyncio
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from exchanged.v1 import exchange_pb2 as pb

NAMES = ("", pb.DESCRIPTOR.services_by_name["TokenExchange"].full_name)
"""Whose health is told: all of the server's, and the service's; they are the same."""
LOOK_SECONDS = 1.0
"""How soon a watcher learns of a change."""
WRITE_SECONDS = 10.0
"""How long a watcher may take to hear a change: one that does not read is not waited for."""
MOST_WATCHERS = 100
"""Watchers at once: load balancers are few, and each holds a call open."""

Answer: TypeAlias = health_pb2.HealthCheckResponse
Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    """Health of the server. The library's own waits for each watcher to read while it holds the lock of all."""

    def __init__(self) -> None:
        self._ready = False
        self._ending = False
        self._watchers = 0

    def tell(self, *, ready: bool) -> None:
        """What is told from now on; once the end is near, nothing but that."""
        self._ready = ready and not self._ending

    def end(self) -> None:
        """From now on it is not ready, and whoever watches is told so and let go."""
        self._ready, self._ending = False, True

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Answer:  # noqa: N802
        """See grpc.health.v1."""
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Answer(status=self._status(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """See grpc.health.v1."""
        if self._watchers >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already")
        self._watchers += 1
        try:
            await self._watch(request.service, context)
        finally:
            self._watchers -= 1

    async def _watch(self, service: str, context: Context) -> None:
        told = None
        while True:
            status = self._status(service)
            if status != told:
                try:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await context.write(Answer(status=status))
                except TimeoutError:
                    # Nor would it read an error. Its call ends with the connection; its place is free again.
                    return
                told = status
            if self._ending:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _status(self, service: str) -> int:
        if service not in NAMES:
            return int(Answer.SERVICE_UNKNOWN)
        return int(Answer.SERVING if self._ready else Answer.NOT_SERVING)
