"""`sidecar exec-credential`: the credential plugin of kubectl and of every client-go program (ExecCredential v1).

What a cached token needs is here, and what an exchange needs is imported when there has to be one.
"""

import json
import os
import sys
import time

from sidecar.cache import Cache, Entry, digest_of

API_VERSION = "client.authentication.k8s.io/v1"
CHECK_SECONDS = 10.0
"""Who asks again was answered 401, or is in Python: the daemon is asked about the token, this often at most."""
_USAGE = 2
_FROM_ENVIRONMENT = ("EXCHANGED_", "SPIFFE_", "ACTIONS_ID_TOKEN_")
"""What else says who asks whom; an entry is for the same alone."""


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    now = time.time()
    try:
        api_server = _api_server(os.environ.get("KUBERNETES_EXEC_INFO", ""))
    except ValueError as error:
        sys.stderr.write(f"exec-credential: {error}\n")
        return _USAGE
    cache = Cache(api_server, *_identity(arguments))
    entry = None if "--no-cache" in arguments else cache.read()
    if entry is not None and entry.fresh(now) and not doubtful(cache, entry, now):
        answer(entry, now)
        return 0
    from sidecar.execplugin_ask import run  # noqa: PLC0415 - not for a hit

    return run(arguments, cache, api_server)


def answer(entry: Entry, now: float) -> None:
    """Writes what client-go reads."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.reported(now)))
    status = {"token": entry.token, "expirationTimestamp": ends}
    sys.stdout.write(json.dumps({"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status}) + "\n")


def doubtful(cache: Cache, entry: Entry, now: float) -> bool:
    """Whether the one who asks was given this token before: client-go asks again when the API server answered 401."""
    return cache.had(asker(), entry) and not 0 <= now - entry.checked_at < CHECK_SECONDS


def asker() -> str:
    """The process that started this one: its id, and when it began, for ids come again."""
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/stat", "rb") as file:  # noqa: PTH123 - as in the cache
            began = file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        began = ""
    return f"{parent} {began}"


def _api_server(info: str) -> str:
    """The API server that the token is to go to (provideClusterInfo); "" where nobody says."""
    if not info:
        return ""
    try:
        told = json.loads(info)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"KUBERNETES_EXEC_INFO is no JSON: {error}") from error
    version = told.get("apiVersion") if isinstance(told, dict) else None
    if version != API_VERSION:
        raise ValueError(f"{version} is asked for; write apiVersion: {API_VERSION} into the kubeconfig")
    spec = told.get("spec") or {}
    cluster = (spec.get("cluster") or {}) if isinstance(spec, dict) else spec
    if not isinstance(cluster, dict):
        raise ValueError(f"KUBERNETES_EXEC_INFO has no spec.cluster of {API_VERSION}")  # noqa: TRY004 - as the others
    return str(cluster.get("server", ""))


def _identity(arguments: list[str]) -> list[str]:
    """What an entry is for: the arguments, files of them, what the environment adds, and where we are if it matters."""
    told = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_FROM_ENVIRONMENT)]
    values = [each.partition("=")[2] if each.startswith("-") else each for each in arguments]
    held = [digest_of(each[1:]) for each in values if each.startswith("@")]
    here = _here() if _from_here(arguments, values) else ""
    return ["arguments", *arguments, "files", *held, "environment", *told, here]


def _from_here(arguments: list[str], values: list[str]) -> bool:
    """Whether a file is named from where we are; nobody knows what a command names."""
    names = (each.removeprefix("@") for each in values)
    named = any(name[:1] not in {"/", ""} and os.path.exists(name) for name in names)  # noqa: PTH110 - as above
    return named or any(each.startswith("--subject-token-command") for each in arguments)


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as above
    except OSError:
        return ""  # it was removed: nothing is named from there
