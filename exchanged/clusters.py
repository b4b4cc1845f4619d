"""The configured clusters as modes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from exchanged.authenticate.kubernetes import TokenReviewer
from exchanged.cluster.api import KubernetesApi
from exchanged.cluster.authorizer import AuthorizerMode
from exchanged.cluster.bindings import BindingsMode
from exchanged.cluster.check import check
from exchanged.cluster.finding import Finding
from exchanged.cluster.probe import is_asked
from exchanged.cluster.rights import reviews_tokens
from exchanged.cluster.roles import WatchedRoles
from exchanged.cluster.setup import audience, token_audience
from exchanged.cluster.state import instance as instance_of
from exchanged.config import Cluster, Configuration, Credential
from exchanged.keys.certificates import Authority, FileCertificate, ServingCertificate
from exchanged.keys.signing import KeyRing
from exchanged.metrics import Metrics
from exchanged.model import ClusterName, ClusterTraits, Mode
from exchanged.ports import ClusterMode

Askers = Mapping[ClusterName, tuple[ClusterTraits, tuple[x509.Certificate, ...]]]


@dataclass(slots=True)
class Clusters:
    """All of them, and the connections that the daemon has to some."""

    modes: dict[ClusterName, ClusterMode] = field(default_factory=dict)
    apis: dict[ClusterName, KubernetesApi] = field(default_factory=dict)
    roles: dict[ClusterName, WatchedRoles] = field(default_factory=dict)
    certificates: dict[ClusterName, ServingCertificate] = field(default_factory=dict)
    """What the daemon shows some of them, instead of a token."""

    @classmethod
    def build(
        cls,
        configuration: Configuration,
        *,
        instance: str,
        keys: KeyRing,
        metrics: Metrics,
        svid: ServingCertificate | None = None,
    ) -> "Clusters":
        """The clusters of a configuration; `svid` is the daemon's own, where it has one."""
        clusters = cls()
        for text, settings in configuration.clusters.items():
            name = ClusterName(text)
            traits = traits_of(name, settings)
            if settings.credential is not None:
                certificate = client_certificate(settings.credential, svid)
                if certificate is not None:
                    clusters.certificates[name] = certificate
                clusters.apis[name] = api_of(name, settings, partial(metrics.cluster_call, name), certificate)
            if traits.mode is Mode.AUTHORIZER:
                clusters.modes[name] = AuthorizerMode(
                    traits=traits, keys=keys, issuer=configuration.issuer, audience=audience(configuration, name)
                )
            else:
                clusters.modes[name] = clusters._bindings(traits, settings, instance)
        return clusters

    def reviewer(self, name: ClusterName) -> TokenReviewer:
        """The cluster as one that can be asked about tokens.

        Raises:
            ValueError: the daemon has no credential there.
        """
        if name not in self.apis:
            raise ValueError(f"TokenReview at cluster {name} needs clusters.{name}.credential")
        return self.apis[name]

    def unready(self) -> Mapping[str, str | None]:
        """By name, why no grant could be issued now, or None."""
        return {name: mode.unready() for name, mode in self.modes.items()}

    def on_role_change(self, tell: Callable[[ClusterName], Awaitable[None]]) -> None:
        """Who is told when a cluster role that grants may be bound to has changed."""
        for name, roles in self.roles.items():
            roles.on_change = partial(tell, name)

    def askers(self, configuration: Configuration, clock: Callable[[], datetime]) -> Askers:
        """For the authorizer's door: each cluster's traits, and who vouches for its certificate."""
        found = {}
        for name, mode in self.modes.items():
            if mode.traits.mode is Mode.AUTHORIZER:
                found[name] = (mode.traits, client_authorities(configuration, name, clock))
        return found

    async def close(self) -> None:
        """Lets go of connections."""
        for api in self.apis.values():
            await api.close()

    def _bindings(self, traits: ClusterTraits, settings: Cluster, instance: str) -> BindingsMode:
        api, listed = self.apis[traits.name], frozenset(settings.cluster_roles)
        self.roles[traits.name] = WatchedRoles(api=api, names=listed)
        return BindingsMode(
            traits=traits,
            api=api,
            roles=self.roles[traits.name],
            instance=instance,
            grants_namespace=settings.grants_namespace,
            namespaces=frozenset(settings.namespaces),
            audience=token_audience(settings),
            listed_roles=listed,
        )


def traits_of(name: ClusterName, settings: Cluster) -> ClusterTraits:
    """What decisions and clients have to know of a cluster.

    Raises:
        OSError, ValueError: the file with its CA cannot be used.
    """
    authority = settings.certificate_authority
    return ClusterTraits(
        name=name,
        mode=Mode(settings.mode),
        resource=settings.server,
        max_lifetime=settings.max_lifetime,
        certificate_authority=_certificates(authority) if authority else "",
        fenced_roles=settings.fenced_roles,
        breeding=frozenset(settings.allow),
        closed_namespaces=frozenset({settings.grants_namespace, settings.daemon_namespace}),
    )


def _certificates(path: Path) -> str:
    """The certificates of a file alone: what else is in it, a comment or a key, is not for clients."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} holds no certificate (PEM)") from error
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in found)


def client_certificate(credential: Credential, svid: ServingCertificate | None) -> ServingCertificate | None:
    """What the daemon shows a cluster, where it shows a certificate.

    Raises:
        OSError, ValueError: the files cannot be used, or there is no Workload API for an SVID.
    """
    if credential.tls is not None:
        files = credential.tls
        return FileCertificate(certificate=files.certificate, key=files.key, certificate_authority=None)
    if credential.svid and svid is None:
        raise ValueError("a credential of an SVID needs `workloadApi`")
    return svid if credential.svid else None


def api_of(
    name: ClusterName,
    settings: Cluster,
    observe: Callable[[str], None],
    certificate: ServingCertificate | None = None,
) -> KubernetesApi:
    """The daemon's connection to a cluster.

    Raises:
        ValueError: it has no credential there.
    """
    if settings.credential is None:
        raise ValueError(f"clusters.{name} has no credential")
    return KubernetesApi(
        name=name,
        server=settings.server,
        certificate_authority=settings.certificate_authority,
        credential=settings.credential,
        certificate=certificate,
        time_out=settings.time_out.total_seconds(),
        observe=observe,
    )


async def checked(
    configuration: Configuration,
    name: ClusterName,
    clock: Callable[[], datetime],
    svid: ServingCertificate | None = None,
) -> list[Finding]:
    """What is wrong at a cluster, or wider than it looks: as the daemon, and in mode `authorizer` as its clients too.

    Raises:
        ClusterUnavailable: it does not answer.
        OSError, ValueError: the state folder lacks what has to be compared.
    """
    settings, findings = configuration.clusters[name], []
    if settings.mode == "authorizer":
        findings += [finding async for finding in is_asked(configuration, name, clock)]
    if settings.credential is not None:
        certificate = client_certificate(settings.credential, svid)
        if certificate is not None:
            await certificate.available()
        api = api_of(name, settings, lambda _: None, certificate)
        instance = instance_of(configuration.state) if settings.mode == "bindings" else ""
        reviewing = reviews_tokens(configuration, name)
        try:
            findings += await check(name, settings, api, instance=instance, reviewing_tokens=reviewing)
        finally:
            await api.close()
    return findings


def client_authorities(
    configuration: Configuration, name: ClusterName, clock: Callable[[], datetime]
) -> tuple[x509.Certificate, ...]:
    """Who vouches for the certificate with which a cluster asks the authorizer."""
    file = configuration.clusters[name].client_certificate_authority
    if file is not None:
        return tuple(x509.load_pem_x509_certificates(file.read_bytes()))
    return (client_authority(configuration, name, clock).certificate,)


def client_authority(configuration: Configuration, name: ClusterName, clock: Callable[[], datetime]) -> Authority:
    """The daemon's own client CA for a cluster."""
    return Authority.open(configuration.state / "clusters" / name, f"exchanged clients of {name}", clock)
