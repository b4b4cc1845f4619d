"""An Exchanger wired as in the daemon, in one process: real store, keys and policies, an issuer without a network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.jws import Expected
from exchanged.authenticate.keysets import KeySet
from exchanged.authenticate.oidc import OidcAuthenticator
from exchanged.authenticate.profiles import GITHUB, PLAIN, Profile
from exchanged.cluster.authorizer import AuthorizerMode
from exchanged.ending.endings import Endings
from exchanged.errors import ClusterUnavailable, Reason
from exchanged.exchange import Exchanger
from exchanged.keys.signing import KeyRing
from exchanged.model import (
    Allowed,
    ClusterName,
    ClusterObject,
    ExchangeRequest,
    Grant,
    GrantId,
    IdentityKind,
    IssuedToken,
    IssuerName,
    Plan,
    PresentedToken,
    RequestContext,
    RequestId,
    TokenType,
)
from exchanged.policy.compiled import Compiler
from exchanged.policy.index import PolicySet
from exchanged.policy.load import load_text
from exchanged.ports import Bounds, ClusterMode
from exchanged.refusals import Refusals
from exchanged.store.sqlite import SqliteStore
from tests.grants import PROD, traits
from tests.issuers import FakeIssuer

OWN = "https://exchanged.example"


class InMemorySource:
    """The key set of an issuer that is not on a network."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self._issuer = issuer
        self.fetches = 0

    async def fetch(self) -> Mapping[str, Any]:
        """See `Source.fetch`."""
        self.fetches += 1
        return self._issuer.jwks()


class Faulty(AuthorizerMode):
    """A mode that can be told to fail, to wait, to make nothing at its cluster, and to note what was withdrawn."""

    at_cluster = True
    fail_issue = False
    fail_withdraw = False
    gate: asyncio.Event | None = None
    reached: asyncio.Event | None = None

    def note(self) -> None:
        """Begins to note."""
        self.withdrawn: list[GrantId] = []

    def plan(self, grant_id: GrantId, allowed: Allowed) -> Plan:
        """See `ClusterMode.plan`."""
        account = ClusterObject(kind="ServiceAccount", namespace="grants", name=grant_id)
        return replace(super().plan(grant_id, allowed), objects=(account,) if self.at_cluster else ())

    async def issue(self, grant: Grant) -> IssuedToken:
        """See `ClusterMode.issue`."""
        if self.reached is not None:
            self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_issue:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, "told to fail")
        return await super().issue(grant)

    async def withdraw(self, grant: Grant) -> None:
        """See `ClusterMode.withdraw`."""
        if self.fail_withdraw:
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, "told to fail")
        self.withdrawn.append(grant.id)

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: frozenset[str],
    ) -> tuple[ClusterObject, ...]:
        """See `ClusterMode.sweep`."""
        del now, epoch, namespaces
        known = await is_known(GrantId("nobody"))
        return () if known else (ClusterObject(kind="ServiceAccount", namespace="n", name="left", uid="u"),)


@dataclass(slots=True)
class Policies:
    """Policies that a test changes."""

    compiler: Compiler = field(default_factory=Compiler)
    current: PolicySet = field(init=False)

    def __post_init__(self) -> None:
        self.current = PolicySet(self.compiler.conditions)

    def put(self, text: str) -> None:
        """Puts the policies of a text in force."""
        for policy in load_text(text, "policy.yaml", self.compiler):
            self.current.put(policy)


@dataclass(slots=True)
class World:
    """Everything, and the clock."""

    issuer: FakeIssuer
    source: InMemorySource
    store: SqliteStore
    policies: Policies
    mode: Faulty
    endings: Endings
    exchanger: Exchanger
    outcomes: list[str]
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def clock(self) -> datetime:
        """The time, as the test has it."""
        return self.time

    def request(self, token: str | None = None, **changes: Any) -> ExchangeRequest:
        """A request of a CI job."""
        usual: dict[str, Any] = {
            "subject_token": PresentedToken(text=token if token is not None else self.issuer.github_token()),
            "subject_token_type": TokenType.JWT.value,
            "audience": (PROD,),
            "scope": ("deploy-web/rollout",),
        }
        return ExchangeRequest(**(usual | changes))

    def context(self) -> RequestContext:
        """A call over gRPC, now."""
        return RequestContext(request_id=RequestId("r-1"), time=self.time, source="192.0.2.1", door="grpc")

    async def kinds(self) -> list[str]:
        """The kinds of all records."""
        return [stored.record.kind.value for stored in await self.store.records(after=0, limit=1_000)]


@asynccontextmanager
async def world(folder: Path, *policies: str, unverified_per_minute: int = 60) -> AsyncIterator[World]:
    """A world with these policies in force."""
    issuer = FakeIssuer("https://ci.example")
    source = InMemorySource(issuer)
    made: World

    def clock() -> datetime:
        return made.clock()

    store = SqliteStore.open(folder / "state")
    ring = KeyRing(
        folder=folder / "keys",
        rotate_after=timedelta(days=30),
        publish_ahead=timedelta(days=1),
        longest_grant=timedelta(hours=1),
        clock=lambda: datetime.now(UTC),
    )
    ring.load()
    mode = Faulty(traits=traits(), keys=ring, issuer=OWN, audience=f"{OWN}/clusters/prod")
    mode.note()
    modes: dict[ClusterName, ClusterMode] = {PROD: mode}
    endings = Endings(store=store, clusters=modes, clock=clock)
    outcomes: list[str] = []
    live = Policies()
    exchanger = Exchanger(
        authenticators=Authenticators(
            authenticators=[authenticator("github", issuer, source, GITHUB, clock)], own_issuer=OWN
        ),
        policies=live,
        clusters=modes,
        store=store,
        endings=endings,
        refusals=Refusals(store=store, clock=clock, unverified_per_minute=unverified_per_minute),
        bounds=Bounds(live_per_subject=1_000, live_in_all=10_000),
        time_out=10,
        clock=clock,
        observe=lambda door, outcome, _: outcomes.append(f"{door} {outcome}"),
    )
    made = World(issuer, source, store, live, mode, endings, exchanger, outcomes)
    for text in policies:
        live.put(text)
    try:
        yield made
    finally:
        await exchanger.drain()
        await store.close()


def authenticator(
    name: str,
    issuer: FakeIssuer,
    source: InMemorySource,
    profile: Profile = PLAIN,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    **changes: Any,
) -> OidcAuthenticator:
    """An authenticator for this issuer."""
    algorithms = frozenset({"RS256", "ES256"})
    expected: dict[str, Any] = {
        "issuer": issuer.url,
        "audience": issuer.audience,
        "allow_several_audiences": False,
        "algorithms": algorithms,
        "max_lifetime": timedelta(hours=1),
        "leeway": timedelta(seconds=30),
    }
    keys = KeySet(
        source=source,
        algorithms=algorithms,
        refresh=timedelta(minutes=10),
        stale_limit=timedelta(hours=1),
        clock=clock,
        on_fetch=lambda _: None,
    )
    return OidcAuthenticator(
        name=IssuerName(name),
        expected=Expected(**(expected | changes)),
        keys=keys,
        profile=profile,
        single_use=profile.single_use,
        job_uses=32,
        kind=IdentityKind.WORKLOAD,
    )
