"""`python -m tests.lab`: build the lab's programs, or run a cluster to play with."""

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.lab.build import GRPCURL, SERVER, BuildError, built, cache_folder
from tests.lab.cluster import Cluster, ClusterOptions
from tests.lab.process import ProgramFailed


def main() -> int:
    """Runs one of the commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help=f"build the programs into {cache_folder()}, if they are not there")
    up = commands.add_parser("up", help="run a cluster until Ctrl-C, and say how to reach it")
    up.add_argument("--folder", type=Path, help="where its data goes (default: a temporary folder, removed at the end)")
    up.add_argument("--authentication-config", type=Path, help="an AuthenticationConfiguration file")
    up.add_argument("--authorization-config", type=Path, help="an AuthorizationConfiguration file")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            for program in (SERVER, GRPCURL):
                print(built(program))
            return 0
        return _up(arguments)
    except (BuildError, ProgramFailed) as error:
        print(error, file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    options = ClusterOptions(
        authentication_config=_text(arguments.authentication_config),
        authorization_config=_text(arguments.authorization_config),
    )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="exchanged-lab-") as scratch:
        print("Starting etcd, kube-apiserver and kube-controller-manager …", file=sys.stderr, flush=True)
        with Cluster.start(arguments.folder or Path(scratch), options) as cluster:
            print(f"export KUBECONFIG={cluster.admin_kubeconfig}")
            print(f"# API server: {cluster.server}   data and logs: {cluster.folder}", flush=True)
            print("Up. Ctrl-C stops it.", file=sys.stderr, flush=True)
            stopped.wait()
            print("Stopping …", file=sys.stderr)
    return 0


def _text(path: Path | None) -> str | None:
    return path.read_text() if path else None


if __name__ == "__main__":
    sys.exit(main())
