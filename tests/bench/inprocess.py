"""Without a door: the crypto floor, the exchange in process, decisions. A process of its own, on one core."""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from exchanged.app import keep_what_is_there
from exchanged.authenticate.bundles import Bundle, bundle_of
from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.fetched import Fetched
from exchanged.authenticate.jws import Accepted, Expected
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.oidc import OidcAuthenticator
from exchanged.authenticate.profiles import GITHUB
from exchanged.authenticate.spiffe import SpiffeAuthenticator
from exchanged.cluster.authorizer import AuthorizerMode
from exchanged.ending.endings import Endings
from exchanged.exchange import Exchanger
from exchanged.keys.signing import KeyRing
from exchanged.model import (
    ClusterName,
    ClusterTraits,
    ExchangeRequest,
    Identity,
    IdentityKind,
    IssuerName,
    Mode,
    PresentedToken,
    RequestContext,
    RequestId,
    TokenType,
)
from exchanged.policy.compiled import Compiler
from exchanged.policy.decide import decide
from exchanged.policy.index import PolicySet
from exchanged.policy.load import load_text
from exchanged.ports import Authenticator, Bounds
from exchanged.refusals import Refusals
from exchanged.store.sqlite import SqliteStore
from tests.grants import identity
from tests.issuers import AUDIENCE, FakeIssuer, Kind, key
from tests.policies import for_repository
from tests.spiffe.pki import TrustDomain

IN_FLIGHT = 64
TURNS = 8
"""The floor and the exchanges take turns: what the machine does meanwhile, it does to both."""
EXCHANGES_A_TURN = 1_500
PAIRS_A_TURN = 1_000
SUBJECTS = 500
PLACES = 100
"""Policies of a set, from the first to the last, that decisions are timed at."""
CLUSTER = ClusterName("prod")
TRAITS = ClusterTraits(
    name=CLUSTER,
    mode=Mode.AUTHORIZER,
    resource="https://prod.example:6443",
    max_lifetime=timedelta(hours=1),
    breeding=frozenset({"workloads"}),
)


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def floor(kind: Kind = "RSA") -> Callable[[], None]:
    """Verify RS256, or ES256, and sign ES256, by the cryptography library alone."""
    private, signer, message, sha256 = key(kind), key("EC"), b"m" * 1_000, hashes.SHA256()
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    verify: Callable[[], None]
    if isinstance(private, rsa.RSAPrivateKey):
        rsa_signature, rsa_key = private.sign(message, padding.PKCS1v15(), sha256), private.public_key()
        verify = partial(rsa_key.verify, rsa_signature, message, padding.PKCS1v15(), sha256)
    else:
        signature, public = private.sign(message, ec.ECDSA(sha256)), private.public_key()
        verify = partial(public.verify, signature, message, ec.ECDSA(sha256))

    def pair() -> None:
        verify()
        signer.sign(message, ec.ECDSA(hashes.SHA256()))

    return pair


def floor_rate() -> float:
    """Pairs a second."""
    pair, times = floor(), 8_000
    _seconds(pair, times // 10)
    return times / _seconds(pair, times)


def _seconds(work: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - began


class OneSource:
    """Keys that are there."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self._issuer = issuer

    async def fetch(self) -> Any:
        """The key set."""
        return self._issuer.jwks()


class Policies:
    """A set that does not change."""

    def __init__(self, current: PolicySet) -> None:
        self.current = current


def policy_set(count: int, text_of: Callable[[int], str] = for_repository) -> PolicySet:
    """Policies of one issuer and one owner, each for a repository, or a workload, of its own."""
    compiler = Compiler()
    policies = PolicySet(compiler.conditions)
    for number in range(count):
        (policy,) = load_text(text_of(number), f"{number}.yaml", compiler)
        policies.put(policy)
    return policies


@dataclass(frozen=True, slots=True)
class Case:
    """Who shows tokens, whose keys verify them, and the floor of the same algorithms."""

    authenticator: Authenticator
    policies: PolicySet
    tokens: list[str]
    floor: Callable[[], None]


def of_github() -> Case:
    """RS256 in."""
    issuer = FakeIssuer("https://ci.example")
    tokens = [
        issuer.github_token(repository_id=str(n % 100), sub=f"repo:acme/{n % SUBJECTS}", exp=int(time.time()) + 600)
        for n in range(TURNS * EXCHANGES_A_TURN)
    ]
    return Case(_github(issuer), policy_set(100), tokens, floor())


def of_spiffe() -> Case:
    """ES256 in, from a trust domain."""
    domain = TrustDomain("prod.example")
    tokens = [
        domain.jwt(f"/{n % 100}/{n % SUBJECTS}", lifetime=timedelta(minutes=10))
        for n in range(TURNS * EXCHANGES_A_TURN)
    ]
    return Case(_spiffe(domain), policy_set(100, of_workload), tokens, floor("EC"))


async def rates(folder: Path, case: Case) -> tuple[float, float]:
    """Pairs of the floor a second; and exchanges, all in, with the store on disk, at 64 in flight."""
    store = SqliteStore.open(folder / "state")
    ring = KeyRing(
        folder=folder / "keys",
        rotate_after=timedelta(days=30),
        publish_ahead=timedelta(days=1),
        longest_grant=timedelta(hours=1),
        clock=now,
    )
    ring.load()
    modes = {CLUSTER: AuthorizerMode(traits=TRAITS, keys=ring, issuer="https://x.example", audience="a")}
    exchanger = Exchanger(
        authenticators=Authenticators(authenticators=[case.authenticator], own_issuer="https://x.example"),
        policies=Policies(case.policies),
        clusters=modes,
        store=store,
        endings=Endings(store=store, clusters=modes, clock=now),
        refusals=Refusals(store=store, clock=now, unverified_per_minute=60),
        bounds=Bounds(live_per_subject=10_000, live_in_all=1_000_000),
        time_out=15,
        clock=now,
        observe=lambda *_: None,
    )

    async def one(number: int) -> None:
        request = ExchangeRequest(
            subject_token=PresentedToken(text=case.tokens[number]),
            subject_token_type=TokenType.JWT,
            audience=(CLUSTER,),
            scope=(f"repository-{number % 100}/rollout",),
        )
        context = RequestContext(request_id=RequestId("r"), time=now(), source="127.0.0.1", door="grpc")
        await exchanger.exchange(request, context)

    keep_what_is_there()
    pair, of_floor, of_exchanges = case.floor, 0.0, 0.0
    _seconds(pair, PAIRS_A_TURN)
    for turn in range(TURNS):
        of_floor += _seconds(pair, PAIRS_A_TURN)
        of_exchanges += await _in_flight(one, range(turn * EXCHANGES_A_TURN, (turn + 1) * EXCHANGES_A_TURN))
    await store.close()
    return TURNS * PAIRS_A_TURN / of_floor, TURNS * EXCHANGES_A_TURN / of_exchanges


async def _in_flight(work: Callable[[int], Awaitable[None]], which: range) -> float:
    numbers = iter(which)

    async def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(worker(numbers) for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began


def of_workload(number: int) -> str:
    """The same policy for workloads of one path."""
    text = for_repository(number).replace("issuer: github", "issuer: mesh")
    claims = (
        f'claims: {{repository_owner_id: "42", repository_id: "{number}"}}\n    when: claims.ref == "refs/heads/main"'
    )
    return text.replace(claims, f"path: /{number}/*")


def _spiffe(domain: TrustDomain) -> SpiffeAuthenticator:
    algorithms = frozenset({"RS256", "ES256"})

    async def fetch() -> Bundle:
        return bundle_of(domain.bundle(), algorithms)

    return SpiffeAuthenticator(
        name=IssuerName("mesh"),
        trust_domain=domain.name,
        accepted=Accepted(
            audience=AUDIENCE,
            allow_several_audiences=False,
            algorithms=algorithms,
            max_lifetime=timedelta(hours=1),
            leeway=timedelta(seconds=30),
        ),
        svids=frozenset({"jwt"}),
        bundle=Fetched(
            fetch=fetch,
            refresh=lambda _: timedelta(minutes=10),
            stale_limit=timedelta(hours=1),
            clock=now,
            on_fetch=lambda _: None,
        ),
    )


def _github(issuer: FakeIssuer) -> OidcAuthenticator:
    algorithms = frozenset({"RS256", "ES256"})
    return OidcAuthenticator(
        name=IssuerName("github"),
        expected=Expected(
            issuer=issuer.url,
            audience=issuer.audience,
            allow_several_audiences=False,
            algorithms=algorithms,
            max_lifetime=timedelta(hours=1),
            leeway=timedelta(seconds=30),
        ),
        keys=KeySet(
            source=OneSource(issuer),
            algorithms=algorithms,
            refresh=timedelta(minutes=10),
            stale_limit=timedelta(hours=1),
            clock=now,
            on_fetch=lambda _: None,
        ),
        profile=GITHUB,
        single_use=True,
        job_uses=32,
        kind=IdentityKind.WORKLOAD,
    )


def decision_seconds(counts: tuple[int, ...]) -> list[tuple[float, float]]:
    """The median time of a decision among so many policies, for each: with an exact scope, and with a bare one.

    The sets take turns, for the machine's speed is not the same for long.
    """
    sets = [policy_set(count) for count in counts]
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in counts]
    for turn in range(PLACES):
        for policies, count, (exact, bare) in zip(sets, counts, samples, strict=True):
            number = turn * count // PLACES
            who = identity(
                claims={"repository_id": str(number), "repository_owner_id": "42", "ref": "refs/heads/main"},
                subject=f"s{number}",
            )
            exact.append(_decision(policies, who, f"repository-{number}/rollout"))
            bare.append(_decision(policies, who, "rollout"))
    return [(statistics.median(exact), statistics.median(bare)) for exact, bare in samples]


def _decision(policies: PolicySet, who: Identity, scope: str) -> float:
    request = ExchangeRequest(
        subject_token=PresentedToken(text=""), subject_token_type="", audience=(CLUSTER,), scope=(scope,)
    )
    context = RequestContext(request_id=RequestId("r"), time=now(), source="127.0.0.1", door="grpc")
    times = 20
    return _seconds(lambda: decide(policies, {CLUSTER: TRAITS}, who, None, request, context), times) / times


def _run(case: Case) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
        return uvloop.run(rates(Path(folder), case))


def main() -> None:
    """Prints the figures as JSON."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    figures: dict[str, float] = {}
    if "rates" in sys.argv:
        floor_per_s, per_s = _run(of_github())
        figures |= {"floor_per_s": floor_per_s, "in_process_per_s": per_s, "in_process_over_floor": per_s / floor_per_s}
    if "svid" in sys.argv:
        floor_per_s, per_s = _run(of_spiffe())
        figures |= {"jwt_svid_per_s": per_s, "jwt_svid_over_floor": per_s / floor_per_s}
    if "decide" in sys.argv:
        few, many = decision_seconds((100, 100_000))
        figures |= {"decide_100_us": few[0] * 1e6, "decide_100_bare_us": few[1] * 1e6}
        figures |= {"decide_100k_us": many[0] * 1e6, "decide_100k_bare_us": many[1] * 1e6}
        figures["decide_100k_over_100"] = max(of_many / of_few for of_few, of_many in zip(few, many, strict=True))
    if "floor" in sys.argv:
        figures["floor_per_s"] = floor_rate()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
