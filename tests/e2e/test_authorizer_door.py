"""Who may ask the authorizer of a running daemon, and what: refusals at its own door."""

import http.client
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchanged.keys.certificates import Authority
from tests.daemon import Daemon
from tests.issuers import FakeIssuer
from tests.lab.pki import Authority as ClientAuthority
from tests.policies import policy

PATH = "/authorize"
REFUSED = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)
"""How a client learns that its certificate was not taken: TLS 1.3 tells it when it reads."""
Pair = tuple[Path, Path]


class Door:
    """The authorizer's door, its daemon, and certificates to come with, by name."""

    def __init__(self, folder: Path, issuer: FakeIssuer) -> None:
        self.folder = folder
        self.issuer = issuer
        self.own, self.shared = ClientAuthority("own"), ClientAuthority("shared")
        authorities = {"own": self.own, "one": self.shared, "other": self.shared}
        clusters: dict[str, Any] = {name: self._cluster(name) for name in ("prod", "test", *authorities)}
        for name, authority in authorities.items():
            file = folder / f"{name}-ca.crt"
            file.write_bytes(authority.pem)
            clusters[name]["clientCertificateAuthority"] = str(file)
        self.daemon = Daemon.make(
            folder / "daemon",
            issuers={"github": issuer.settings(profile="github")},
            clusters=clusters,
            policies={"web.yaml": policy("deploy-web", clusters=["prod", "test"])},
        )

    @staticmethod
    def _cluster(name: str) -> dict[str, Any]:
        return {"mode": "authorizer", "server": f"https://{name}.example:6443", "allow": ["workloads"]}

    def certificate(self, cluster: str) -> Pair:
        """The certificate with which a cluster's API server asks."""
        files = self.folder / f"client-{cluster}"
        if not files.exists():
            self.daemon.run("cluster", "client-certificate", cluster, "--directory", str(files))
        return files / "client.crt", files / "client.key"

    def ask(
        self, pair: Pair | None, body: bytes, path: str = PATH, method: str = "POST"
    ) -> tuple[int, dict[str, Any] | str]:
        """Status, and JSON or text."""
        context = ssl.create_default_context(cafile=self.daemon.ca)
        if pair is not None:
            context.load_cert_chain(*pair)
        port = self.daemon.ports["authorizer"]
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read().decode()
            return reply.status, json.loads(text) if reply.headers.get_content_type() == "application/json" else text
        finally:
            connection.close()

    def review(self, cluster: str) -> bytes:
        """What an API server asks about the patch that a fresh grant for this cluster is for."""
        reply = self.daemon.exchange(self.issuer.github_token(), scope="deploy-web/rollout", cluster=cluster)
        claims = jwt.decode(reply["access_token"], options={"verify_signature": False})
        spec = {
            "user": f"exchanged:{claims['sub']}",
            "uid": claims["grant"],
            "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]},
            "resourceAttributes": {
                "verb": "patch", "group": "apps", "resource": "deployments", "name": "web", "namespace": "web",
            },
        }  # fmt: skip
        return json.dumps(_review(spec=spec)).encode()


def _review(**changes: Any) -> dict[str, Any]:
    usual = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "alice"}}
    return {key: value for key, value in (usual | changes).items() if value is not None}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A daemon that is the authorizer of five clusters, two of which have one client CA."""
    folder = tmp_path_factory.mktemp("door")
    with FakeIssuer.served(folder / "issuer") as issuer:
        made = Door(folder, issuer)
        with made.daemon.running():
            yield made


def test_a_cluster_is_answered_about_its_own_grants(door: Door) -> None:
    """The certificate tells which cluster asks; another cluster's grant does not exist there."""
    body = door.review("prod")
    for cluster, allowed in (("prod", True), ("test", False)):
        status, answer = door.ask(door.certificate(cluster), body)
        assert (status, isinstance(answer, dict) and answer["status"]["allowed"]) == (200, allowed)
    assert isinstance(answer, dict)
    assert answer["status"]["reason"] == "exchanged: no such grant at this cluster"


def test_a_certificate_of_an_authority_elsewhere_is_taken(door: Door, tmp_path: Path) -> None:
    """Where a cluster's client CA is configured, its certificates are the cluster's."""
    status, answer = door.ask(door.own.client("kube-apiserver").write(tmp_path, "own"), door.review("prod"))
    assert (status, isinstance(answer, dict) and answer["status"]["denied"]) == (200, True)


def test_nobody_is_heard_without_a_cluster_s_client_certificate(door: Door, tmp_path: Path) -> None:
    """None, one of a stranger, one for serving, and one that is over: there is no connection."""
    body = door.review("prod")
    long_ago = datetime.now(UTC) - timedelta(days=400)
    over = Authority.open(door.daemon.folder / "state" / "clusters" / "prod", "unused", lambda: long_ago).client("prod")
    (tmp_path / "over.crt").write_bytes(over.chain_pem)
    (tmp_path / "over.key").write_bytes(over.key_pem)
    strangers: dict[str, Pair | None] = {
        "none": None,
        "a stranger's": ClientAuthority("own").client("kube-apiserver").write(tmp_path, "stranger"),
        "a serving one": door.own.server("kube-apiserver").write(tmp_path, "serving"),
        "an expired one": (tmp_path / "over.crt", tmp_path / "over.key"),
    }
    assert over.not_after < datetime.now(UTC)
    door.certificate("prod")
    for pair in strangers.values():
        with pytest.raises(REFUSED):
            door.ask(pair, body)


def test_two_clusters_of_one_authority_are_not_told_apart(door: Door, tmp_path: Path) -> None:
    """A certificate that could be of either is of neither."""
    status, answer = door.ask(door.shared.client("kube-apiserver").write(tmp_path, "shared"), door.review("prod"))
    assert (status, answer) == (403, {"error": "this certificate is of no cluster"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        json.dumps(_review(apiVersion="authorization.k8s.io/v1beta1")).encode(),
        json.dumps(_review(apiVersion=None)).encode(),
        json.dumps(_review(kind="SelfSubjectAccessReview")).encode(),
        json.dumps(_review(kind=None)).encode(),
        json.dumps(_review(spec=None)).encode(),
        json.dumps(_review(spec=["user"])).encode(),
    ],
    ids=range(11),
)
def test_what_is_no_review_is_no_question(door: Door, body: bytes) -> None:
    """Anything but a SubjectAccessReview of v1 is refused, and not answered."""
    status, answer = door.ask(door.certificate("prod"), body)
    assert (status, answer) == (400, {"error": "not a SubjectAccessReview of authorization.k8s.io/v1"})


def test_odd_reviews_allow_nothing(door: Door) -> None:
    """A review whose parts are of other types than they should be is denied, or is about nobody of ours."""
    pair, whole = door.certificate("prod"), json.loads(door.review("prod"))
    odd: list[dict[str, Any]] = [
        {"user": None},
        {"user": ["exchanged:"]},
        {"user": "exchanged:"},
        {"uid": {}},
        {"extra": []},
        {"extra": {"authentication.kubernetes.io/credential-id": "JTI="}},
        {"resourceAttributes": []},
        {"resourceAttributes": {"verb": ["patch"]}},
        {"resourceAttributes": None, "nonResourceAttributes": {"path": ["/api"], "verb": "get"}},
    ]
    for change in odd:
        status, answer = door.ask(pair, json.dumps({**whole, "spec": {**whole["spec"], **change}}).encode())
        assert isinstance(answer, dict)
        assert (status, answer["status"]["allowed"]) == (200, False), change


def test_a_review_is_bounded(door: Door) -> None:
    """More than the door reads is refused, and the door goes on."""
    pair = door.certificate("prod")
    assert door.ask(pair, json.dumps(_review(padding="x" * 256 * 1024)).encode())[0] == 413
    assert door.ask(pair, json.dumps(_review(padding="x" * 200 * 1024)).encode())[0] == 200


def test_there_is_nothing_else_at_this_door(door: Door) -> None:
    """One path, one method."""
    pair, body = door.certificate("prod"), door.review("prod")
    for path, method, expected in (
        (PATH, "GET", 405),
        (PATH, "PUT", 405),
        ("/token", "POST", 404),
        ("/metrics", "GET", 404),
        (f"{PATH}/", "POST", 404),
    ):
        assert door.ask(pair, body, path, method)[0] == expected
