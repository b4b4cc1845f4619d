"""What kubectl waits for at each start: `sidecar exec-credential` with a warm cache, beside `python -c pass`."""

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.policies import reading

RUNS = 20
COMMAND = Path(sysconfig.get_path("scripts")) / "sidecar"


def exec_cache_hit(folder: Path, daemon: Daemon, issuer: FakeIssuer, scope: str) -> dict[str, float]:
    """Milliseconds by the clock on the wall, medians of runs in turn; one exchange comes before."""
    proof = folder / "proof"
    proof.write_text(issuer.github_token())
    asked = (f"--server={daemon.grpc}", f"--ca={daemon.ca}", "--cluster=prod", f"--scope={scope}")
    hit = (str(COMMAND), "exec-credential", *asked, f"--subject-token-file={proof}")
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    _timed(hit, environment)
    hits, floors = [], []
    for _ in range(RUNS):
        hits.append(_timed(hit, environment))
        floors.append(_timed((sys.executable, "-c", "pass"), environment))
    return {"exec_cache_hit_ms": statistics.median(hits), "python_pass_ms": statistics.median(floors)}


def _timed(command: tuple[str, ...], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """The figures alone."""
    with tempfile.TemporaryDirectory() as made, FakeIssuer.served(Path(made) / "issuer") as issuer:
        folder = Path(made)
        issuers = {"github": issuer.settings(profile="github")}
        daemon = Daemon.make(folder / "daemon", issuers=issuers, policies={"pods.yaml": reading()})
        with daemon.running():
            print(exec_cache_hit(folder, daemon, issuer, "read-pods/pods"))


if __name__ == "__main__":
    main()
