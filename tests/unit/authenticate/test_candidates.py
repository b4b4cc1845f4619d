from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.fetched import SourceError
from exchanged.authenticate.kubernetes import KubernetesAuthenticator
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import KeysUnavailable, Reason
from exchanged.model import Identity, IssuerName, PresentedToken
from tests.issuers import FakeIssuer, key
from tests.unit.authenticate.test_identities import Reviewer
from tests.world import OWN, InMemorySource, authenticator

SAME = "https://kubernetes.default.svc.cluster.local"


def _cluster(number: int, source: InMemorySource, issuer: FakeIssuer, reviewer: Any = None) -> KubernetesAuthenticator:
    plain = authenticator(f"cluster-{number}", issuer, source)
    return KubernetesAuthenticator(
        name=plain.name,
        expected=plain._expected,
        keys=plain._keys,
        reviewer=reviewer,
        closed_namespaces=frozenset({"exchanged-grants"}),
    )


def _clusters(count: int) -> tuple[list[FakeIssuer], list[InMemorySource], Authenticators]:
    """Clusters that all call themselves by the same name, each with a key of its own."""
    issuers = [FakeIssuer(SAME, kind="EC", number=number) for number in range(count)]
    sources = [InMemorySource(issuer) for issuer in issuers]
    each = [_cluster(number, sources[number], issuer) for number, issuer in enumerate(issuers)]
    return issuers, sources, Authenticators(authenticators=each, own_issuer=OWN)


async def _ask(known: Authenticators, token: str) -> Identity:
    return await known.authenticate(PresentedToken(text=token), "", datetime.now(UTC))


async def test_clusters_of_one_name_are_told_apart_by_their_keys() -> None:
    """Each token is its own cluster's, under its configured name, however many there are."""
    issuers, _, known = _clusters(20)
    for number in (0, 7, 8, 19):
        found = await _ask(known, issuers[number].kubernetes_token())
        assert (found.issuer, found.claims["iss"]) == (f"cluster-{number}", SAME)
    forged = issuers[3].sign(issuers[3].claims(), {"kid": issuers[4].kid})
    with pytest.raises(TokenRefused) as refused:
        await _ask(known, forged)
    assert (refused.value.reason, refused.value.verified) == (Reason.TOKEN_SIGNATURE, False)


async def test_who_knows_the_key_is_asked_first() -> None:
    """Once a cluster's keys are known its tokens lead to no fetch at the others, though those be out of reach."""
    issuers, sources, known = _clusters(12)
    await _ask(known, issuers[11].kubernetes_token())
    fetches = [source.fetches for source in sources]

    async def away() -> Any:
        raise SourceError("away")

    for source in sources[:11]:
        source.fetch = away  # type: ignore[method-assign] # out of reach
    await _ask(known, issuers[11].kubernetes_token())
    assert [source.fetches for source in sources] == fetches


async def test_a_token_without_a_key_id_costs_a_bounded_number_of_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names no key is not verified against the keys of every cluster there is."""
    issuers, _, known = _clusters(20)
    for issuer in issuers:
        await _ask(known, issuer.kubernetes_token())
    asked: list[IssuerName] = []
    ask = KubernetesAuthenticator.authenticate

    async def noted(self: KubernetesAuthenticator, *arguments: Any) -> Identity:
        asked.append(self.name)
        return await ask(self, *arguments)

    monkeypatch.setattr(KubernetesAuthenticator, "authenticate", noted)
    nobody = FakeIssuer(SAME, kind="EC", number=99)
    with pytest.raises(TokenRefused):
        await _ask(known, jwt.encode(nobody.claims(), key("EC", 99), "ES256"))
    assert len(asked) == 8


async def test_what_only_a_cluster_can_tell_is_not_known_beforehand() -> None:
    """A cluster without keys here is asked after those who know the key, and answers for its own."""
    issuer = FakeIssuer("https://issuer.example", kind="EC")
    plain = authenticator("x", issuer, InMemorySource(issuer))
    only_reviewed = KubernetesAuthenticator(
        name=IssuerName("reviewed"),
        expected=plain._expected,
        keys=None,
        reviewer=Reviewer(audiences=(issuer.audience,)),
        closed_namespaces=frozenset(),
    )
    other = FakeIssuer(issuer.url, kind="EC", number=5)
    known = Authenticators(authenticators=[_cluster(0, InMemorySource(other), other), only_reviewed], own_issuer=OWN)
    assert (await _ask(known, issuer.kubernetes_token())).issuer == "reviewed"


async def test_one_that_is_away_may_be_the_one() -> None:
    """Where a cluster that might know the key cannot be asked, the token is not refused for good."""
    issuers, sources, known = _clusters(2)

    async def away() -> Any:
        raise SourceError("away")

    sources[1].fetch = away  # type: ignore[method-assign] # out of reach
    with pytest.raises(KeysUnavailable):
        await _ask(known, issuers[1].kubernetes_token())
