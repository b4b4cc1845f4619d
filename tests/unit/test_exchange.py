import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from exchanged.errors import (
    ActorTokenRejected,
    ClusterUnavailable,
    ExchangeError,
    MalformedRequest,
    PolicyDenied,
    Reason,
    StoreUnavailable,
    SubjectTokenRejected,
)
from exchanged.model import AuthorizationDetail, ClusterName, Grant, GrantId, GrantState, PresentedToken, TokenType
from exchanged.ports import Intent
from tests.grants import PROD
from tests.policies import policy
from tests.world import World, world


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    """A world with one policy."""
    async with world(tmp_path, policy("deploy-web")) as running:
        yield running


async def _refused(made: World, **changes: Any) -> ExchangeError:
    with pytest.raises(ExchangeError) as refused:
        await made.exchanger.exchange(made.request(**changes), made.context())
    return refused.value


async def test_a_token_comes_out_and_its_record_was_there_first(made: World) -> None:
    """What comes back is signed for this cluster alone, is on record, and was recorded before it could be used."""
    exchanged = await made.exchanger.exchange(made.request(intent="release 7"), made.context())
    claims = jwt.decode(exchanged.token.text, options={"verify_signature": False})
    assert claims["sub"] == f"deploy-web:{exchanged.grant.id}"
    assert claims["aud"].endswith("/clusters/prod")
    assert claims["exp"] - claims["iat"] == 300
    assert await made.kinds() == ["intended", "issued"]
    grant = await made.store.grant_by_token(exchanged.token.digest)
    assert grant is not None
    assert (grant.state, grant.stated_intent) == (GrantState.ISSUED, "release 7")
    assert made.outcomes == ["grpc ISSUED"]
    records = json.dumps([dict(stored.record.body) for stored in await made.store.records(after=0, limit=9)])
    assert exchanged.token.text not in records


async def test_where_nothing_is_made_at_the_cluster_one_transaction_does(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intent and outcome are recorded at once; refused there, nothing is left, and no token leaves."""
    made.mode.at_cluster = False
    monkeypatch.setattr(made.store, "complete", None)
    token = made.issuer.github_token()
    exchanged = await made.exchanger.exchange(made.request(token), made.context())
    assert await made.kinds() == ["intended", "issued"]
    grant = await made.store.grant_by_token(exchanged.token.digest)
    assert grant is not None
    assert (grant.state, grant.credential_id) == (GrantState.ISSUED, exchanged.token.credential_id)
    assert (await _refused(made, token=token)).reason is Reason.TOKEN_REPLAYED
    assert await made.kinds() == ["intended", "issued", "refused"]
    assert (await made.store.counts()).live == 1


async def test_warm_exchanges_fetch_no_keys(made: World) -> None:
    """Keys are fetched once for many exchanges."""
    for _ in range(5):
        await made.exchanger.exchange(made.request(), made.context())
    assert made.source.fetches == 1


async def test_verified_refusals_are_on_record(made: World) -> None:
    """Whoever an issuer vouches for leaves a record of the refusal, with claims and what was asked."""
    token = made.issuer.github_token(repository_id="1")
    error = await _refused(made, token=token, intent="x")
    assert error.reason is Reason.NO_POLICY
    (record,) = await made.store.records(after=0, limit=9)
    assert record.record.kind.value == "refused"
    assert record.record.body["subject"]["claims"]["repository_id"] == "1"
    assert record.record.body["stated"] == {"intent": "x"}
    expired = made.issuer.github_token(iat=1, nbf=1, exp=300)
    assert (await _refused(made, token=expired)).reason is Reason.TOKEN_EXPIRED
    assert await made.kinds() == ["refused", "refused"]


async def test_strangers_are_sampled_within_a_bound(tmp_path: Path) -> None:
    """Refusals of tokens that nobody vouches for leave so many records a minute, and say how many were left out."""
    async with world(tmp_path, unverified_per_minute=2) as made:
        for _ in range(5):
            assert (await _refused(made, token="a.b.c")).reason is Reason.TOKEN_MALFORMED
        assert await made.kinds() == ["unverified", "unverified"]
        made.time += timedelta(minutes=2)
        await _refused(made, token="a.b.c")
        records = await made.store.records(after=2, limit=9)
        assert [stored.record.body["left_out"] for stored in records] == [3]


async def test_keys_that_cannot_be_had_are_no_refusal(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told who somebody is, nothing is granted, and nothing is on record against them."""

    async def away() -> Any:
        raise ValueError("away")

    monkeypatch.setattr(made.source, "fetch", away)
    assert (await _refused(made)).reason is Reason.KEYS_UNAVAILABLE
    assert await made.kinds() == []


async def test_single_use_is_given_back_when_nothing_was_made(made: World) -> None:
    """A cluster that does not answer costs the job neither its token nor its grants; a success does."""
    token = made.issuer.github_token()
    made.mode.fail_issue = True
    error = await _refused(made, token=token)
    assert isinstance(error, ClusterUnavailable)
    assert await made.kinds() == ["intended", "failed", "withdrawn"]
    made.mode.fail_issue = False
    await made.exchanger.exchange(made.request(token), made.context())
    assert (await _refused(made, token=token)).reason is Reason.TOKEN_REPLAYED
    assert (await made.kinds())[-1] == "refused"


async def test_a_grant_revoked_while_it_is_made_is_undone(made: World) -> None:
    """A revocation between intent and outcome wins: no token leaves, and what was made is withdrawn."""
    made.mode.gate, made.mode.reached = asyncio.Event(), asyncio.Event()
    exchange = asyncio.create_task(made.exchanger.exchange(made.request(), made.context()))
    await made.mode.reached.wait()
    (grant_id,) = made.endings.in_flight
    ended = await made.endings.end(grant_id, GrantState.REVOKED, "test", by="test")
    assert ended is not None
    assert made.mode.withdrawn == []
    made.mode.gate.set()
    with pytest.raises(SubjectTokenRejected) as refused:
        await exchange
    assert refused.value.reason is Reason.SUBJECT_REVOKED
    assert made.mode.withdrawn == [grant_id]
    assert await made.kinds() == ["intended", "revoked", "withdrawn"]


async def test_a_policy_that_changed_meanwhile_grants_nothing(made: World) -> None:
    """The digest is compared again before anything is released."""
    made.mode.gate, made.mode.reached = asyncio.Event(), asyncio.Event()
    exchange = asyncio.create_task(made.exchanger.exchange(made.request(), made.context()))
    await made.mode.reached.wait()
    made.policies.put(policy("deploy-web", lifetime={"default": "1m", "max": "1m"}))
    made.mode.gate.set()
    with pytest.raises(PolicyDenied) as refused:
        await exchange
    assert refused.value.reason is Reason.POLICY_CHANGED
    assert await made.kinds() == ["intended", "failed", "withdrawn"]


async def test_a_policy_that_changed_meanwhile_grants_nothing_where_nothing_is_made(made: World) -> None:
    """The same where one transaction records intent and outcome: the token stays here, and its grant ends."""
    made.mode.at_cluster = False
    made.mode.gate, made.mode.reached = asyncio.Event(), asyncio.Event()
    exchange = asyncio.create_task(made.exchanger.exchange(made.request(), made.context()))
    await made.mode.reached.wait()
    made.policies.current.remove("deploy-web")
    made.mode.gate.set()
    with pytest.raises(PolicyDenied) as refused:
        await exchange
    assert refused.value.reason is Reason.POLICY_CHANGED
    assert await made.kinds() == ["intended", "issued", "failed", "withdrawn"]


async def test_a_caller_that_hangs_up_cancels_nothing_and_gets_nothing(made: World) -> None:
    """What was begun is finished, and the token that nobody waits for ends."""
    for fails in (False, True):
        made.mode.fail_issue = fails
        made.mode.gate, made.mode.reached = asyncio.Event(), asyncio.Event()
        exchange = asyncio.create_task(made.exchanger.exchange(made.request(), made.context()))
        await made.mode.reached.wait()
        exchange.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange
        made.mode.gate.set()
        await made.exchanger.drain()
    assert await made.kinds() == ["intended", "issued", "returned", "withdrawn", "intended", "failed", "withdrawn"]


async def test_a_caller_that_hangs_up_gets_nothing_where_nothing_is_made(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store was given is written, and ended; what it refuses is on record as for anybody."""
    made.mode.at_cluster = False
    begun, begin = asyncio.Event(), made.store.begin

    def beginning(intent: Intent) -> asyncio.Future[Grant | None]:
        begun.set()
        return begin(intent)

    monkeypatch.setattr(made.store, "begin", beginning)
    token = made.issuer.github_token()
    for _ in range(2):
        begun.clear()
        exchange = asyncio.create_task(made.exchanger.exchange(made.request(token), made.context()))
        await begun.wait()
        exchange.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange
        await made.exchanger.drain()
    assert await made.kinds() == ["intended", "issued", "returned", "withdrawn", "refused"]
    assert (await made.store.counts()).live == 0


async def test_an_exchange_has_a_time_limit(made: World) -> None:
    """What takes too long is refused as unavailable, and what comes of it all the same is ended."""
    made.exchanger._time_limit.seconds = 0.05
    made.mode.gate = asyncio.Event()
    assert (await _refused(made)).reason is Reason.CLUSTER_UNAVAILABLE
    made.mode.gate.set()
    await made.exchanger.drain()
    assert await made.kinds() == ["intended", "issued", "returned", "withdrawn"]
    assert made.outcomes == ["grpc CLUSTER_UNAVAILABLE"]


async def test_a_store_that_fails_releases_nothing(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the outcome cannot be recorded no token leaves, and the grant is undone when the store is back."""

    async def fails(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "told to fail")

    with monkeypatch.context() as patched:
        patched.setattr(made.store, "complete", fails)
        patched.setattr(made.store, "end", fails)
        assert isinstance(await _refused(made), StoreUnavailable)
    assert await made.kinds() == ["intended"]
    made.time += timedelta(hours=1)
    await made.endings.look(PROD)
    assert await made.kinds() == ["intended", "failed", "withdrawn"]


async def test_an_actor_is_authenticated_and_remembered(made: World) -> None:
    """An actor token is verified as a subject token is, and the grant and its token say who acts."""
    actors = [{"issuer": "github", "claims": {"repository_id": "99"}}]
    document = json.loads(policy("deploy-web"))
    document["spec"]["actors"] = actors
    made.policies.put(json.dumps(document))
    actor = PresentedToken(text=made.issuer.github_token(repository_id="99", sub="tool"))
    exchanged = await made.exchanger.exchange(
        made.request(actor_token=actor, actor_token_type=TokenType.JWT.value), made.context()
    )
    assert exchanged.grant.actor is not None
    claims = jwt.decode(exchanged.token.text, options={"verify_signature": False})
    assert claims["act"] == {"sub": "github/tool"}
    broken = PresentedToken(text="a.b.c")
    error = await _refused(made, actor_token=broken, actor_token_type=TokenType.JWT.value)
    assert isinstance(error, ActorTokenRejected)
    record = (await made.store.records(after=0, limit=9))[0].record
    assert record.body["actor"]["subject"] == "tool"


async def test_a_job_replaces_its_own_grant(made: World) -> None:
    """A grant that the same job names ends, and is withdrawn, when the new one is recorded."""
    first = await made.exchanger.exchange(made.request(made.issuer.github_token(check_run_id="5")), made.context())
    second = made.request(made.issuer.github_token(check_run_id="5"), replaces=first.grant.id)
    await made.exchanger.exchange(second, made.context())
    await made.endings.drain()
    found = await made.store.grant(first.grant.id)
    assert found is not None
    assert found.state is GrantState.WITHDRAWN
    assert made.mode.withdrawn == [first.grant.id]
    record = [stored.record for stored in await made.store.records(after=0, limit=99)][2]
    assert record.body["replaces"] == first.grant.id


async def test_giving_back_and_introspection(made: World) -> None:
    """A live token is what its grant says; given back it is nothing, and an unknown one never was anything."""
    exchanged = await made.exchanger.exchange(made.request(), made.context())
    token = PresentedToken(text=exchanged.token.text)
    found = await made.exchanger.introspect(token, made.context())
    assert found is not None
    assert (found[0].id, found[1].name) == (exchanged.grant.id, PROD)
    await made.exchanger.revoke(token, made.context())
    await made.exchanger.revoke(token, made.context())
    await made.exchanger.revoke(PresentedToken(text="unknown"), made.context())
    assert await made.exchanger.introspect(token, made.context()) is None
    assert await made.kinds() == ["intended", "issued", "returned", "withdrawn"]


async def test_an_expired_token_is_not_live(made: World) -> None:
    """Introspection goes by the clock, not by when somebody notices."""
    exchanged = await made.exchanger.exchange(made.request(), made.context())
    made.time += timedelta(minutes=6)
    assert await made.exchanger.introspect(PresentedToken(text=exchanged.token.text), made.context()) is None


async def test_ends_are_taken_up(made: World) -> None:
    """Expired grants are ended and withdrawn; where that fails it is put off, counted, and tried again."""
    exchanged = await made.exchanger.exchange(made.request(), made.context())
    assert await made.endings.look(PROD) == 0
    made.time += timedelta(minutes=6)
    made.mode.fail_withdraw = True
    assert await made.endings.look(PROD) == 1
    assert (await made.store.counts()).backlog == 1
    assert await made.endings.look(PROD) == 0
    made.mode.fail_withdraw = False
    made.endings._retry.clear()
    assert await made.endings.look(PROD) == 1
    assert (await made.store.counts()).backlog == 0
    assert made.mode.withdrawn == [exchanged.grant.id]


async def test_endings_run_until_cancelled(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop ends what is due, sweeps, survives a store that fails, and stops when it is told to."""
    exchanged = await made.exchanger.exchange(made.request(), made.context())
    made.time += timedelta(minutes=6)
    monkeypatch.setattr("exchanged.ending.endings.LOOK_INTERVAL", 0.001)
    due = made.store.due
    calls = 0

    async def fails_first(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailable(Reason.STORE_UNAVAILABLE, "told to fail")
        return await due(*arguments, **options)

    monkeypatch.setattr(made.store, "due", fails_first)
    running = asyncio.create_task(made.endings.run())
    async with asyncio.timeout(5):
        while "expired" not in (kinds := await made.kinds()) or "swept" not in kinds:  # noqa: ASYNC110 - on disk
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert exchanged.grant.id in made.mode.withdrawn


async def test_a_grant_of_a_cluster_that_is_gone_stays_backlog(made: World) -> None:
    """A cluster that is not configured any more cannot be withdrawn from, and is not said to be."""
    exchanged = await made.exchanger.exchange(made.request(), made.context())
    elsewhere = replace(exchanged.grant, allowed=replace(exchanged.grant.allowed, cluster=ClusterName("gone")))
    assert await made.endings.withdraw(elsewhere) is False


async def test_what_a_request_must_be(made: World) -> None:
    """Each malformed request is refused with the parameter's name, before anybody is authenticated."""
    jwt_type = TokenType.JWT.value
    detail = AuthorizationDetail(verbs=("get",) * 300)
    cases: list[tuple[dict[str, Any], Reason, str]] = [
        ({"token": ""}, Reason.PARAMETER_MISSING, "subject_token"),
        ({"subject_token_type": ""}, Reason.PARAMETER_MISSING, "subject_token_type"),
        ({"subject_token_type": "urn:x"}, Reason.UNSUPPORTED_TOKEN_TYPE, "subject_token_type"),
        ({"actor_token_type": jwt_type}, Reason.PARAMETER_CONFLICT, "actor_token_type"),
        ({"actor_token": PresentedToken(text="")}, Reason.PARAMETER_MISSING, "actor_token"),
        ({"actor_token": PresentedToken(text="x")}, Reason.PARAMETER_MISSING, "actor_token_type"),
        (
            {"actor_token": PresentedToken(text="x"), "actor_token_type": "urn:x"},
            Reason.UNSUPPORTED_TOKEN_TYPE,
            "actor_token_type",
        ),
        ({"requested_token_type": "urn:x"}, Reason.UNSUPPORTED_TOKEN_TYPE, "requested_token_type"),
        ({"audience": ("a",) * 33}, Reason.PARAMETER_TOO_LONG, "audience"),
        ({"resource": ("x" * 513,)}, Reason.PARAMETER_TOO_LONG, "resource"),
        ({"scope": ("a\nb",)}, Reason.MALFORMED, "scope"),
        ({"authorization_details": (AuthorizationDetail(),) * 33}, Reason.PARAMETER_TOO_LONG, "authorization_details"),
        ({"authorization_details": (detail,)}, Reason.PARAMETER_TOO_LONG, "authorization_details"),
        ({"intent": "x" * 501}, Reason.PARAMETER_TOO_LONG, "intent"),
        ({"intent": "a\x1b[31m"}, Reason.MALFORMED, "intent"),
        ({"lifetime": timedelta(0)}, Reason.MALFORMED, "requested_lifetime"),
        ({"replaces": GrantId("x" * 600)}, Reason.PARAMETER_TOO_LONG, "replaces_grant_id"),
    ]
    for changes, reason, parameter in cases:
        error = await _refused(made, **changes)
        assert isinstance(error, MalformedRequest)
        assert (error.reason, error.public) == (reason, {"parameter": parameter}), changes
    assert made.source.fetches == 0
