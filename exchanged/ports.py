"""The plug points: what the exchange needs of the outside, as Protocols with as few methods as they can have."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from exchanged.log.record import Record, StoredRecord
from exchanged.model import (
    Allowed,
    ClusterName,
    ClusterObject,
    ClusterTraits,
    Grant,
    GrantId,
    GrantState,
    Identity,
    IssuedToken,
    IssuerName,
    Plan,
    TokenDigest,
    UnverifiedToken,
)


class Authenticator(Protocol):
    """Makes an `Identity` of a token, for one configured issuer."""

    @property
    def name(self) -> IssuerName:
        """The issuer's name in the configuration."""
        ...

    def may_vouch(self, token: UnverifiedToken) -> bool:
        """Whether the token looks like this issuer's, by its unverified `iss`. Selects candidates, proves nothing."""
        ...

    def knows(self, token: UnverifiedToken) -> bool:
        """Whether this issuer has the key that the token names at hand. Orders candidates, proves nothing."""
        ...

    async def authenticate(self, token: UnverifiedToken, now: datetime) -> Identity:
        """The identity that the token proves.

        Raises:
            TokenRefused: with the reason why not (`exchanged.authenticate.refused`).
            KeysUnavailable, ClusterUnavailable: when it cannot be told now.
        """
        ...

    async def run(self) -> None:
        """Background work until cancelled (refreshing keys); returns at once where there is none."""
        ...

    def unready(self) -> str | None:
        """Why this issuer's tokens could not be verified now, or None."""
        ...


class ClusterMode(Protocol):
    """How one cluster comes to honour a grant, and ceases to."""

    @property
    def traits(self) -> ClusterTraits:
        """What a decision has to know of the cluster."""
        ...

    def plan(self, grant_id: GrantId, allowed: Allowed) -> Plan:
        """What `issue` is going to make, from what is known already; no I/O.

        Raises:
            ScopeDenied: the named cluster role holds a class that the policy does not acknowledge.
            ClusterUnavailable: the cluster's roles are not known yet.
        """
        ...

    async def issue(self, grant: Grant) -> IssuedToken:
        """Makes what `grant.plan` names; when it returns, the token works.

        Where the plan names no object, the token works as soon as the store has its grant as issued, and no sooner.

        Raises:
            ClusterUnavailable: it could not; what was made is left to `withdraw`.
        """
        ...

    async def withdraw(self, grant: Grant) -> None:
        """Ends the grant at the cluster; when it returns, nothing of it is left there. Safe to repeat.

        Raises:
            ClusterUnavailable: it could not be done, or not be verified, now.
        """
        ...

    async def sweep(
        self,
        is_known: Callable[[GrantId], Awaitable[bool]],
        now: datetime,
        *,
        epoch: datetime | None,
        namespaces: frozenset[str],
    ) -> tuple[ClusterObject, ...]:
        """Deletes this instance's objects that the store does not know; returns them.

        One that is past its own expiry, or was made before `epoch`: then the store is not the one that made it. What
        cannot be deleted is told in the log, and keeps nobody else's objects. `namespaces` are searched besides the
        configured ones.

        Raises:
            ClusterUnavailable: the cluster could not be searched; nothing was deleted.
        """
        ...

    async def run(self) -> None:
        """Background work until cancelled (watching roles); returns at once where there is none."""
        ...

    def unready(self) -> str | None:
        """Why a grant could not be issued now, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many live grants there may be. 0 means none, never unlimited."""

    live_per_subject: int
    live_in_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What one transaction claims and writes down before anything is made.

    Attributes:
        grant: in state `intended`; where `token` is there, it becomes issued by the same transaction.
        parties: subject first, then the actor; each with its token, for single use and revocation.
        job_uses: how many grants `grant.job` may get in all; 0 without a bound.
        records: of the intent, and of the outcome where `token` is there.
        peer: whose certificate the call came over, where that is not the subject's proof itself; for revocation.
        replaces: an earlier grant of the same issuer and job, which is ended (revoked) in the same transaction.
        token: the grant's token, where nothing has to be made at the cluster first.
    """

    grant: Grant
    parties: tuple[Identity, ...]
    bounds: Bounds
    job_uses: int
    records: tuple[Record, ...]
    peer: Identity | None = None
    replaces: GrantId | None = None
    token: IssuedToken | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantQuery:
    """Which grants to list; None does not restrict. Newest first, `before` is the id to go on from."""

    live_only: bool = False
    cluster: ClusterName | None = None
    policy: str | None = None
    issuer: IssuerName | None = None
    subject: str | None = None
    state: GrantState | None = None
    before: GrantId | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCounts:
    """How much there is: live grants, and ended grants that are still to be withdrawn."""

    live: int
    backlog: int


class Store(Protocol):
    """Grants, single use, revocations and records, in transactions that are durable when a call returns.

    Every method raises StoreUnavailable when the store cannot answer.
    """

    @property
    def instance(self) -> str:
        """This store's own id, made once: 12 lower-case hex digits. Objects at clusters carry it."""
        ...

    @property
    def epoch(self) -> datetime | None:
        """When `new_epoch` was called last, or None: what is older was made by a store that is no more."""
        ...

    def begin(self, intent: Intent) -> asyncio.Future[Grant | None]:
        """Claims and records a grant, all or nothing; returns the grant it ended as replaced, if any.

        It is begun when this returns, and a change that is asked for later comes later.

        A replaced grant that had ended already is no error; its end is recorded by the same transaction.

        Raises:
            SubjectTokenRejected, ActorTokenRejected: used before, or revoked since it was issued.
            TooManyRequests: the subject, the daemon or the job has as many grants as it may.
            MalformedRequest: `replaces` names no grant of this issuer and job.
        """
        ...

    async def complete(self, grant_id: GrantId, token: IssuedToken, record: Record) -> bool:
        """Intended becomes issued, with the token's digest; False if the grant was ended meanwhile."""
        ...

    async def end(
        self, grant_id: GrantId, state: GrantState, why: str, record: Record, *, give_back: bool = False
    ) -> Grant | None:
        """Intended or issued becomes one of the ends; None if it was neither. `give_back` frees single use."""
        ...

    async def withdrawn(self, grant_id: GrantId, record: Record) -> bool:
        """An ended grant becomes withdrawn; False if it was not one."""
        ...

    async def grant(self, grant_id: GrantId) -> Grant | None:
        """The grant of this id."""
        ...

    async def grant_by_token(self, digest: TokenDigest) -> Grant | None:
        """The grant whose token has this digest."""
        ...

    async def grants(self, query: GrantQuery) -> Sequence[Grant]:
        """Grants that match, newest first."""
        ...

    async def due(self, now: datetime, limit: int, *, cluster: ClusterName) -> Sequence[Grant]:
        """Grants of one cluster that want attention, oldest first.

        Ended and not withdrawn, issued and past their expiry, or intended by a daemon that is no more.
        """
        ...

    async def unfinished(self) -> Mapping[ClusterName, int]:
        """How many grants each cluster has that are not withdrawn; a cluster without any is left out."""
        ...

    async def revoke_subject(self, issuer: IssuerName, subject: str, at: datetime, record: Record) -> None:
        """Subject tokens of this subject issued at or before `at` are refused from now on."""
        ...

    async def new_epoch(self, at: datetime, record: Record) -> int:
        """After a restore: ends every live grant (revoked) and refuses subject tokens issued at or before `at`.

        Returns how many grants ended.
        """
        ...

    async def append(self, record: Record) -> None:
        """Writes one record."""
        ...

    async def records(self, *, after: int, limit: int, grant_id: GrantId | None = None) -> Sequence[StoredRecord]:
        """Records with a sequence above `after`, oldest first."""
        ...

    async def last_sequence(self) -> int:
        """The sequence of the newest record, 0 if there is none."""
        ...

    async def counts(self) -> StoreCounts:
        """Live grants and backlog."""
        ...

    async def close(self) -> None:
        """Waits for what was begun, then lets go; a later call raises StoreUnavailable."""
        ...
