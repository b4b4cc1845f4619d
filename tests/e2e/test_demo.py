import subprocess
import sys

import pytest


def _demo(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_comes_out_as_told() -> None:
    """`make demo` shows an exchange at both doors, refusals and records."""
    told = _demo()
    for expected in (
        "deploy-web/rollout",
        "CONDITION_FALSE",
        "TOKEN_REPLAYED",
        "intended",
        "returned",
        '"active": false',
    ):
        assert expected in told


@pytest.mark.lab
def test_the_demo_with_a_cluster() -> None:
    """`make demo CLUSTER=1` ends with kubectl: allowed, Forbidden beside, Forbidden after revocation."""
    told = _demo("--cluster")
    assert told.count("Forbidden") == 3
    assert "the demo is over" in told
