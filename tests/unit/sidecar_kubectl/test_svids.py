"""The plugin with SVIDs as proofs, beside a daemon that lives by SPIFFE."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.execplugin_options import options
from tests.daemon import Daemon
from tests.policies import reading
from tests.spiffe.answers import Identity
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

COMMAND = Path(sysconfig.get_path("scripts")) / "sidecar"
AGENT = "/ns/web/sa/agent"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, TrustDomain]]:
    """A daemon that serves an SVID, and knows its own trust domain."""
    folder = tmp_path_factory.mktemp("svids")
    domain = TrustDomain("prod.example")
    own = Identity(path="/exchanged", dns=("localhost",))
    with WorkloadApi.served(folder / "api.sock", domain, identities=[own]) as api:
        daemon = Daemon.make(
            folder / "daemon",
            doors={name: {"svid": True} for name in ("grpc", "mtls")},
            issuers={"mesh": {"type": "spiffe", "trustDomain": domain.name}},
            policies={"agent.yaml": reading("agent", subjects=[{"issuer": "mesh", "path": AGENT}])},
            workloadApi={"socket": api.address},
        )
        with daemon.running():
            yield daemon, domain


@pytest.mark.parametrize("flags", [("--source=x509-svid",), ("--source=jwt-svid", "--certificate", "--ca=spiffe"), ()])
def test_an_svid_is_a_proof(mesh: tuple[Daemon, TrustDomain], tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A certificate, or a token, or both; the trust domain vouches for the daemon. What comes is kept as any other."""
    daemon, domain = mesh
    with WorkloadApi.served(tmp_path / "agent.sock", domain, identities=[Identity(path=AGENT)]) as api:
        environment = {"PATH": os.defpath, "HOME": str(tmp_path), "SPIFFE_ENDPOINT_SOCKET": api.address}
        door = daemon.mtls if flags else f"localhost:{daemon.ports['grpc']}"
        roots = tmp_path / "bundle.pem"
        roots.write_bytes(domain.x509_pem)
        command = [str(COMMAND), "exec-credential", f"--server={door}", "--cluster=prod", "--scope=agent/pods", *flags]
        command += [f"--issuer-audience={daemon.url}", *([] if flags else [f"--ca={roots}"])]
        answers = [
            subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            for _ in range(2)
        ]
    assert [(answer.returncode, answer.stderr) for answer in answers] == [(0, ""), (0, "")]
    first, second = (json.loads(answer.stdout)["status"]["token"] for answer in answers)
    assert first == second


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--ca=spiffe", "--source=jwt-svid"), "--ca spiffe goes with --certificate"),
        (("--source=github", "--certificate"), "--certificate goes with --source jwt-svid, not with github"),
    ],
)
def test_a_certificate_that_nobody_sends_is_wrong_usage(
    flags: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, where it would be a file that is not there, or a connection that is not the workload's."""
    with pytest.raises(SystemExit) as ended:
        options([*flags])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
