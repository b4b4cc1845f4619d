import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from exchanged.authenticate.jws import unverified
from exchanged.authenticate.kubernetes import KubernetesAuthenticator, TokenReview, TokenReviewer
from exchanged.authenticate.oidc import OidcAuthenticator
from exchanged.authenticate.profiles import BY_NAME, GITHUB, GITLAB, PLAIN, Profile
from exchanged.authenticate.refused import TokenRefused
from exchanged.errors import Reason
from exchanged.model import Identity, IssuerName, PresentedToken
from tests.issuers import FakeIssuer, kubernetes_claims
from tests.world import InMemorySource, authenticator

ISSUER = FakeIssuer("https://issuer.example")
UID = kubernetes_claims()["kubernetes.io"]["serviceaccount"]["uid"]
SUBJECT = kubernetes_claims()["sub"]


async def _oidc(token: str, profile: Profile) -> Identity:
    return await _ask(authenticator("x", ISSUER, InMemorySource(ISSUER), profile), token)


async def _ask(one: OidcAuthenticator | KubernetesAuthenticator, token: str) -> Identity:
    claimed = unverified(PresentedToken(text=token))
    assert one.may_vouch(claimed)
    return await one.authenticate(claimed, datetime.now(UTC))


async def test_github() -> None:
    """A job's identity has the claims of the profile, is for one use, and knows its job."""
    found = await _oidc(ISSUER.github_token(check_run_id=123, jti="j-1"), GITHUB)
    assert (found.single_use, found.job, found.job_uses) == ("j-1", "123", 32)
    assert found.claims["repository_id"] == "4711"
    assert "jti" not in found.claims
    assert found.unknown_claims == ()


async def test_unknown_claims_are_noted_and_of_no_use() -> None:
    """A claim that the profile has not heard of cannot be matched on, and is told."""
    found = await _oidc(ISSUER.github_token(brand_new="x"), GITHUB)
    assert found.unknown_claims == ("brand_new",)
    assert "brand_new" not in found.claims


async def test_what_servers_differ_in() -> None:
    """Properties that an owner named can be matched on; a server that does not name the job is understood."""
    found = await _oidc(ISSUER.github_token(repo_property_tier="gold", check_run_id=None), GITHUB)
    assert (found.claims["repo_property_tier"], found.unknown_claims) == ("gold", ())
    assert (found.job, found.job_uses) == (None, 0)


async def test_gitlab() -> None:
    """A job shows its token as often as it likes, up to the cap of its job."""
    found = await _oidc(ISSUER.gitlab_token(job_id="9"), GITLAB)
    assert (found.single_use, found.job, found.job_uses) == (None, "9", 32)


async def test_plain() -> None:
    """Any provider's claims can be matched on; may_act is understood."""
    found = await _oidc(ISSUER.token(team="infra", may_act={"sub": "bot"}), PLAIN)
    assert (found.claims["team"], found.may_act, found.job_uses) == ("infra", {"sub": "bot"}, 0)
    assert found.unknown_claims == ()


@pytest.mark.parametrize("value", [None, "", "x" * 300, True, ["x"], "a\nb"])
async def test_ids_are_short_text(value: Any) -> None:
    """What is for one use has to have an id."""
    with pytest.raises(TokenRefused) as refused:
        await _oidc(ISSUER.github_token(jti=value), GITHUB)
    assert refused.value.reason is Reason.TOKEN_CLAIMS


def test_profiles_hold_together() -> None:
    """No claim is both used and ignored, and ids stand in for names that can be matched."""
    for profile in BY_NAME.values():
        used = profile.used or frozenset()
        assert not used & profile.ignored
        for name, ids in profile.names.items():
            assert name in used | {"sub"}
            assert used.issuperset(ids)


class Reviewer:
    """A cluster that says what a test wants."""

    def __init__(self, **changes: Any) -> None:
        usual: dict[str, Any] = {
            "authenticated": True,
            "audiences": (ISSUER.audience,),
            "username": SUBJECT,
            "uid": UID,
        }
        self.answer = TokenReview(**(usual | changes))
        self.asked: list[tuple[str, ...]] = []

    async def review(self, token: PresentedToken, audiences: tuple[str, ...]) -> TokenReview:
        """The answer."""
        assert token.text
        self.asked.append(audiences)
        return self.answer


def _cluster(reviewer: TokenReviewer | None = None, *, offline: bool = True) -> KubernetesAuthenticator:
    plain = authenticator("x", ISSUER, InMemorySource(ISSUER))
    return KubernetesAuthenticator(
        name=IssuerName("cluster"),
        expected=plain._expected,
        keys=plain._keys if offline else None,
        reviewer=reviewer,
        closed_namespaces=frozenset({"exchanged-grants"}),
    )


async def test_a_projected_token() -> None:
    """Account, pod and node become claims, ids beside names."""
    cluster = _cluster(Reviewer())
    found = await _ask(cluster, ISSUER.kubernetes_token())
    assert found.claims["service_account"] == "deployer"
    assert found.claims["service_account_uid"] == UID
    assert (found.claims["namespace"], found.claims["pod"], found.claims["node"]) == ("web", "deployer-0", "n1")
    assert (found.single_use, found.job, found.unknown_claims) == (None, None, ())
    assert cluster.unready() is None


async def test_ways_to_verify() -> None:
    """Offline, by review, or both; a review asks for our audience alone, and needs no keys."""
    reviewer = Reviewer()
    by_review = _cluster(reviewer, offline=False)
    assert (await _ask(by_review, ISSUER.kubernetes_token())).subject == SUBJECT
    assert reviewer.asked == [(ISSUER.audience,)]
    assert by_review.unready() is None
    await by_review.run()
    assert (await _ask(_cluster(), ISSUER.kubernetes_token())).subject == SUBJECT
    forged = ISSUER.kubernetes_token()[:-8] + "AAAAAAAA"
    with pytest.raises(TokenRefused):
        await _ask(_cluster(reviewer), forged)
    assert len(reviewer.asked) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"authenticated": False, "error": "pod is gone"}, Reason.TOKEN_NOT_LIVE),
        ({"uid": "another"}, Reason.TOKEN_NOT_LIVE),
        ({"username": "system:serviceaccount:web:other"}, Reason.TOKEN_NOT_LIVE),
        ({"audiences": ()}, Reason.TOKEN_AUDIENCE),
        ({"audiences": ("https://kubernetes.default.svc",)}, Reason.TOKEN_AUDIENCE),
    ],
)
async def test_what_a_cluster_may_say(answer: dict[str, Any], reason: Reason) -> None:
    """A token that the cluster does not know for us, or knows as another's, is refused."""
    for offline in (True, False):
        with pytest.raises(TokenRefused) as refused:
            await _ask(_cluster(Reviewer(**answer), offline=offline), ISSUER.kubernetes_token())
        assert refused.value.reason is reason


def _nested(**changes: Any) -> dict[str, Any]:
    nested = {**kubernetes_claims()["kubernetes.io"], **changes}
    return {"kubernetes.io": {name: value for name, value in nested.items() if value is not None}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kubernetes.io": None}, Reason.TOKEN_CLAIMS),
        ({"sub": "system:serviceaccount:web:other"}, Reason.TOKEN_CLAIMS),
        (_nested(serviceaccount={"name": "deployer"}), Reason.TOKEN_CLAIMS),
        (_nested(serviceaccount=None), Reason.TOKEN_CLAIMS),
        (_nested(secret={"name": "old"}), Reason.TOKEN_CLAIMS),
        (_nested(pod="text"), Reason.TOKEN_CLAIMS),
        ({"sub": "system:serviceaccount:7:deployer", **_nested(namespace=7)}, Reason.TOKEN_CLAIMS),
        (
            {"sub": "system:serviceaccount:exchanged-grants:deployer", **_nested(namespace="exchanged-grants")},
            Reason.TOKEN_OWN,
        ),
    ],
)
async def test_what_is_no_projected_token(changes: dict[str, Any], reason: Reason) -> None:
    """Claims that disagree, tokens of Secrets, and a grant's own account are refused."""
    with pytest.raises(TokenRefused) as refused:
        await _ask(_cluster(), ISSUER.kubernetes_token(**changes))
    assert refused.value.reason is reason


async def test_a_token_without_pod_and_node() -> None:
    """A token that is bound to nothing has no claims of pod and node."""
    found = await _ask(_cluster(), ISSUER.kubernetes_token(**_nested(pod=None, node=None)))
    assert "pod" not in found.claims
    assert replace(found, claims={}).subject == SUBJECT


async def test_reviewed_claims_are_judged_all_the_same() -> None:
    """A review does not stand in for issuer, audience and times as we want them."""
    review_only = _cluster(Reviewer(), offline=False)
    for changes, reason in (
        ({"aud": ["x"]}, Reason.TOKEN_AUDIENCE),
        ({"iss": "https://x"}, Reason.TOKEN_ISSUER_UNKNOWN),
    ):
        token = unverified(PresentedToken(text=ISSUER.kubernetes_token(**changes)))
        with pytest.raises(TokenRefused) as refused:
            await review_only.authenticate(token, datetime.now(UTC))
        assert refused.value.reason is reason


async def test_background_work_is_that_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authenticators that have keys keep them fresh, and are unready without."""
    plain = authenticator("x", ISSUER, InMemorySource(ISSUER))
    cluster = _cluster()
    assert plain.unready()
    assert cluster.unready()

    async def stop(_: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("exchanged.authenticate.fetched.asyncio.sleep", stop)
    for each in (plain, cluster):
        with pytest.raises(asyncio.CancelledError):
            await each.run()
        assert each.unready() is None
