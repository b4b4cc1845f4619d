"""Five thousand sidecars' worth of refreshes against one daemon that is restarted meanwhile. A process of its own."""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvloop

from exchanged.v1 import exchange_pb2 as pb
from exchanged.v1 import exchange_pb2_grpc
from sidecar.schedule import pause_after_fault, refresh_after
from tests.daemon import Daemon
from tests.fixtures import JWT
from tests.policies import reading
from tests.spiffe.pki import TrustDomain

SIDECARS = 5_000
LIFETIME = 120
"""Seconds that a credential lives: the shorter, the more the daemon has to do."""
STARTING = 30.0
"""Seconds over which they start, as a rollout has it."""
RESTARTED, ENDED = 160.0, 320.0
"""When the daemon is restarted, and when it is over."""
CONNECTIONS = 32
"""Shared: what is looked at is when they come."""


@dataclass(slots=True)
class Herd:
    """The sidecars, and what became of them."""

    stubs: list[Any]
    tokens: list[str]
    began: float = field(default_factory=time.monotonic)
    served: Counter[int] = field(default_factory=Counter)
    faults: int = 0
    expired: int = 0

    async def sidecar(self, number: int) -> None:
        """One of them, by the sidecar's own schedule."""
        await asyncio.sleep(random.uniform(0, STARTING))  # noqa: S311 - spreads load
        request = pb.ExchangeRequest(
            audience=["prod"], scope="herd/pods", subject_token=self.tokens[number], subject_token_type=JWT
        )
        ends, failed = 0.0, 0
        while True:
            try:
                reply = await self.stubs[number % CONNECTIONS].Exchange(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.CANCELLED:
                    return  # it is over
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}:
                    raise
                self.faults += 1
                failed += 1
                after = pause_after_fault(failed, max(0.0, ends - time.monotonic()))
            else:
                now = time.monotonic()
                self.served[int(now - self.began)] += 1
                self.expired += 0 < ends < now
                ends, failed = now + reply.expires_in, 0
                after = refresh_after(reply.expires_in)
            await asyncio.sleep(after)


async def _measured(daemon: Daemon, tokens: list[str]) -> dict[str, float]:
    credentials = grpc.ssl_channel_credentials(daemon.ca.read_bytes())
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1_000))
    channels = [grpc.aio.secure_channel(daemon.grpc, credentials, options) for _ in range(CONNECTIONS)]
    stubs = [exchange_pb2_grpc.TokenExchangeStub(channel) for channel in channels]  # type: ignore[no-untyped-call] # generated
    herd = Herd(stubs, tokens)
    running = [asyncio.create_task(herd.sidecar(number)) for number in range(SIDECARS)]
    await asyncio.sleep(RESTARTED)
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start)
    back = time.monotonic() - herd.began
    await asyncio.sleep(ENDED - back)
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    for channel in channels:
        await channel.close()
    for error in ended:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
    counts = [herd.served[second] for second in range(int(back), int(ENDED))]
    return {
        "refresh_per_s": sum(counts) / len(counts),
        "refresh_peak_over_mean": max(counts) * len(counts) / sum(counts),
        "refresh_faults_in_outage": herd.faults,
        "refresh_expired": herd.expired,
        "refresh_outage_s": back - RESTARTED,
    }


def main() -> None:
    """Prints the figures as JSON."""
    folder = Path(sys.argv[1]).resolve()
    domain = TrustDomain("prod.example")
    bundle = folder / "herd-bundle.json"
    bundle.write_text(json.dumps(domain.bundle()))
    subjects = [{"issuer": "mesh", "path": "/herd/*"}]
    lifetime = {"default": f"{LIFETIME}s", "max": "15m"}
    daemon = Daemon.make(
        folder / "herd",
        issuers={"mesh": {"type": "spiffe", "trustDomain": domain.name, "bundle": {"file": str(bundle)}}},
        policies={"herd.yaml": reading("herd", subjects=subjects, lifetime=lifetime)},
    )
    life = ENDED + 300
    tokens = [
        domain.jwt(f"/herd/{number}", audience=daemon.url, exp=int(time.time() + life)) for number in range(SIDECARS)
    ]
    try:
        daemon.start()
        daemon.wait_ready()
        os.sched_setaffinity(0, {1})
        print(json.dumps(uvloop.run(_measured(daemon, tokens))))
    finally:
        daemon.kill()


if __name__ == "__main__":
    main()
