"""The configured issuers as authenticators."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Protocol

from exchanged.authenticate.bundles import Authorities, Published, TrustBundle
from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.fetched import Fetched
from exchanged.authenticate.jws import Accepted, Expected
from exchanged.authenticate.keysets import KeySet, Source
from exchanged.authenticate.kubernetes import KubernetesAuthenticator
from exchanged.authenticate.oidc import OidcAuthenticator
from exchanged.authenticate.profiles import BY_NAME
from exchanged.authenticate.sources import FileSource, HttpSource
from exchanged.authenticate.spiffe import SpiffeAuthenticator
from exchanged.clusters import Clusters
from exchanged.config import Configuration, KubernetesIssuer, OidcIssuer, SpiffeIssuer
from exchanged.metrics import Metrics
from exchanged.model import ClusterName, IdentityKind, IssuerName
from exchanged.ports import Authenticator

FILE_REFRESH = timedelta(seconds=5)
"""How often a bundle in a file is looked at: nobody hints, and a caller that its new authority vouches for does not get
through a handshake before."""


class WorkloadApi(Protocol):
    """Where the bundles of trust domains come from that have no source of their own."""

    def of(self, trust_domain: str, stale_limit: timedelta) -> TrustBundle:
        """The bundle of one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Issuers:
    """All of them."""

    each: Sequence[Authenticator]
    authenticators: Authenticators

    @classmethod
    def build(
        cls,
        configuration: Configuration,
        *,
        clusters: Clusters,
        workload_api: WorkloadApi | None,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> "Issuers":
        """The issuers of a configuration."""
        builder = _Builder(configuration, clusters, workload_api, metrics, clock)
        each = [builder.authenticator(IssuerName(name), issuer) for name, issuer in configuration.issuers.items()]
        authenticators = Authenticators(
            authenticators=each,
            own_issuer=configuration.issuer,
            certificates=[one for one in each if isinstance(one, SpiffeAuthenticator)],
        )
        return cls(each, authenticators)

    def unready(self) -> Mapping[str, str | None]:
        """By name, why an issuer's tokens could not be verified now, or None."""
        return {authenticator.name: authenticator.unready() for authenticator in self.each}

    def roots(self) -> tuple[Authorities, ...]:
        """All who may have issued a caller's certificate: for the handshake, which knows one pool."""
        return tuple(each.roots() for each in self.each if isinstance(each, SpiffeAuthenticator))


@dataclass(frozen=True, slots=True)
class _Builder:
    configuration: Configuration
    clusters: Clusters
    workload_api: WorkloadApi | None
    metrics: Metrics
    clock: Callable[[], datetime]

    def authenticator(self, name: IssuerName, issuer: OidcIssuer | KubernetesIssuer | SpiffeIssuer) -> Authenticator:
        accepted = Accepted(
            audience=issuer.audience or self.configuration.own_audience,
            allow_several_audiences=issuer.allow_several_audiences,
            algorithms=frozenset(issuer.algorithms),
            max_lifetime=issuer.max_lifetime,
            leeway=issuer.leeway,
        )
        if isinstance(issuer, SpiffeIssuer):
            return self._spiffe(name, issuer, accepted)
        expected = Expected(**asdict(accepted), issuer=issuer.issuer)
        if isinstance(issuer, OidcIssuer):
            return self._oidc(name, issuer, expected)
        return self._kubernetes(name, issuer, expected)

    def _oidc(self, name: IssuerName, issuer: OidcIssuer, expected: Expected) -> OidcAuthenticator:
        profile = BY_NAME[issuer.profile]
        return OidcAuthenticator(
            name=name,
            expected=expected,
            keys=self._keys(name, issuer),
            profile=profile,
            single_use=profile.single_use if issuer.single_use is None else issuer.single_use,
            job_uses=issuer.job_uses,
            kind=IdentityKind.PERSON if issuer.person else IdentityKind.WORKLOAD,
        )

    def _kubernetes(self, name: IssuerName, issuer: KubernetesIssuer, expected: Expected) -> KubernetesAuthenticator:
        reviewed = issuer.verification != "offline" and issuer.cluster is not None
        closed = {cluster.grants_namespace for cluster in self.configuration.clusters.values()}
        return KubernetesAuthenticator(
            name=name,
            expected=expected,
            keys=self._keys(name, issuer) if issuer.verification != "tokenreview" else None,
            reviewer=self.clusters.reviewer(ClusterName(issuer.cluster or "")) if reviewed else None,
            closed_namespaces=frozenset(closed),
        )

    def _spiffe(self, name: IssuerName, issuer: SpiffeIssuer, accepted: Accepted) -> SpiffeAuthenticator:
        return SpiffeAuthenticator(
            name=name,
            trust_domain=issuer.trust_domain,
            accepted=accepted,
            svids=frozenset(issuer.svids),
            bundle=self._bundle(name, issuer, accepted.algorithms),
        )

    def _bundle(self, name: IssuerName, issuer: SpiffeIssuer, algorithms: frozenset[str]) -> TrustBundle:
        settings, refresh = issuer.bundle, issuer.bundle.refresh
        source: Source
        if settings.file is not None:
            source, refresh = FileSource(settings.file), refresh or FILE_REFRESH
        elif settings.endpoint is not None:
            source = HttpSource(url=settings.endpoint, certificate_authority=settings.certificate_authority)
        elif self.workload_api is not None:
            return self.workload_api.of(issuer.trust_domain, settings.stale_limit)
        else:
            raise ValueError(f"issuers.{name}.bundle needs file, endpoint, or `workloadApi`")
        return Fetched(
            fetch=Published(source, algorithms).fetch,
            refresh=lambda bundle: refresh or bundle.refresh,
            stale_limit=settings.stale_limit,
            clock=self.clock,
            on_fetch=self._counted(name),
        )

    def _keys(self, name: IssuerName, issuer: OidcIssuer | KubernetesIssuer) -> KeySet:
        keys = issuer.keys
        source: Source
        if keys.file is not None:
            source = FileSource(keys.file)
        else:
            source = HttpSource(
                issuer=issuer.issuer,
                url=keys.jwks_url,
                certificate_authority=keys.certificate_authority,
                bearer_token_file=keys.bearer_token_file,
            )
        return KeySet(
            source=source,
            algorithms=frozenset(issuer.algorithms),
            refresh=keys.refresh,
            stale_limit=keys.stale_limit,
            clock=self.clock,
            on_fetch=self._counted(name),
        )

    def _counted(self, name: IssuerName) -> Callable[[bool], None]:
        return lambda succeeded: self.metrics.key_fetch(name, succeeded=succeeded)
