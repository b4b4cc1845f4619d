import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exchanged import strict_yaml
from exchanged.config import Configuration
from exchanged.contradictions import contradictions
from exchanged.keys.certificates import Authority
from tests.cli.command import configuration, run
from tests.issuers import FakeIssuer
from tests.spiffe.pki import TrustDomain

FAULTY = """\
apiVersion: exchanged.dev/v1alpha1
kind: Configuration
issuer: https://exchanged.example
audience: https://prod.example:6443/
state: state
policies: policies
doors:
  grpc:
    listen: 0.0.0.0:8443
    plaintext: true
    tls: {certificate: tls.crt, key: tls.key}
  http:
    plaintex: true
    listen: 127.0.0.1:70000
issuers:
  prod:
    type: kubernetes
    cluster: prod
  other:
    type: kubernetes
    cluster: elsewhere
    maxLifetime: 99999999999d
clusters:
  prod:
    mode: authorizer
    server: https://prod.example:6443
    certificateAuthority: ca.crt
    maxLifetime: 13h
    fencedRoles: true
"""


def _told(folder: Path, **changes: Any) -> list[tuple[str, str]]:
    done = run("config", "check", configuration(folder, **changes), "-o", "json")
    assert done.code == (1 if done.json["faults"] else 0)
    return [(fault["where"], fault["what"]) for fault in done.json["faults"]]


def test_every_fault_at_once_at_its_line(tmp_path: Path) -> None:
    """Faults of keys, of keys together, and of the files they name are told together, each at the line of its key."""
    file = tmp_path / "exchanged.yaml"
    file.write_text(FAULTY)
    told = run("config", "check", file, "-o", "json")
    assert told.code == 1
    assert [(fault["line"], fault["where"]) for fault in told.json["faults"]] == [
        (4, "audience"),
        (6, "policies"),
        (10, "doors.grpc.plaintext"),
        (11, "doors.grpc.tls"),
        (11, "doors.grpc.tls.certificate"),
        (11, "doors.grpc.tls.key"),
        (13, "doors.http.plaintex"),
        (14, "doors.http.listen"),
        (18, "issuers.prod.cluster"),
        (21, "issuers.other.cluster"),
        (22, "issuers.other.maxLifetime"),
        (25, "clusters.prod.mode"),
        (27, "clusters.prod.certificateAuthority"),
        (28, "clusters.prod.maxLifetime"),
        (29, "clusters.prod.fencedRoles"),
    ]
    assert {fault["file"] for fault in told.json["faults"]} == {str(file)}
    for_people = run("config", "check", file)
    assert (for_people.code, for_people.out.count("\nfault ")) == (1, 14)
    assert for_people.out.endswith("15 faults\n")


def test_the_daemon_does_not_start_with_what_is_told(tmp_path: Path) -> None:
    """What the keys of a file say together is as good a reason not to start as what is wrong with one of them."""
    door = {"grpc": {"listen": "0.0.0.0:8443", "plaintext": True}}
    done = run("serve", "--config", configuration(tmp_path, doors=door, clusters=_bindings()))
    assert (done.code, "plaintext is for loopback only" in done.wrong) == (1, True)


def test_a_good_configuration(tmp_path: Path) -> None:
    """Nothing is found in one that works, and its issuers and clusters are counted."""
    file = configuration(tmp_path)
    assert run("config", "check", file).out == f"{file}: 2 issuers, 2 clusters; no faults\n"
    assert run("config", "check", file, "-o", "json").json == {
        "faults": [],
        "issuers": ["github", "pods"],
        "clusters": ["prod", "managed"],
    }


def _bindings(**changes: Any) -> dict[str, Any]:
    cluster = {
        "mode": "bindings",
        "server": "https://managed.example",
        "credential": {"tokenFile": "token"},
        "namespaces": ["web"],
    }
    return {"managed": {name: value for name, value in (cluster | changes).items() if value is not None}}


def _issuer(**changes: Any) -> dict[str, Any]:
    return {"ci": {"type": "oidc", "issuer": "https://ci.example", **changes}}


def _pods(**changes: Any) -> dict[str, Any]:
    return {"pods": {"type": "kubernetes", **changes}}


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"doors": {"grpc": {"listen": "[::]:1", "plaintext": True}}}, "doors.grpc.plaintext", "loopback only, and ::"),
        ({"doors": {"http": {"listen": "a.example:1", "plaintext": True}}}, "doors.http.plaintext", "loopback only"),
        ({"doors": {"http": {"listen": "127.0.0.1:8443"}}}, "doors.http.listen", "doors.grpc listens"),
        ({"doors": {"http": {"listen": "0.0.0.0:8443"}}}, "doors.http.listen", "doors.grpc listens"),
        ({"clusters": {"exchanged": _bindings()["managed"]}}, "clusters.exchanged", "the daemon's own"),
        ({"clusters": _bindings(credential=None)}, "clusters.managed", "needs `credential`"),
        ({"clusters": _bindings(namespaces=None)}, "clusters.managed.namespaces", "needs `namespaces`"),
        ({"clusters": _bindings(namespaces=["exchanged"])}, "clusters.managed.namespaces", "closed to every grant"),
        ({"clusters": _bindings(grantsNamespace="exchanged")}, "clusters.managed.grantsNamespace", "cannot be the"),
        ({"clusters": _bindings(credential={})}, "clusters.managed.credential", "exactly one"),
        (
            {"clusters": _bindings(credential={"tokenFile": "token", "context": "a"})},
            "clusters.managed.credential.context",
            "of a kubeconfig",
        ),
        ({"issuers": _issuer(keys={"file": "f", "jwksUrl": "https://a/b"})}, "issuers.ci.keys.file", "not both"),
        ({"issuers": _issuer(audience="https://managed.example/")}, "issuers.ci.audience", "of cluster managed"),
        ({"issuers": _issuer(), "audience": "https://managed.example"}, "audience", "of cluster managed"),
        ({"issuers": _issuer(), "issuer": "https://managed.example"}, "issuer", "of cluster managed"),
        (
            {"issuers": _issuer(audience="api"), "clusters": _bindings(audience="api")},
            "issuers.ci.audience",
            "of cluster managed",
        ),
        (
            {"issuers": _issuer(audience="https://exchanged.example/clusters/managed")},
            "issuers.ci.audience",
            "of cluster managed",
        ),
        (
            {"issuers": _pods(verification="offline", audience="https://kubernetes.default.svc.cluster.local")},
            "issuers.pods.audience",
            "of the API server of issuers.pods",
        ),
        ({"issuers": _pods()}, "issuers.pods", "verification both needs `cluster`"),
        ({"issuers": _pods(cluster="nowhere")}, "issuers.pods.cluster", "not under clusters (managed)"),
    ],
)
def test_what_keys_must_not_say_together(tmp_path: Path, changes: dict[str, Any], where: str, what: str) -> None:
    """Each contradiction is found, at its key, and it alone."""
    told = _told(tmp_path, **({"issuers": _issuer(), "doors": {}, "clusters": _bindings()} | changes))
    assert {each for each, _ in told} == {where}
    assert what in told[0][1]


def test_a_review_needs_a_credential(tmp_path: Path) -> None:
    """A cluster that is to answer TokenReviews is one at which the daemon has a credential; keys alone need none."""
    for verification in ("tokenreview", "both"):
        issuers = _pods(cluster="prod", verification=verification)
        assert _told(tmp_path, issuers=issuers) == [
            (
                "issuers.pods.cluster",
                f"verification {verification} asks cluster prod, which needs clusters.prod.credential",
            )
        ]
    assert _told(tmp_path, issuers=_pods(cluster="prod", verification="offline")) == []


def _served(folder: Path, authority: Authority) -> tuple[Path, dict[str, str]]:
    """A certificate of this authority in files, and how a door names them."""
    pair, name = authority.serving(["exchanged.example"]), authority.certificate.serial_number
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(pair.chain_pem)
    key.write_bytes(pair.key_pem)
    return certificate, {"certificate": str(certificate), "key": str(key)}


def test_certificates_that_cannot_be_served(tmp_path: Path) -> None:
    """A door's files are a chain and its key, both readable as such, that belong together."""
    authorities = [Authority.open(tmp_path / name, name, lambda: datetime.now(UTC)) for name in ("one", "other")]
    (_, one), (_, other) = (_served(tmp_path, authority) for authority in authorities)
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")

    def told(**changes: str) -> list[tuple[str, str]]:
        authorizer = {"authorizer": {"url": "https://10.0.0.5:8445"}}
        return _told(tmp_path, doors={**authorizer, "grpc": {"listen": "0.0.0.0:8443", "tls": {**one, **changes}}})

    tls = "doors.grpc.tls"
    assert told(certificateAuthority="one/ca.crt") == []
    assert told(key=other["key"]) == [(f"{tls}.key", f"{other['key']} is not the key of {one['certificate']}")]
    assert told(certificate="garbage") == [(f"{tls}.certificate", f"{garbage} holds no certificate (PEM)")]
    assert told(key="garbage") == [(f"{tls}.key", f"{garbage} holds no private key (PEM)")]
    assert told(certificateAuthority="garbage") == [
        (f"{tls}.certificateAuthority", f"{garbage} holds no certificate (PEM)")
    ]
    ((_, what),) = told(certificateAuthority="nowhere")
    assert what.endswith("nowhere cannot be used: No such file or directory")


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    """A certificate that nobody accepts any more is a fault."""
    authority = Authority.open(tmp_path / "ca", "old", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    certificate, tls = _served(tmp_path, authority)
    doors = {"authorizer": {"url": "https://10.0.0.5:8445", "tls": tls}}
    assert _told(tmp_path, doors=doors) == [("doors.authorizer.tls.certificate", f"{certificate} ended on 2020-01-08")]


def test_other_files_that_are_not_what_they_are_named_for(tmp_path: Path) -> None:
    """Keys, tokens, kubeconfigs, and the folders of policies and state are looked at too."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "no-keys.json").write_text('{"keys": []}')
    (tmp_path / "keys.json").write_text(json.dumps(FakeIssuer(url="https://ci.example").jwks()))
    for file, what in (("file", "is no JWK Set"), ("no-keys.json", "holds no key"), ("keys.json", "")):
        told = _told(tmp_path, issuers=_issuer(keys={"file": file}))
        assert [(where, what in text) for where, text in told] == ([("issuers.ci.keys.file", True)] if what else [])
    for credential, what in (({"tokenFile": "empty"}, "is empty"), ({"kubeconfig": "file"}, "is no kubeconfig")):
        ((where, text),) = _told(tmp_path, clusters=_bindings(credential=credential))
        assert (where.startswith("clusters.managed.credential."), what in text) == (True, True)
    assert [where for where, _ in _told(tmp_path, state="file", policies="file")] == ["state", "policies"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("doors.grpc.plaintext", "yes"),
        ("limits.liveGrants", "100"),
        ("limits.drain", "²s"),
        ("limits.drain", "1000000d"),
        ("doors.grpc.listen", "127.0.0.1:65536"),
    ],
)
def test_nothing_is_coerced(tmp_path: Path, key: str, value: str) -> None:
    """A word is no truth value, a text no number, and what is beyond all bounds no duration and no port."""
    room, *steps = key.split(".")
    changed: Any = {steps[-1]: value}
    if len(steps) > 1:
        changed = {"listen": "127.0.0.1:1", **changed}
        changed = {steps[0]: changed, "authorizer": {}}
    assert key in [where for where, _ in _told(tmp_path, **{room: changed})]


def _domain(**changes: Any) -> dict[str, Any]:
    """An issuer that is a trust domain, with its bundle at an endpoint."""
    usual = {"type": "spiffe", "trustDomain": "acme.example", "bundle": {"endpoint": "https://acme.example/bundle"}}
    return {name: value for name, value in (usual | changes).items() if value is not None}


_PORT = {"grpc": {"listen": "127.0.0.1:1", "svid": True}}
_API: dict[str, Any] = {"workloadApi": {"socket": "unix:///run/spire/agent.sock"}}


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"issuers": {"acme": _domain(bundle=None)}}, "issuers.acme", "give workloadApi, or bundle.file or"),
        ({"issuers": {"acme": _domain(bundle={"refresh": "1m"})}}, "issuers.acme", "give workloadApi"),
        (
            {**_API, "issuers": {"acme": _domain(bundle={"refresh": "1m"})}},
            "issuers.acme.bundle.refresh",
            "sends what is new by itself",
        ),
        (
            {"issuers": {"acme": _domain(bundle={"file": "bundle.json", "endpoint": "https://acme.example/bundle"})}},
            "issuers.acme.bundle.file",
            "file or endpoint, not both",
        ),
        (
            {"issuers": {"acme": _domain(bundle={"file": "bundle.json", "certificateAuthority": "ca.crt"})}},
            "issuers.acme.bundle.certificateAuthority",
            "of an endpoint, and there is none",
        ),
        (
            {**_API, "issuers": {"acme": _domain(bundle={"certificateAuthority": "ca.crt"})}},
            "issuers.acme.bundle.certificateAuthority",
            "of an endpoint, and there is none",
        ),
        (
            {"issuers": {"acme": _domain(), "again": _domain(svids=["jwt"])}},
            "issuers.again.trustDomain",
            "is that of issuers.acme",
        ),
        ({"issuers": {"acme": _domain(trustDomain="ACME.example")}}, "issuers.acme.trustDomain", "pattern"),
        ({"issuers": {"acme": _domain(trustDomain="spiffe://acme.example")}}, "issuers.acme.trustDomain", "pattern"),
        ({"issuers": {"acme": _domain(trustDomain="acme.example\n")}}, "issuers.acme.trustDomain", "pattern"),
        ({"issuers": {"acme": _domain(trustDomain=None)}}, "issuers.acme.trustDomain", ""),
        ({"issuers": {"acme": _domain(svids=[])}}, "issuers.acme.svids", "must not be empty"),
        ({"issuers": {"acme": _domain(svids=["wit"])}}, "issuers.acme.svids[0]", "'jwt' or 'x509'"),
        ({"issuers": {"acme": _domain(algorithms=["HS256"])}}, "issuers.acme.algorithms[0]", "'RS256'"),
        ({"issuers": {"acme": _domain(issuer="https://acme.example")}}, "issuers.acme.issuer", "unknown key"),
        (
            {"issuers": {"acme": _domain(bundle={"endpoint": "http://acme.example/b"})}},
            "issuers.acme.bundle.endpoint",
            "",
        ),
        (
            {"issuers": {"acme": _domain(audience="https://managed.example")}},
            "issuers.acme.audience",
            "cluster managed",
        ),
        ({"doors": {"grpc": {"listen": "127.0.0.1:1", "svid": True}}}, "doors.grpc.svid", "give workloadApi"),
        ({"doors": {"mtls": {"svid": True}}}, "doors.mtls.svid", "give workloadApi"),
        ({"doors": {"authorizer": {"svid": True}}}, "doors.authorizer.svid", "give workloadApi"),
        (
            {**_API, "doors": {"http": {"listen": "127.0.0.1:1", "svid": True, "plaintext": True}}},
            "doors.http.svid",
            "plaintext: true and svid: true exclude each other",
        ),
        ({"doors": {"mtls": {"plaintext": True}}}, "doors.mtls.plaintext", "unknown key"),
        ({"doors": {"mtls": {"listen": "127.0.0.1:8443"}}}, "doors.mtls.listen", "doors.grpc listens at port 8443"),
        ({"doors": {"mtls": {"listen": "0.0.0.0:8444"}}}, "doors.mtls.listen", "doors.http listens at port 8444"),
        ({"doors": {"mtls": {}}, "issuers": {"acme": _domain(svids=["jwt"])}}, "doors.mtls", "nobody can come in"),
        ({"doors": {"mtls": {}}, "issuers": _issuer()}, "doors.mtls", "nobody can come in"),
        ({"workloadApi": {"socket": "tcp://127.0.0.1:1"}}, "workloadApi.socket", "pattern"),
        ({"workloadApi": {"socket": "/run/agent.sock"}}, "workloadApi.socket", "pattern"),
        ({"workloadApi": {"spiffeId": "acme.example/web"}}, "workloadApi.spiffeId", "pattern"),
        ({"clusters": _bindings(credential={"svid": True})}, "clusters.managed.credential.svid", "give workloadApi"),
        (
            {**_API, "clusters": _bindings(credential={"svid": True, "tokenFile": "token"})},
            "clusters.managed.credential",
            "exactly one of",
        ),
    ],
)
def test_what_spiffe_keys_must_not_say_together(tmp_path: Path, changes: dict[str, Any], where: str, what: str) -> None:
    """Each contradiction of keys for trust domains and SVIDs is found, at its key, and it alone."""
    _bundle_file(tmp_path)
    (tmp_path / "ca.crt").write_bytes(TrustDomain("acme.example").x509_pem)
    told = _told(tmp_path, **({"issuers": {"acme": _domain()}, "doors": {}, "clusters": _bindings()} | changes))
    assert [each for each, _ in told] == [where]
    assert what in told[0][1]


def test_trust_domains_that_are_none_are_not_the_same(tmp_path: Path) -> None:
    """What is no name at all is told as that, and not as a name that is there twice."""
    told = _told(tmp_path, issuers={"acme": _domain(trustDomain=5), "again": _domain(trustDomain=5)})
    assert [where for where, _ in told] == ["issuers.acme.trustDomain", "issuers.again.trustDomain"]
    assert not any("is that of" in what for _, what in told)


def _bundle_file(folder: Path, content: str | None = None) -> Path:
    file = folder / "bundle.json"
    file.write_text(json.dumps(TrustDomain("acme.example").bundle()) if content is None else content)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"issuers": {"acme": _domain(bundle={"file": "bundle.json"})}},
        {**_API, "issuers": {"acme": _domain(bundle=None)}},
        {**_API, "issuers": {"acme": _domain(bundle={"staleLimit": "5m"})}},
        {"workloadApi": {}, "issuers": {"acme": _domain(bundle=None)}},
        {"issuers": {"acme": _domain(), "partner": _domain(trustDomain="partner.example")}},
        {"doors": {"mtls": {}}},
        {"doors": {"mtls": {}}, "issuers": {"acme": _domain(svids=["jwt"]), "b": _domain(trustDomain="b.example")}},
        {**_API, "doors": {"mtls": {"svid": True}, **_PORT}},
        {"doors": {"mtls": {"listen": "127.0.0.1:8445"}}},
        {**_API, "clusters": _bindings(credential={"svid": True})},
    ],
)
def test_what_spiffe_keys_may_say_together(tmp_path: Path, changes: dict[str, Any]) -> None:
    """With nothing contradictory there is nothing to tell."""
    _bundle_file(tmp_path)
    assert _told(tmp_path, **({"issuers": {"acme": _domain()}, "doors": {}, "clusters": _bindings()} | changes)) == []


def test_spiffe_faults_have_their_lines(tmp_path: Path) -> None:
    """Each fault of keys for trust domains and SVIDs is told with the line that it stands at."""
    file = tmp_path / "exchanged.yaml"
    file.write_text(
        """\
apiVersion: exchanged.dev/v1alpha1
kind: Configuration
issuer: https://exchanged.example
state: state
policies: .
doors:
  grpc:
    listen: 127.0.0.1:1
    svid: true
  mtls:
    listen: 127.0.0.1:8444
    tls: {certificate: nowhere.crt, key: nowhere.key}
issuers:
  acme:
    type: spiffe
    trustDomain: acme.example
    svids: [jwt]
  again:
    type: spiffe
    trustDomain: acme.example
    svids: [jwt]
    bundle:
      endpoint: https://acme.example/bundle
      file: nowhere.json
clusters:
  prod:
    mode: bindings
    server: https://prod.example:6443
    namespaces: [web]
    credential:
      svid: true
"""
    )
    told = run("config", "check", file, "-o", "json").json["faults"]
    assert [(fault["line"], fault["where"]) for fault in told] == [
        (9, "doors.grpc.svid"),
        (10, "doors.mtls"),
        (11, "doors.mtls.listen"),
        (12, "doors.mtls.tls.certificate"),
        (12, "doors.mtls.tls.key"),
        (14, "issuers.acme"),
        (20, "issuers.again.trustDomain"),
        (24, "issuers.again.bundle.file"),
        (24, "issuers.again.bundle.file"),
        (31, "clusters.prod.credential.svid"),
    ]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "is no bundle of a trust domain"),
        ("[]", "is no bundle of a trust domain"),
        ("{}", "is no bundle of a trust domain: no list of keys"),
        ('{"keys": [{"use": "x509-svid", "kty": "EC", "x5c": ["!"]}]}', "x5c holds no certificate"),
        ('{"keys": []}', "holds no key that an SVID"),
        (json.dumps(FakeIssuer(url="https://ci.example").jwks()), "holds no key that an SVID"),
    ],
)
def test_a_bundle_that_is_none(tmp_path: Path, content: str, what: str) -> None:
    """The file of a bundle is looked at as one; the keys of a web issuer are none."""
    _bundle_file(tmp_path, content)
    ((where, text),) = _told(tmp_path, issuers={"acme": _domain(bundle={"file": "bundle.json"})})
    assert where == "issuers.acme.bundle.file"
    assert what in text


KEYS = sorted(strict_yaml._keys(Configuration.model_json_schema()))
WORDS = ["kubernetes", "bindings", "authorizer", "both", "127.0.0.1:1", "a", "spiffe", "x509"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)
NAMED = st.fixed_dictionaries({"a": ANYTHING})


@given(ANYTHING | st.fixed_dictionaries({"doors": ANYTHING, "issuers": NAMED, "clusters": NAMED | ANYTHING}))
def test_whatever_a_file_holds(document: object) -> None:
    """Looking for contradictions never ends in an error, whatever is where something else should be."""
    assert all(what for _, what in contradictions(document))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there is wrong usage; one that is no YAML has a fault with its line."""
    assert run("config", "check", tmp_path / "nowhere").code == 2
    (tmp_path / "bad").write_text("a: 1\nb: [")
    done = run("config", "check", tmp_path / "bad", "-o", "json")
    assert (done.code, done.json["faults"][0]["line"]) == (1, 3)
    assert yaml.safe_load(done.out) == done.json
