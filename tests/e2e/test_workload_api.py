"""The `spiffe` library, unmodified, against the Workload API for tests: what it does, and what it lets pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from cryptography import x509
from spiffe import JwtBundleSet, JwtSvid, SpiffeId, WorkloadApiClient
from spiffe import TrustDomain as Name
from spiffe.errors import ArgumentError
from spiffe.workloadapi.errors import (
    FetchJwtBundleError,
    FetchJwtSvidError,
    FetchX509BundleError,
    FetchX509SvidError,
    ValidateJwtSvidError,
)
from spiffe.workloadapi.workload_api_client import RetryPolicy
from spiffe.workloadapi.x509_context import X509Context

from tests.issuers import AUDIENCE
from tests.spiffe.answers import Identity
from tests.spiffe.endpoint import PATIENCE_SECONDS
from tests.spiffe.malformed import Malformed
from tests.spiffe.pki import TrustDomain
from tests.spiffe.workload_api import WorkloadApi

DEPLOYER = "spiffe://acme.example/ns/web/sa/deployer"
INTERNAL = "spiffe://acme.example/internal"
AT_ONCE = RetryPolicy(base_backoff_in_seconds=0.01, max_backoff=0.05)
Open = Callable[..., Any]


@pytest.fixture
def partner() -> TrustDomain:
    """A trust domain that ours is federated with."""
    return TrustDomain("partner.example")


@pytest.fixture
def api(tmp_path: Path, partner: TrustDomain) -> Iterator[WorkloadApi]:
    """An API whose caller has two identities, the second below an intermediate."""
    home = TrustDomain("acme.example")
    identities = [Identity(), Identity(path="/internal", hint="internal", under=home.intermediate())]
    with WorkloadApi.served(tmp_path / "api.sock", home, federated=[partner], identities=identities) as serving:
        yield serving


@pytest.fixture
def client(api: WorkloadApi) -> Iterator[WorkloadApiClient]:
    """The library's client."""
    with WorkloadApiClient(api.address, default_timeout=PATIENCE_SECONDS) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Watched:
    """What a stream brought."""

    _updates: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    _errors: SimpleQueue[Exception] = field(default_factory=SimpleQueue)

    @classmethod
    @contextmanager
    def by(cls, opening: Open, *, retry: bool = True) -> Iterator["Watched"]:
        """A stream that this opens."""
        watched = cls()
        handler = opening(watched._updates.put, watched._errors.put, retry_connect=retry, retry_policy=AT_ONCE)
        try:
            yield watched
        finally:
            handler.cancel()

    def next(self) -> Any:
        """The next update."""
        return self._updates.get(timeout=PATIENCE_SECONDS)

    def error(self) -> str:
        """The error that ended it."""
        return str(self._errors.get(timeout=PATIENCE_SECONDS))

    def silent(self) -> bool:
        """Whether nothing waits to be seen."""
        return self._updates.empty() and self._errors.empty()


def _serials(context: X509Context) -> list[int]:
    return [each.leaf.serial_number for each in context.x509_svids]


def _authorities(bundles: Any, name: str) -> set[x509.Certificate] | None:
    bundle = bundles.get_bundle_for_trust_domain(Name(name))
    return bundle.x509_authorities if bundle else None


def _keys(bundles: JwtBundleSet, name: str) -> set[str]:
    bundle = bundles.get_bundle_for_trust_domain(Name(name))
    return set(bundle.jwt_authorities) if bundle else set()


def test_the_x509_context(client: WorkloadApiClient, api: WorkloadApi, partner: TrustDomain) -> None:
    """All SVIDs with their chains, and the bundles of the home domain and of those it is federated with."""
    context = client.fetch_x509_context()
    assert [str(each.spiffe_id) for each in context.x509_svids] == [DEPLOYER, INTERNAL]
    assert [tuple(each.cert_chain) for each in context.x509_svids] == [
        api.svid(each).certificates for each in api.identities
    ]
    assert _authorities(context.x509_bundle_set, "acme.example") == set(api.home.authorities)
    assert _authorities(context.x509_bundle_set, "partner.example") == set(partner.authorities)


def test_x509_bundles(client: WorkloadApiClient, api: WorkloadApi, partner: TrustDomain) -> None:
    """The bundles can be had without an SVID, with what is prepared."""
    api.home.prepare()
    bundles = client.fetch_x509_bundles()
    assert _authorities(bundles, "acme.example") == set(api.home.authorities)
    assert _authorities(bundles, "partner.example") == set(partner.authorities)
    assert len(api.home.authorities) == 2


def test_jwt_svids(client: WorkloadApiClient) -> None:
    """A JWT-SVID for each identity, or for the one that is asked for, which the JWT bundles verify."""
    assert [str(each.spiffe_id) for each in client.fetch_jwt_svids({AUDIENCE})] == [DEPLOYER, INTERNAL]
    svid = client.fetch_jwt_svid({AUDIENCE, "other"}, SpiffeId(INTERNAL))
    assert (str(svid.spiffe_id), set(svid.audience)) == (INTERNAL, {AUDIENCE, "other"})
    bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(Name("acme.example"))
    assert bundle is not None
    assert str(JwtSvid.parse_and_validate(svid.token, bundle, {AUDIENCE}).spiffe_id) == INTERNAL


def test_jwt_bundles(client: WorkloadApiClient, api: WorkloadApi, partner: TrustDomain) -> None:
    """All keys of all domains, by their ids."""
    api.home.rotate()
    bundles = client.fetch_jwt_bundles()
    assert _keys(bundles, "acme.example") == {each["kid"] for each in api.home.jwks()["keys"]}
    assert _keys(bundles, "partner.example") == {partner.kid}


def test_jwt_svids_are_validated(client: WorkloadApiClient, partner: TrustDomain) -> None:
    """The API validates JWT-SVIDs of all domains whose bundles it has, and no others."""
    svid = client.validate_jwt_svid(partner.jwt("/x"), AUDIENCE)
    assert str(svid.spiffe_id) == "spiffe://partner.example/x"
    for bad in (
        partner.jwt(audience="other"),
        partner.jwt(lifetime=timedelta(minutes=-1)),
        TrustDomain("partner.example").jwt(),
        TrustDomain("elsewhere.example").jwt(),
    ):
        with pytest.raises(ValidateJwtSvidError, match="INVALID_ARGUMENT"):
            client.validate_jwt_svid(bad, AUDIENCE)


def test_without_an_identity(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """Who has no identity gets PERMISSION_DENIED, also on a stream that was open, and bundles all the same."""
    with Watched.by(client.stream_x509_contexts, retry=False) as watched:
        watched.next()
        api.identities = []
        api.push()
        assert "PERMISSION_DENIED" in watched.error()
    with pytest.raises(FetchX509SvidError, match="PERMISSION_DENIED"):
        client.fetch_x509_context()
    with pytest.raises(FetchJwtSvidError, match="PERMISSION_DENIED"):
        client.fetch_jwt_svid({AUDIENCE})
    assert client.fetch_x509_bundles()


def test_rotation_is_watched(client: WorkloadApiClient, api: WorkloadApi, partner: TrustDomain) -> None:
    """Every change comes in its turn, complete; what is redacted is gone."""
    with Watched.by(client.stream_x509_contexts) as watched:
        first = watched.next()
        api.rotate_svid()
        second = watched.next()
        assert not set(_serials(first)) & set(_serials(second))
        api.rotate_authorities()
        third = watched.next()
        assert _authorities(third.x509_bundle_set, "acme.example") == set(api.home.authorities)
        assert third.default_svid.leaf.issuer == api.home.authorities[1].subject
        api.home.drop_old()
        partner.rotate()
        api.push()
        fourth = watched.next()
        assert _serials(fourth) == _serials(third)
        assert _authorities(fourth.x509_bundle_set, "acme.example") == set(api.home.authorities)
        assert _authorities(fourth.x509_bundle_set, "partner.example") == set(partner.authorities)
        api.remove_federated("partner.example")
        assert _authorities(watched.next().x509_bundle_set, "partner.example") is None
        api.add_federated(partner)
        assert _authorities(watched.next().x509_bundle_set, "partner.example") == set(partner.authorities)
        assert watched.silent()
    api.wait_open(0)


def test_jwt_rotation_is_watched(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """JWT bundles are pushed likewise."""
    with Watched.by(client.stream_jwt_bundles) as watched:
        old = _keys(watched.next(), "acme.example")
        api.home.prepare()
        api.push()
        assert _keys(watched.next(), "acme.example") > old
        api.home.activate()
        api.home.drop_old()
        api.push()
        assert _keys(watched.next(), "acme.example") == {api.home.kid}
        assert api.home.kid not in old


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(lambda api: api.break_streams(), id="broken"),
        pytest.param(lambda api: api.end_streams(), id="ended"),
        pytest.param(lambda api: api.break_streams(grpc.StatusCode.PERMISSION_DENIED), id="denied"),
        pytest.param(lambda api: (api.stop(), api.start()), id="restarted"),
    ],
)
def test_streams_are_opened_anew(
    client: WorkloadApiClient, api: WorkloadApi, disturb: Callable[[WorkloadApi], object]
) -> None:
    """However a stream ends, another call is made, and begins with what holds now; nobody is told of the end."""
    with Watched.by(client.stream_x509_contexts) as watched:
        first = watched.next()
        api.rotate_svid()
        watched.next()
        disturb(api)
        assert not set(_serials(watched.next())) & set(_serials(first))
        api.wait_calls("FetchX509SVID", 2)
        assert watched.silent()
    api.wait_open(0)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED])
def test_some_ends_are_final(client: WorkloadApiClient, api: WorkloadApi, code: grpc.StatusCode) -> None:
    """After INVALID_ARGUMENT and CANCELLED the library gives up and says so."""
    with Watched.by(client.stream_x509_contexts) as watched:
        watched.next()
        api.break_streams(code)
        assert code.name in watched.error()
    assert api.calls["FetchX509SVID"] == 1


def test_calls_are_refused_until_it_recovers(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """Refused are new calls only, and only the methods that were named; retries go on until they come through."""
    with Watched.by(client.stream_jwt_bundles) as open_before:
        open_before.next()
        api.fail(grpc.StatusCode.UNAVAILABLE, "FetchX509SVID")
        assert client.fetch_x509_bundles()
        with pytest.raises(FetchX509SvidError, match="UNAVAILABLE"):
            client.fetch_x509_context()
        with Watched.by(client.stream_x509_contexts) as watched:
            api.wait_calls("FetchX509SVID", 4)
            assert watched.silent()
            api.recover()
            watched.next()
        open_before.next()
        assert open_before.silent()


def test_an_api_that_hangs(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """Calls are accepted and nothing comes, on any stream, until it recovers; a deadline ends the wait."""
    with Watched.by(client.stream_x509_contexts) as open_before:
        open_before.next()
        api.hang()
        api.rotate_svid()
        for fetch in (client.fetch_x509_context, client.fetch_jwt_bundles):
            with pytest.raises((FetchX509SvidError, FetchJwtBundleError), match="DEADLINE_EXCEEDED"):
                fetch(timeout=0.05)
        with pytest.raises(FetchJwtSvidError, match="DEADLINE_EXCEEDED"):
            client.fetch_jwt_svid({AUDIENCE}, timeout=0.05)
        with Watched.by(client.stream_jwt_bundles) as opened_meanwhile:
            api.wait_open(1, "FetchJWTBundles")
            assert open_before.silent()
            assert opened_meanwhile.silent()
            api.recover()
            open_before.next()
            opened_meanwhile.next()


def test_a_missing_socket(api: WorkloadApi) -> None:
    """The library makes no client for a socket that is not there yet."""
    api.stop()
    with pytest.raises(ArgumentError, match="does not exist"):
        WorkloadApiClient(api.address)
    api.start()
    with WorkloadApiClient(api.address) as client:
        assert client.fetch_x509_svid()


CERTIFICATE = "Unable to parse DER X.509 certificate"
JWKS = "does not represent a valid jwks"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no-svids", "X.509 SVID list cannot be empty"),
        ("without-certificate", CERTIFICATE),
        ("without-key", "Error parsing private key"),
        ("without-bundle", CERTIFICATE),
        ("garbage-certificate", CERTIFICATE),
        ("garbage-key", "Error parsing private key"),
        ("garbage-bundle", CERTIFICATE),
        ("empty-federated-bundle", CERTIFICATE),
        ("garbage-federated-bundle", CERTIFICATE),
    ],
)
def test_a_malformed_x509_update_ends_the_stream(
    client: WorkloadApiClient, api: WorkloadApi, kind: Malformed, said: str
) -> None:
    """One malformed update, even of a domain nobody asked for, and the library follows no more; its call stays open."""
    with Watched.by(client.stream_x509_contexts) as watched:
        watched.next()
        api.malformed(kind)
        assert said in watched.error()
        api.recover()
        assert api.open_streams() == api.calls["FetchX509SVID"] == 1
    api.wait_open(0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("jwks-not-json", JWKS), ("jwks-without-kid", '"keyID" cannot be empty'), ("garbage-federated-bundle", JWKS)],
)
def test_a_malformed_jwt_update_ends_the_stream(
    client: WorkloadApiClient, api: WorkloadApi, kind: Malformed, said: str
) -> None:
    """The same for JWT bundles."""
    with Watched.by(client.stream_jwt_bundles) as watched:
        watched.next()
        api.malformed(kind)
        assert said in watched.error()
    with pytest.raises(FetchJwtBundleError, match="Error parsing JWT bundle"):
        client.fetch_jwt_bundles()


@pytest.mark.parametrize(
    "kind", ["without-spiffe-id", "key-does-not-fit", "other-id", "other-trust-domain", "unknown-authority"]
)
def test_what_the_library_lets_pass(client: WorkloadApiClient, api: WorkloadApi, kind: Malformed) -> None:
    """The library does not look at these: neither at the ID beside the certificate, nor whether key and issuer fit."""
    api.malformed(kind)
    assert client.fetch_x509_context()
    assert client.fetch_jwt_svid({AUDIENCE})


def test_a_foreign_svid_brings_our_bundle_along(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """The bundle beside an SVID is taken for that of the domain in its certificate, whatever the message says."""
    api.malformed("other-trust-domain")
    bundles = client.fetch_x509_context().x509_bundle_set
    assert _authorities(bundles, "elsewhere.example") == set(api.home.authorities)


def test_expired_svids_pass(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """Nor does it look at validity."""
    api.rotate_svid(lifetime=timedelta(seconds=-1))
    assert str(client.fetch_x509_svid().spiffe_id) == DEPLOYER


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"uris": ()}, "SubjectAlternativeName"),
        ({"uris": (DEPLOYER, INTERNAL)}, "multiple URI SAN"),
        ({"uris": ("spiffe://acme.example",)}, "must not be a trust domain root"),
        ({"ca": True}, "CA flag"),
        ({"basic": False}, "must have BasicConstraints"),
        ({"usage": None}, "must have KeyUsage"),
        ({"usage": {"key_agreement"}}, "digitalSignature"),
        ({"usage": {"digital_signature", "key_cert_sign"}}, "keyCertSign"),
    ],
)
def test_what_the_library_sees(client: WorkloadApiClient, api: WorkloadApi, faults: dict[str, Any], said: str) -> None:
    """It does see a leaf that is none."""
    api.rotate_svid(**faults)
    with pytest.raises(FetchX509SvidError, match=said):
        client.fetch_x509_context()


def test_empty_answers(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """It sees answers without SVIDs and, other than on a stream, without bundles."""
    api.malformed("no-svids")
    with pytest.raises(FetchX509SvidError, match="empty"):
        client.fetch_x509_context()
    with pytest.raises(FetchJwtSvidError, match="empty"):
        client.fetch_jwt_svid({AUDIENCE})
    api.malformed("no-bundles")
    with pytest.raises(FetchX509BundleError, match="empty"):
        client.fetch_x509_bundles()
    with pytest.raises(FetchJwtBundleError, match="empty"):
        client.fetch_jwt_bundles()
    with Watched.by(client.stream_jwt_bundles) as watched:
        assert not watched.next().bundles


def test_an_update_that_cannot_be_used_ends_the_stream(client: WorkloadApiClient, api: WorkloadApi) -> None:
    """An exception out of the callback counts as a malformed update."""
    errors: SimpleQueue[Exception] = SimpleQueue()

    def fail(_context: X509Context) -> None:
        raise ValueError("not now")

    handler = client.stream_x509_contexts(fail, errors.put, retry_policy=AT_ONCE)
    assert "not now" in str(errors.get(timeout=PATIENCE_SECONDS))
    handler.cancel()
    api.wait_open(0)
