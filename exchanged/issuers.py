"""The configured issuers as authenticators."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.jws import Expected
from exchanged.authenticate.keysets import KeySet, Source
from exchanged.authenticate.kubernetes import KubernetesAuthenticator
from exchanged.authenticate.oidc import OidcAuthenticator
from exchanged.authenticate.profiles import BY_NAME
from exchanged.authenticate.sources import FileSource, HttpSource
from exchanged.clusters import Clusters
from exchanged.config import Configuration, Issuer, KubernetesIssuer, OidcIssuer
from exchanged.metrics import Metrics
from exchanged.model import ClusterName, IdentityKind, IssuerName
from exchanged.ports import Authenticator


@dataclass(frozen=True, slots=True)
class Issuers:
    """All of them."""

    each: Sequence[Authenticator]
    authenticators: Authenticators

    @classmethod
    def build(
        cls, configuration: Configuration, *, clusters: Clusters, metrics: Metrics, clock: Callable[[], datetime]
    ) -> "Issuers":
        """The issuers of a configuration."""
        builder = _Builder(configuration, clusters, metrics, clock)
        each = [builder.authenticator(IssuerName(name), issuer) for name, issuer in configuration.issuers.items()]
        return cls(each, Authenticators(authenticators=each, own_issuer=configuration.issuer))

    def unready(self) -> Mapping[str, str | None]:
        """By name, why an issuer's tokens could not be verified now, or None."""
        return {authenticator.name: authenticator.unready() for authenticator in self.each}


@dataclass(frozen=True, slots=True)
class _Builder:
    configuration: Configuration
    clusters: Clusters
    metrics: Metrics
    clock: Callable[[], datetime]

    def authenticator(self, name: IssuerName, issuer: Issuer) -> Authenticator:
        expected = Expected(
            issuer=issuer.issuer,
            audience=issuer.audience or self.configuration.own_audience,
            allow_several_audiences=issuer.allow_several_audiences,
            algorithms=frozenset(issuer.algorithms),
            max_lifetime=issuer.max_lifetime,
            leeway=issuer.leeway,
        )
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

    def _keys(self, name: IssuerName, issuer: Issuer) -> KeySet:
        keys = issuer.keys
        source: Source
        if keys.file is not None:
            source = FileSource(keys.file)
        else:
            source = HttpSource(
                issuer=issuer.issuer,
                jwks_url=keys.jwks_url,
                certificate_authority=keys.certificate_authority,
                bearer_token_file=keys.bearer_token_file,
            )
        return KeySet(
            source=source,
            algorithms=frozenset(issuer.algorithms),
            refresh=keys.refresh,
            stale_limit=keys.stale_limit,
            clock=self.clock,
            on_fetch=lambda succeeded: self.metrics.key_fetch(name, succeeded=succeeded),
        )
