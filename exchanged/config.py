"""The daemon's settings: one YAML file, strict; each class is also its JSON Schema (`exchanged config schema`).

What keys say together is looked at where the file is read, in `contradictions.py`: there every fault has its line.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

from exchanged.spiffe_id import SCHEME, SEGMENT, TRUST_DOMAIN

OWN_CLUSTER = "exchanged"
"""The daemon itself as a target, so no cluster may be called that."""
GRANT_CEILING = timedelta(hours=12)
"""No grant lives longer, whatever a configuration says."""
TOKEN_REQUEST_FLOOR = timedelta(seconds=600)
"""Kubernetes issues no service account token for less."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = r"^[0-9]{1,6}[smhd]$"
"""Six digits of days are 2,700 years; more would be beyond what a date can be."""


def _duration(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_DURATION, value):
        return timedelta(seconds=int(value[:-1]) * _UNITS[value[-1]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("a duration is a whole number with s, m, h or d: 90s, 15m, 1h")


def _within_ceiling(value: timedelta) -> timedelta:
    if value > GRANT_CEILING:
        raise ValueError("is over the ceiling of 12h")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, StringConstraints(pattern=_DURATION)]),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")]
"""A DNS label of at most 40 characters: it becomes part of names at clusters."""
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,512}$")]
"""As an API server has it: a service account, a certificate's common name, or what a cloud calls its identities."""
HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[^\s?#]+$")]
_PORT = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
Address = Annotated[str, StringConstraints(pattern=rf"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):{_PORT}$")]
"""host:port; port 0 lets the kernel choose."""


class Settings(BaseModel):
    """Strict: an unknown key is an error, and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Tls(Settings):
    """Files with a certificate chain and its key; read again when they change.

    `certificateAuthority` is what clients need to trust the chain; left out where public roots vouch for it.
    """

    certificate: Path
    key: Path
    certificate_authority: Path | None = None


class Door(Settings):
    """An address to listen at. Without `tls` or `svid` the daemon serves a certificate of its own development CA."""

    listen: Address
    tls: Tls | None = None
    svid: StrictBool = False
    plaintext: StrictBool = False


class MutualDoor(Settings):
    """gRPC for callers that show an X.509-SVID of their own."""

    listen: Address = "127.0.0.1:8446"
    tls: Tls | None = None
    svid: StrictBool = False


class AuthorizerDoor(Settings):
    """Where API servers ask whether a grant's request is allowed; client certificates required."""

    listen: Address = "127.0.0.1:8445"
    url: HttpsUrl | None = None
    tls: Tls | None = None
    svid: StrictBool = False


class Doors(Settings):
    """The addresses."""

    grpc: Door = Door(listen="127.0.0.1:8443")
    http: Door = Door(listen="127.0.0.1:8444")
    mtls: MutualDoor | None = None
    authorizer: AuthorizerDoor | None = None
    admin_socket: Path | None = None


class Keys(Settings):
    """Where an issuer's keys come from: discovery by default, or a JWKS at a fixed URL or in a file."""

    jwks_url: HttpsUrl | None = None
    file: Path | None = None
    certificate_authority: Path | None = None
    bearer_token_file: Path | None = None
    refresh: Duration = timedelta(minutes=10)
    stale_limit: Duration = timedelta(hours=1)


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


class _Tokens(Settings):
    audience: str | None = None
    allow_several_audiences: StrictBool = False
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    max_lifetime: Duration = timedelta(hours=1)
    leeway: Duration = timedelta(seconds=30)


class _Issuer(_Tokens):
    issuer: HttpsUrl
    keys: Keys = Keys()


class OidcIssuer(_Issuer):
    """An OpenID Connect provider: a CI system, or any other."""

    type: Literal["oidc"]
    profile: Literal["github", "gitlab", "plain"] = "plain"
    job_uses: StrictInt = Field(default=32, ge=1, le=10_000)
    single_use: StrictBool | None = None
    person: StrictBool = False


class KubernetesIssuer(_Issuer):
    """A cluster whose projected service account tokens are accepted."""

    type: Literal["kubernetes"]
    issuer: HttpsUrl = "https://kubernetes.default.svc.cluster.local"
    verification: Literal["offline", "tokenreview", "both"] = "both"
    cluster: Name | None = None
    max_lifetime: Duration = timedelta(hours=24)


class Bundle(Settings):
    """Where a trust domain's bundle comes from: the Workload API, a file, or a bundle endpoint (`https_web`).

    Without `refresh`, as often as the bundle itself hints.
    """

    file: Path | None = None
    endpoint: HttpsUrl | None = None
    certificate_authority: Path | None = None
    refresh: Duration | None = None
    stale_limit: Duration = timedelta(hours=1)


class SpiffeIssuer(_Tokens):
    """A SPIFFE trust domain whose SVIDs are accepted."""

    type: Literal["spiffe"]
    trust_domain: Annotated[str, StringConstraints(pattern=f"^{TRUST_DOMAIN}$")]
    svids: tuple[Literal["jwt", "x509"], ...] = Field(default=("jwt", "x509"), min_length=1)
    bundle: Bundle = Bundle()
    algorithms: tuple[Algorithm, ...] = Field(default=get_args(Algorithm), min_length=1)

    @property
    def from_workload_api(self) -> bool:
        """Whether its bundle comes from the Workload API."""
        return self.bundle.file is None and self.bundle.endpoint is None


Issuer = Annotated[OidcIssuer | KubernetesIssuer | SpiffeIssuer, Field(discriminator="type")]


class WorkloadApi(Settings):
    """The SPIFFE Workload API by which the daemon has bundles, and an SVID of its own.

    `socket` as in SPIFFE_ENDPOINT_SOCKET, whose value holds without it; `spiffeId` chooses among several SVIDs.
    """

    socket: Annotated[str, StringConstraints(pattern=r"^unix:/[^\x00?#]+$")] | None = None
    spiffe_id: Annotated[str, StringConstraints(pattern=rf"^{SCHEME}{TRUST_DOMAIN}(/{SEGMENT})+$")] | None = None


class Credential(Settings):
    """The daemon's own credential at a cluster: a token file that is read again, a kubeconfig, or a client certificate.

    The certificate is the daemon's own X.509-SVID (`svid`), or in files that are read again when they change (`tls`).
    """

    token_file: Path | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    tls: Tls | None = None
    svid: StrictBool = False


BreedingClass = Literal["workloads", "secrets", "exec", "tokens", "rbac", "impersonate", "wildcard", "nodes"]


class Cluster(Settings):
    """A target cluster.

    `server` is what clients use; `allow` lists the classes of breeding rules that this cluster admits at all;
    `clientCertificateAuthority` vouches for the certificate with which this API server asks the authorizer (mode
    `authorizer`; without it the daemon keeps a client CA for each cluster in its state folder); `daemonUser` is the
    name by which this API server knows the daemon, where it is not service account `exchanged` of `daemonNamespace`.
    """

    mode: Literal["authorizer", "bindings"]
    server: HttpsUrl
    certificate_authority: Path | None = None
    credential: Credential | None = None
    audience: str | None = None
    client_certificate_authority: Path | None = None
    grants_namespace: Namespace = "exchanged-grants"
    daemon_namespace: Namespace = "exchanged"
    daemon_user: UserName | None = None
    fenced_roles: StrictBool = False
    cluster_roles: tuple[str, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    allow: tuple[BreedingClass, ...] = ()
    max_lifetime: Annotated[Duration, AfterValidator(_within_ceiling)] = timedelta(hours=1)
    time_out: Duration = timedelta(seconds=10)


class Limits(Settings):
    """Bounds on everything expensive."""

    live_grants_per_subject: StrictInt = Field(default=200, ge=1)
    live_grants: StrictInt = Field(default=100_000, ge=1)
    requests_in_flight: StrictInt = Field(default=1_000, ge=1)
    connections: StrictInt = Field(default=2_000, ge=16, le=100_000)
    request_bytes: StrictInt = Field(default=64 * 1024, ge=16 * 1024, le=4 * 1024 * 1024)
    exchange_time_out: Duration = timedelta(seconds=15)
    drain: Duration = timedelta(seconds=20)
    unverified_records_per_minute: StrictInt = Field(default=60, ge=0)


class SigningKeys(Settings):
    """How the daemon's own keys roll over: published ahead of use, kept published until their last token has ended."""

    algorithm: Literal["ES256"] = "ES256"
    rotate_after: Duration = timedelta(days=30)
    publish_ahead: Duration = timedelta(hours=24)


class Configuration(Settings):
    """The whole file."""

    api_version: Literal["exchanged.dev/v1alpha1"]
    kind: Literal["Configuration"]
    issuer: HttpsUrl
    audience: str | None = None
    state: Path
    policies: Path
    doors: Doors = Doors()
    issuers: dict[Name, Issuer] = Field(min_length=1)
    clusters: dict[Name, Cluster] = Field(min_length=1)
    workload_api: WorkloadApi | None = None
    limits: Limits = Limits()
    signing_keys: SigningKeys = SigningKeys()

    @property
    def own_audience(self) -> str:
        """The audience that subject tokens are made out to, unless an issuer says otherwise."""
        return self.audience or self.issuer

    @property
    def admin_socket(self) -> Path:
        """The local socket for the daemon's own management."""
        return self.doors.admin_socket or self.state / "admin.sock"
