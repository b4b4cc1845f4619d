"""Lists pods until it is told to stop (standard input ends): one line of JSON for each call, with what went wrong."""

import json
import sys
import threading

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError


def main(kubeconfig: str, namespace: str, pause: str) -> None:
    """One client all the way, as a long-lived program has it."""
    config.load_kube_config(kubeconfig)  # type: ignore[no-untyped-call] # theirs
    api = client.CoreV1Api()
    stopped = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    while not stopped.wait(float(pause)):
        error = ""
        try:
            api.list_namespaced_pod(namespace)
        except (ApiException, HTTPError) as caught:
            error = str(caught)[:500]
        print(json.dumps({"error": error}), flush=True)


main(*sys.argv[1:])
