import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from exchanged.app import now
from exchanged.clusters import checked
from exchanged.config_file import load
from exchanged.errors import ClusterUnavailable
from exchanged.model import ClusterName
from tests.lab.worlds import World, world
from tests.policies import reading

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster in mode authorizer, where the daemon has no credential."""
    folder = tmp_path_factory.mktemp("check")
    with world(folder, {"prod": {"mode": "authorizer"}}, {"pods.yaml": reading()}) as running:
        yield running


def _told(made: World, expected: str) -> str:
    """What the check tells, as soon as that is expected: an API server fetches keys a moment after it has started."""
    until = time.monotonic() + 20
    while expected not in (told := "; ".join(_found(made))) or (told and not expected):
        assert time.monotonic() < until, told
    return told


def _found(made: World) -> list[str]:
    findings = asyncio.run(checked(load(made.daemon.config), ClusterName("prod"), now))
    assert {finding.level for finding in findings} <= {"wrong"}
    return [f"{finding.what}: {finding.remedy}" for finding in findings]


def test_nothing_is_wrong_in_what_setup_printed(made: World) -> None:
    """An API server that trusts our tokens and asks our authorizer is recognised, without a credential there."""
    assert _told(made, "") == ""


def test_an_api_server_that_lacks_a_part_is_told_which(made: World) -> None:
    """Without either of its configurations it is said which one is missing; what is not there is out of reach."""
    whole = made.cluster.options
    parts = (
        (replace(whole, authentication_config=None), "does not take our tokens: give it authentication.yaml"),
        (replace(whole, authorization_config=None), "does not ask us"),
    )
    try:
        for options, expected in parts:
            made.cluster.stop_apiserver()
            made.cluster.start_apiserver(options)
            assert ";" not in _told(made, expected)
        made.cluster.stop_apiserver()
        with pytest.raises(ClusterUnavailable):
            _found(made)
        made.cluster.start_apiserver(whole)
    finally:
        made.cluster.options = whole


def test_a_daemon_that_cannot_be_asked_is_told(made: World) -> None:
    """Where nobody listens at the authorizer's door, the check says so."""
    assert _told(made, "") == ""
    made.daemon.stop()
    try:
        assert "see that this daemon runs" in _told(made, "does not ask us what they may do, or cannot")
    finally:
        made.daemon.start()
        made.daemon.wait_ready()
