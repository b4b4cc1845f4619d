"""The exchange, from a token that somebody shows to a token that a cluster honours: one story, in numbered steps.

    1. the request is one that can be answered at all
    2. authenticate: who is it, and who acts for them?
    3. decide: which policy, if any, grants this?
    4. record the intent, in one transaction with all that must still be true (durable)
    5. issue at the cluster
    6. record what was issued, if it may still be (durable)
    7. reply

A refusal before step 5 leaves a record of its own; what goes wrong after step 4 is undone, and recorded as failed.
Where nothing is to be made at the cluster nothing can be left half made, and one transaction records 4 and 6.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from exchanged.authenticate.candidates import Authenticators
from exchanged.authenticate.refused import TokenRefused
from exchanged.ending.endings import Endings
from exchanged.errors import (
    ActorTokenRejected,
    ClusterUnavailable,
    ExchangeError,
    PolicyDenied,
    Reason,
    SubjectTokenRejected,
)
from exchanged.in_step import in_step
from exchanged.log import entries
from exchanged.model import (
    Allowed,
    ClusterName,
    ClusterTraits,
    Exchanged,
    ExchangeRequest,
    Grant,
    GrantId,
    GrantState,
    Identity,
    IssuedToken,
    Party,
    PresentedToken,
    RequestContext,
)
from exchanged.policy.decide import decide
from exchanged.policy.index import PolicySet
from exchanged.ports import Bounds, ClusterMode, Intent, Store
from exchanged.refusals import Refusals
from exchanged.request import check
from exchanged.time_limit import TimeLimit

log = logging.getLogger(__name__)

_INTERNAL = Reason.INTERNAL.value
GRANT_ID_RANDOM = 6
"""Random bytes of a grant's id, after the second it was made in: ids that follow one another lie together in the store,
and what a store writes for a grant is what an exchange waits for."""


class Policies(Protocol):
    """Where the policies in force are found."""

    @property
    def current(self) -> PolicySet:
        """The set in force now."""
        ...


@dataclass(slots=True)
class _Case:
    """One exchange as far as it got; what a refusal's record can tell."""

    request: ExchangeRequest
    context: RequestContext
    peer: Identity | None = None
    subject: Identity | None = None
    actor: Identity | None = None


class Exchanger:
    """What both doors call, so that neither can skip a check."""

    def __init__(
        self,
        *,
        authenticators: Authenticators,
        policies: Policies,
        clusters: Mapping[ClusterName, ClusterMode],
        store: Store,
        endings: Endings,
        refusals: Refusals,
        bounds: Bounds,
        time_out: float,
        clock: Callable[[], datetime],
        observe: Callable[[str, str, float], None],
    ) -> None:
        self._authenticators = authenticators
        self._policies = policies
        self._clusters = clusters
        self._traits = {name: mode.traits for name, mode in clusters.items()}
        self._store = store
        self._endings = endings
        self._refusals = refusals
        self._bounds = bounds
        self._time_limit = TimeLimit(time_out)
        self._clock = clock
        self._observe = observe
        self._begun: set[asyncio.Task[Any]] = set()

    async def exchange(self, request: ExchangeRequest, context: RequestContext) -> Exchanged:
        """A token for one cluster, recorded before it is released (RFC 8693 §2).

        Raises:
            ExchangeError: one of its classes, for everything that a caller can cause.
        """
        started = time.perf_counter()
        outcome = _INTERNAL
        try:
            exchanged = await self._time_limit.run(self._exchange(_Case(request, context)))
            outcome = "ISSUED"
        except TimeoutError as error:
            outcome = Reason.CLUSTER_UNAVAILABLE.value
            detail = f"not done within {self._time_limit.seconds:.0f} s; what was begun is undone"
            raise ClusterUnavailable(Reason.CLUSTER_UNAVAILABLE, detail) from error
        except ExchangeError as refusal:
            outcome = refusal.reason.value
            raise
        else:
            return exchanged
        finally:
            self._observe(context.door, outcome, time.perf_counter() - started)

    async def _exchange(self, case: _Case) -> Exchanged:
        request = case.request
        try:
            # 1. The request is one that can be answered at all.
            check(request, case.context)
            # 2. Authenticate. Nothing of a token or a certificate is believed before this.
            subject = await self._authenticate(case)
            await in_step()
            # 3. Decide: pure, and at this moment's context.
            allowed = decide(self._policies.current, self._traits, subject, case.actor, request, case.context)
            mode = self._clusters[allowed.cluster]
            grant = self._intended(case, subject, allowed, mode)
        except ExchangeError as refusal:
            await self._refuse(refusal, case)
            raise
        if grant.plan.objects:
            return await self._to_the_end(self._make(case, grant, mode), grant)
        return await self._record(case, grant, mode)

    async def _to_the_end(self, work: Coroutine[Any, Any, Exchanged], grant: Grant) -> Exchanged:
        """A caller that hangs up does not cancel what is begun: an object half made is in nobody's record."""
        making = asyncio.create_task(work)
        self._keep(making)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._keep(asyncio.create_task(self._give_up(grant, making)))
            raise

    async def _give_up(self, grant: Grant, begun: asyncio.Future[Any], case: _Case | None = None) -> None:
        """Nobody waits for this token any more, so nobody is to have it; what is refused all the same is on record."""
        try:
            try:
                await begun
            except ExchangeError as refusal:
                if case is None:
                    raise
                await self._refuse(refusal, case)
            else:
                why = "the caller was gone before the reply"
                await self._endings.end(grant.id, GrantState.RETURNED, why, by="exchanged")
        except ExchangeError as error:
            log.info("an exchange that nobody waited for failed", extra={"reason": error.reason})

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _authenticate(self, case: _Case) -> Identity:
        """The subject; the case then knows the peer and the actor too, as far as there are any."""
        request, context = case.request, case.context
        case.peer = await self._peer(context)
        if case.peer is not None:
            case.context = replace(context, peer=case.peer.subject)
        if request.subject_token is None:
            case.subject = case.peer
        else:
            case.subject = await self._party(
                request.subject_token, request.subject_token_type, context.time, SubjectTokenRejected
            )
        if request.actor_token is not None and request.actor_token_type is not None:
            case.actor = await self._party(
                request.actor_token, request.actor_token_type, context.time, ActorTokenRejected
            )
        assert case.subject is not None, "the request has a token, or the connection a certificate"  # noqa: S101
        return case.subject

    async def _party(
        self, token: PresentedToken, token_type: str, now: datetime, rejected: type[ExchangeError]
    ) -> Identity:
        try:
            return await self._authenticators.authenticate(token, token_type, now)
        except TokenRefused as refused:
            raise rejected(refused.reason, refused.detail, verified=refused.verified) from refused

    async def _peer(self, context: RequestContext) -> Identity | None:
        """Whoever opened the connection with a certificate; what was good at the handshake is looked at again."""
        if context.certificate is None:
            return None
        try:
            return await self._authenticators.authenticate_certificate(context.certificate, context.time)
        except TokenRefused as refused:
            raise SubjectTokenRejected(refused.reason, refused.detail, verified=refused.verified) from refused

    def _intended(self, case: _Case, subject: Identity, allowed: Allowed, mode: ClusterMode) -> Grant:
        now = case.context.time.replace(microsecond=0)
        grant_id = GrantId(f"{int(now.timestamp()):08x}{os.urandom(GRANT_ID_RANDOM).hex()}")
        return Grant(
            id=grant_id,
            state=GrantState.INTENDED,
            mode=mode.traits.mode,
            allowed=allowed,
            plan=mode.plan(grant_id, allowed),
            subject=_remembered(subject),
            actor=_remembered(case.actor) if case.actor else None,
            job=subject.job or "",
            stated_intent=case.request.intent,
            request_id=case.context.request_id,
            source=case.context.source,
            created_at=now,
            expires_at=now + allowed.lifetime,
        )

    async def _make(self, case: _Case, grant: Grant, mode: ClusterMode) -> Exchanged:
        in_flight = self._endings.in_flight
        in_flight.add(grant.id)
        try:
            # 4. Record the intent: single use, revocations, bounds and the record in one transaction.
            replaced = await self._begin(case, grant)
            token = await self._issue(grant, mode)
        finally:
            in_flight.discard(grant.id)
        return self._done(grant, mode, token, replaced)

    async def _record(self, case: _Case, grant: Grant, mode: ClusterMode) -> Exchanged:
        """Where nothing is made at the cluster the token is there first, and worth nothing until the store knows it."""
        await in_step()
        token = await mode.issue(grant)
        await in_step()
        # 4. and 6. The intent and what was issued, in the same one transaction.
        replaced = await self._begin(case, grant, token)
        try:
            self._check_author(grant.allowed)
        except PolicyDenied as changed:
            undoing = asyncio.create_task(self._undo(grant, token, changed))
            self._keep(undoing)
            await asyncio.shield(undoing)
            raise
        return self._done(grant, mode, token, replaced)

    def _done(self, grant: Grant, mode: ClusterMode, token: IssuedToken, replaced: Grant | None) -> Exchanged:
        if replaced is not None:
            self._endings.withdraw_soon(replaced)
        # 7. Reply: from here on the token can be used.
        return Exchanged(token=token, grant=grant, cluster=mode.traits)

    async def _begin(self, case: _Case, grant: Grant, token: IssuedToken | None = None) -> Grant | None:
        parties = tuple(identity for identity in (case.subject, case.actor) if identity is not None)
        peer = case.peer if case.peer is not case.subject else None
        records = [entries.intended(grant, parties, case.request, peer)]
        if token is not None:
            records.append(entries.issued(grant, token, self._clock()))
        intent = Intent(
            grant=grant,
            parties=parties,
            bounds=self._bounds,
            job_uses=parties[0].job_uses,
            records=tuple(records),
            peer=peer,
            replaces=case.request.replaces,
            token=token,
        )
        beginning = self._store.begin(intent)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self._keep(asyncio.create_task(self._give_up(grant, beginning, case)))
            raise
        except ExchangeError as refusal:
            await self._refuse(refusal, case)
            raise

    async def _issue(self, grant: Grant, mode: ClusterMode) -> IssuedToken:
        token = None
        try:
            # 5. Issue at the cluster; when this returns, the token works.
            token = await mode.issue(grant)
            # The author must still say what it said: its policy may have changed meanwhile.
            self._check_author(grant.allowed)
            # 6. Record what was issued, if it may still be.
            await self._complete(grant, token)
        except BaseException as error:
            await self._undo(grant, token, error)
            raise
        return token

    def _check_author(self, allowed: Allowed) -> None:
        if self._policies.current.digest_of(allowed.policy) != allowed.policy_digest:
            raise PolicyDenied(Reason.POLICY_CHANGED, f"policy {allowed.policy} changed while the grant was made")

    async def _complete(self, grant: Grant, token: IssuedToken) -> None:
        if not await self._store.complete(grant.id, token, entries.issued(grant, token, self._clock())):
            raise SubjectTokenRejected(Reason.SUBJECT_REVOKED, f"grant {grant.id} was ended while it was made")

    async def _undo(self, grant: Grant, token: IssuedToken | None, error: BaseException) -> None:
        """Whoever loses undoes: nothing was released, so the subject token may be used again."""
        why = error.detail if isinstance(error, ExchangeError) else type(error).__name__
        try:
            ended = await self._endings.end(grant.id, GrantState.FAILED, why, by="exchanged", give_back=True)
            if ended is None:
                made = replace(grant, objects=token.objects if token else ())
                await self._endings.withdraw(made)
        except ExchangeError as failure:
            # The store is out of reach too. The grant stays intended, and is undone when the store is back.
            log.warning("undoing failed; it will be tried again", extra={"grant": grant.id, "detail": failure.detail})

    async def _refuse(self, refusal: ExchangeError, case: _Case) -> None:
        await self._refusals.record(refusal, case.request, case.context, case.subject, case.actor)

    async def revoke(self, token: PresentedToken, context: RequestContext) -> None:
        """The grant of this token, if it lives, ends (RFC 7009 §2.2: an unknown token is no error)."""
        await self._peer(context)
        grant = await self._store.grant_by_token(token.digest())
        if grant is None or grant.state is not GrantState.ISSUED:
            return
        ending = asyncio.create_task(
            self._endings.end(grant.id, GrantState.RETURNED, "given back", by="holder", request_id=context.request_id)
        )
        await asyncio.shield(ending)

    async def introspect(self, token: PresentedToken, context: RequestContext) -> tuple[Grant, ClusterTraits] | None:
        """What a live token stands for, or None (RFC 7662 §2.2)."""
        await self._peer(context)
        grant = await self._store.grant_by_token(token.digest())
        if grant is None or grant.state is not GrantState.ISSUED or grant.expires_at <= context.time:
            return None
        traits = self._traits.get(grant.cluster)
        return (grant, traits) if traits else None

    async def drain(self) -> None:
        """Waits until what was begun has come to its end."""
        while self._begun:
            await asyncio.wait(self._begun)


def _remembered(identity: Identity) -> Party:
    return Party(issuer=identity.issuer, subject=identity.subject, kind=identity.kind)
