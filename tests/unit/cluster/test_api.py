import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from exchanged.cluster.api import ApiError, KubernetesApi, text_at
from exchanged.config import Credential
from exchanged.errors import ClusterUnavailable
from exchanged.model import PresentedToken
from tests.api_server import ROLES, FakeApiServer
from tests.grants import PROD

SECRET = "s3cr3t"
NO_USERS = """
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: []
users: []
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    """An API server in memory."""
    async with FakeApiServer.serving() as serving:
        yield serving


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("kubeconfig", b"apiVersion: v1\nusers: [{name: s3cr3t, user: {token: s3cr3t"),
        ("kubeconfig", b""),
        ("kubeconfig", b"- s3cr3t\n"),
        ("kubeconfig", NO_USERS.encode()),
        ("kubeconfig", b"\xff\xfe s3cr3t"),
        ("tokenFile", b"\xff\xfe s3cr3t"),
        ("tokenFile", b"s3cr3t\r\nX-Remote-User: admin"),
        ("tokenFile", None),
        ("kubeconfig", None),
    ],
)
async def test_a_credential_that_cannot_be_used_is_an_unavailable_cluster(
    tmp_path: Path, server: FakeApiServer, kind: str, content: bytes | None
) -> None:
    """Whatever is in the daemon's own credential, the cluster is said to be out of reach, and nothing of it is told."""
    file = tmp_path / "credential"
    if content is not None:
        file.write_bytes(content)
    api = KubernetesApi(
        name=PROD,
        server=server.url,
        certificate_authority=None,
        credential=Credential(**{kind: file}),
        time_out=5,
        observe=lambda _: None,
    )
    for attempt in (api.call("GET", "/version"), anext(api.watch(ROLES, "1"))):
        with pytest.raises(ClusterUnavailable) as refused:
            await attempt
        assert SECRET not in refused.value.detail
    await api.close()


async def test_the_environments_proxy_is_used_but_where_it_says_not(
    tmp_path: Path, server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY and NO_PROXY, as for other clients; here nobody answers at the proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for exempt in ("", "127.0.0.1"):
        monkeypatch.setenv("no_proxy", exempt)
        async with server.api(tmp_path) as api:
            if exempt:
                assert (await api.call("GET", ROLES))["items"] == []
            else:
                with pytest.raises(ClusterUnavailable):
                    await api.call("GET", ROLES)


@pytest.mark.parametrize("body", ["<html>sign in here</html>", "[]", "", "null"])
async def test_what_answers_but_is_no_api_server_is_unavailable(
    tmp_path: Path, server: FakeApiServer, body: str
) -> None:
    """A success that is no JSON object is no success."""
    server.always(text=body)
    async with server.api(tmp_path) as api:
        with pytest.raises(ClusterUnavailable, match="no API server"):
            await api.call("GET", "/version")
        with pytest.raises(ClusterUnavailable, match="no API server"):
            await api.review(PresentedToken(text="x"), ("a",))


@pytest.mark.parametrize("answer", [{"status": "Success"}, {"status": {"user": []}}, {"status": {"audiences": 1}}])
async def test_a_review_of_another_shape_is_unavailable(tmp_path: Path, server: FakeApiServer, answer: Any) -> None:
    """A token review that cannot be read vouches for nobody, and is no bug of ours."""
    server.always(text=json.dumps(answer))
    async with server.api(tmp_path) as api:
        with pytest.raises(ClusterUnavailable, match="no API server"):
            await api.review(PresentedToken(text="x"), ("a",))


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type": "ADDED"}\n', b'{"object": "text"}\n'])
async def test_an_event_of_another_shape_ends_the_watch(tmp_path: Path, server: FakeApiServer, line: bytes) -> None:
    """An event that cannot be read is an error that whoever watches expects."""
    server.always(body=line)
    async with server.api(tmp_path) as api, aclosing(api.watch(ROLES, "1")) as events:
        with pytest.raises(ApiError, match="no object"):
            await anext(events)


async def test_refusals_keep_their_status_and_some_of_their_text(tmp_path: Path, server: FakeApiServer) -> None:
    """What is the caller's to judge comes as it was answered, also when it is no JSON."""
    async with server.api(tmp_path) as api:
        for status, text in ((404, '{"message": "not there"}'), (403, "not JSON, not there")):
            server.always(status=status, text=text)
            with pytest.raises(ApiError, match="not there") as refused:
                await api.call("GET", "/version")
            assert refused.value.status == status
        for status in (401, 429, 500, 503):
            server.always(status=status)
            with pytest.raises(ClusterUnavailable):
                await api.call("GET", "/version")


async def test_a_request_is_sent_once(tmp_path: Path, server: FakeApiServer) -> None:
    """Nothing is tried again behind the caller's back: not on a server's error, nor when nobody listens."""
    async with server.api(tmp_path) as api:
        server.always(status=500)
        for method in ("GET", "DELETE", "POST"):
            with pytest.raises(ClusterUnavailable, match="500"):
                await api.call(method, "/x", {})
        assert server.asked == ["GET /x", "DELETE /x", "POST /x"]
        server.url = "http://127.0.0.1:1"
        async with server.api(tmp_path) as nobody:
            with pytest.raises(ClusterUnavailable, match="ClientConnectorError"):
                await nobody.call("GET", "/x")


async def test_a_new_credential_is_read_when_the_old_one_is_refused(tmp_path: Path, server: FakeApiServer) -> None:
    """After a 401 the file is read again at the next call, over the same connection."""
    async with server.api(tmp_path) as api:
        await api.call("GET", ROLES)
        server.always(status=401)
        with pytest.raises(ClusterUnavailable, match="not accepted"):
            await api.call("GET", ROLES)
        server.fault = None
        (tmp_path / "token").write_text("new")
        await asyncio.gather(api.call("GET", ROLES), api.call("GET", ROLES))
        assert api.calls == 4


@pytest.mark.parametrize("answer", [{}, {"metadata": None}, {"metadata": {"uid": 7}}, {"metadata": {"uid": ""}}])
def test_a_text_that_is_not_there(answer: Any) -> None:
    """An answer without what it should have is an error that tells what was missing."""
    with pytest.raises(ApiError, match=r"no metadata\.uid"):
        text_at(answer, "metadata", "uid")
