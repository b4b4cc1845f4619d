"""The same with the client for coroutines."""

import asyncio
import json
import sys

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

REFRESH_SECONDS = 5
"""A tenth of the life of the shortest tokens here; the package's own 60 are for tokens of ten minutes."""


async def main(kubeconfig: str, namespace: str, pause: str) -> None:
    """One client all the way, as a long-lived program has it: the plugin is run again by a task of our own."""
    used = client.Configuration()
    loader = await config.load_kube_config(kubeconfig, client_configuration=used)  # type: ignore[no-untyped-call] # theirs
    refresh = asyncio.create_task(config.refresh_token(loader, used, interval=REFRESH_SECONDS))  # type: ignore[no-untyped-call] # theirs
    stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with client.ApiClient(used) as made:
        api = client.CoreV1Api(made)
        while not stopped.done():
            error = ""
            try:
                await api.list_namespaced_pod(namespace)
            except (ApiException, aiohttp.ClientError) as caught:
                error = str(caught)[:500]
            print(json.dumps({"error": error}), flush=True)
            await asyncio.wait([stopped], timeout=float(pause))
    refresh.cancel()


asyncio.run(main(*sys.argv[1:]))
