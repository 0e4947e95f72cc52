"""Asking, waiting, claiming, withdrawing: what an agent gets for each way a request can end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sse_gateway.agent import AgentClient, Decision, GatewayError, Option, Session
from sse_gateway.core.permissions import args_digest
from tests.agent.people import People
from tests.support.servers import RedisProcess
from tests.support.wait import until


async def asked(people: People, session_id: str, count: int = 1) -> list[str]:
    """Wait until so many requests are open and return their ids."""
    return list(
        await until(
            lambda: len(found := people.pending(session_id)) == count and found, f"{count} open requests"
        )
    )


async def test_an_approval_reaches_the_agent_with_all_it_says(
    any_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(any_server)
    session = agents(any_server).session(session_id, owner="user-1")
    parameters = {"cmd": "rm -rf build", "n": [1, 2.5, None, True, "é😀"]}
    waiting = asyncio.create_task(
        session.request_permission(
            "bash",
            parameters,
            risk_level="high",
            timeout=60,
            request_id="deploy:1",
            title="Delete build/",
            description="It is stale.",
            tool_call_id="call-1",
            options=[
                Option("once", "This time", "allow_once"),
                {"id": "no", "label": "No", "kind": "reject_once"},
            ],
            editable=True,
        )
    )
    assert await asked(people, session_id) == ["deploy:1"]
    request = people.request(session_id, "deploy:1")
    assert request["parameters"] == parameters
    assert request["args_digest"] == args_digest(parameters)
    assert request["options"][0] == {"id": "once", "label": "This time", "kind": "allow_once"}
    assert (request["risk_level"], request["editable"], request["title"]) == ("high", True, "Delete build/")
    verdict = people.answer(
        session_id,
        "deploy:1",
        reason="fine",
        option_id="once",
        option_kind="allow_once",
        updated_input={"cmd": "rm -rf build/tmp"},
    )
    assert verdict == "won"
    decision = await waiting
    assert decision.decided_at is not None
    assert abs((datetime.now(UTC) - decision.decided_at).total_seconds()) < 10
    assert decision == Decision(
        request_id="deploy:1",
        outcome="approved",
        approved=True,
        reason="fine",
        option_id="once",
        option_kind="allow_once",
        updated_input={"cmd": "rm -rf build/tmp"},
        args_digest=args_digest(parameters),
        decided_by="user-1",
        client_id="page-1",
        source="human",
        decided_at=decision.decided_at,
    )
    assert decision.arguments(parameters) == {"cmd": "rm -rf build/tmp"}


async def test_a_denial_is_no_exception(agent: AgentClient, people: People, session_id: str) -> None:
    session = agent.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}))
    (request_id,) = await asked(people, session_id)
    people.answer(session_id, request_id, approved=False, reason="not today")
    decision = await waiting
    assert (decision.outcome, decision.approved, decision.reason) == ("denied", False, "not today")


async def test_a_decision_arrives_at_once_and_not_by_the_next_look(
    agents: Callable[..., AgentClient], server: RedisProcess, people: People, session_id: str
) -> None:
    session = agents(server, recheck_seconds=3600).session(session_id)
    for _ in range(3):
        waiting = asyncio.create_task(session.request_permission("bash", {}))
        (request_id,) = await asked(people, session_id)
        await asyncio.sleep(0.1)
        before = time.monotonic()
        people.answer(session_id, request_id)
        await waiting
        assert time.monotonic() - before < 2


async def test_nobody_answering_is_expired_and_never_denied(
    agent: AgentClient, people: People, session_id: str
) -> None:
    before = time.monotonic()
    decision = await agent.session(session_id).request_permission("bash", {}, timeout=0.5)
    assert 0.45 < time.monotonic() - before < 2
    assert (decision.outcome, decision.approved, decision.source) == ("expired", False, "timeout")
    assert people.events(session_id)[-1]["type"] == "permission_cleared"


async def test_asked_again_with_the_same_id_gives_the_stored_decision(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {"a": 1}, request_id="r1"))
    await asked(people, session_id)
    people.answer(session_id, "r1")
    first = await waiting
    assert await session.request_permission("bash", {"a": 1}, request_id="r1") == first
    assert await session.decision("r1") == first


async def test_two_tasks_asking_the_same_get_the_same_decision(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    tasks = [
        asyncio.create_task(session.request_permission("bash", {"a": 1}, request_id="r1")) for _ in range(3)
    ]
    await asked(people, session_id)
    # One of them gives up: that withdraws nothing, since the others still wait.
    await asyncio.sleep(0.1)
    tasks.pop().cancel()
    await asyncio.sleep(0.2)
    people.answer(session_id, "r1")
    assert len(set(map(str, await asyncio.gather(*tasks)))) == 1


async def test_an_old_approval_never_covers_other_arguments(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {"a": 1}, request_id="r1"))
    await asked(people, session_id)
    people.answer(session_id, "r1")
    await waiting
    with pytest.raises(GatewayError) as raised:
        await session.request_permission("bash", {"a": 2}, request_id="r1")
    assert raised.value.code == "request_mismatch"


async def test_one_of_many_workers_claims_and_keeps_its_claim(
    agents: Callable[..., AgentClient], server: RedisProcess, people: People, session_id: str
) -> None:
    workers = [agents(server).session(session_id) for _ in range(8)]
    waiting = [
        asyncio.create_task(worker.request_permission("bash", {"a": 1}, request_id="r1"))
        for worker in workers
    ]
    await asked(people, session_id)
    people.answer(session_id, "r1")
    decisions = await asyncio.gather(*waiting)
    claims = await asyncio.gather(
        *(worker.claim(decision) for worker, decision in zip(workers, decisions, strict=True))
    )
    assert claims.count(True) == 1
    again = await asyncio.gather(
        *(worker.claim(decision) for worker, decision in zip(workers, decisions, strict=True))
    )
    assert again == claims
    assert not await workers[0].claim("r1", "somebody else")


async def test_each_wait_of_a_client_is_a_worker_and_a_given_id_outlives_the_client(
    agents: Callable[..., AgentClient], server: RedisProcess, people: People, session_id: str
) -> None:
    """Two tasks of one client do not both act; an agent that names its worker may, also after a restart."""
    session = agents(server).session(session_id)

    async def ask(name: str) -> Decision:
        return await session.request_permission("bash", {}, request_id=name)

    waiting = [asyncio.create_task(ask(name)) for name in ("r1", "r1", "r2", "r2")]
    for name in await asked(people, session_id, 2):
        people.answer(session_id, name)
    first, second, third, fourth = await asyncio.gather(*waiting)
    assert first == second
    assert sorted([await session.claim(first), await session.claim(second)]) == [False, True]
    assert sorted([await session.claim(first), await session.claim(second)]) == [False, True]
    assert not await session.claim(await ask("r1"))

    assert await session.claim(third, "worker-7")
    assert not await session.claim(third)
    restarted = agents(server).session(session_id)
    assert await restarted.claim(await restarted.request_permission("bash", {}, request_id="r2"), "worker-7")
    assert await session.claim(fourth, "worker-7")


async def test_what_was_not_approved_by_anybody_cannot_be_claimed(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    expired = await session.request_permission("bash", {}, timeout=0.1)
    assert not await session.claim(expired)
    waiting = asyncio.create_task(session.request_permission("bash", {}, request_id="r2"))
    await asked(people, session_id)
    assert not await session.claim("r2")
    await session.cancel("r2")
    assert not await session.claim(await waiting)
    with pytest.raises(GatewayError, match="no request") as raised:
        await session.claim("nobody-asked-this")
    assert raised.value.code == "unknown_request"


async def test_cancel_reaches_whoever_waits_and_keeps_what_came_before_it(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, request_id="r1"))
    await asked(people, session_id)
    made = await session.cancel("r1", "changed my mind")
    decision = await waiting
    assert made == decision
    assert (decision.outcome, decision.reason, decision.source) == ("cancelled", "changed my mind", "cancel")
    waiting = asyncio.create_task(session.request_permission("bash", {}, request_id="r2"))
    await asked(people, session_id)
    people.answer(session_id, "r2")
    assert (await session.cancel("r2")).outcome == "approved"
    assert (await waiting).approved


async def test_end_cancels_what_is_open(agent: AgentClient, people: People, session_id: str) -> None:
    session = agent.session(session_id)
    tasks = [asyncio.create_task(session.request_permission("bash", {"n": n})) for n in range(3)]
    await asked(people, session_id, 3)
    assert await session.end("done") == 3
    assert {(decision.outcome, decision.reason) for decision in await asyncio.gather(*tasks)} == {
        ("cancelled", "done")
    }


async def test_fail_gives_up_when_nobody_is_watching(
    agent: AgentClient, people: People, session_id: str
) -> None:
    before = time.monotonic()
    decision = await agent.session(session_id).request_permission("bash", {}, on_no_viewer="fail")
    assert 1 <= time.monotonic() - before < 3
    assert (decision.outcome, decision.reason, decision.source) == ("cancelled", "no_viewer", "cancel")
    people.watch(session_id, 1)
    decision = await agent.session(session_id).request_permission(
        "bash", {}, on_no_viewer="fail", timeout=0.5
    )
    assert decision.outcome == "expired"


async def test_deny_after_counts_from_when_the_last_viewer_left(
    agent: AgentClient, people: People, session_id: str
) -> None:
    session = agent.session(session_id)
    before = time.monotonic()
    decision = await session.request_permission("bash", {}, on_no_viewer="deny_after:0.4")
    assert 0.4 <= time.monotonic() - before < 2
    assert (decision.outcome, decision.reason) == ("cancelled", "no_viewer")

    people.watch(session_id, 1)
    waiting = asyncio.create_task(session.request_permission("bash", {}, on_no_viewer="deny_after:0.4"))
    await asyncio.sleep(1.2)
    assert not waiting.done()
    people.watch(session_id, 0)
    assert (await waiting).reason == "no_viewer"


@pytest.mark.parametrize(("policy", "most"), [("fail", 1), ("deny_after:60", 1), ("deny_after:0.01", 4)])
async def test_while_somebody_is_watching_redis_is_asked_seldom(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str, policy: str, most: int
) -> None:
    """What a waiting request costs in three seconds."""
    people = People(own_server)
    people.watch(session_id, 1)
    session = agents(own_server).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, on_no_viewer=policy))
    (request_id,) = await asked(people, session_id)
    await until(lambda: own_server.client.client_list(_type="pubsub"), "the agent's subscription")

    def calls() -> int:
        return int(own_server.client.info("commandstats")["cmdstat_fcall"]["calls"])

    # The look that follows the subscription is none of these.
    await until(lambda: calls() >= 4, "the first look")
    before = calls()
    await asyncio.sleep(3)
    assert calls() - before <= most
    people.answer(session_id, request_id)
    assert (await waiting).approved


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on_no_viewer": "deny"}, "deny_after:SECONDS"),
        ({"on_no_viewer": "deny_after:soon"}, "deny_after:SECONDS"),
        ({"timeout": 0}, "seconds"),
        ({"timeout": 24 * 3600}, "seconds"),
        ({"risk_level": "extreme"}, "low, medium, high"),
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": ".."}, "request_id"),
        ({"options": [{"id": "x", "label": "X", "kind": "allow"}]}, "allow_once"),
        ({"options": [{"id": "x"}]}, "label"),
        ({"title": "\ud800"}, "surrogate"),
        ({"title": 3}, "string"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_before_it_is_sent(
    agent: AgentClient, people: People, session_id: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(GatewayError, match=says) as raised:
        await agent.session(session_id).request_permission("bash", {}, **arguments)
    assert raised.value.code == "bad_request"
    assert people.pending(session_id) == []


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"id": 2**53}, "id is 9007199254740992, which a browser would round"),
        ({"a": {"b": [1, float("nan")]}}, r"a\.b\[1\] is nan"),
        ({"a": {1: 2}}, "a has the key 1"),
        ({"a": {"b", "c"}}, "a is of type set"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "when is of type datetime.datetime"),
        ({"a": "half \udc00"}, "a has half of a surrogate pair at character 5"),
        ([1], "mapping"),
        (None, "mapping"),
    ],
)
async def test_parameters_that_nobody_could_read_as_they_are_are_refused_with_their_place(
    agent: AgentClient, session_id: str, parameters: Any, says: str
) -> None:
    with pytest.raises(GatewayError, match=says):
        await agent.session(session_id).request_permission("bash", parameters)


async def test_a_namespace_keeps_two_deployments_apart(
    agents: Callable[..., AgentClient], server: RedisProcess, session_id: str
) -> None:
    people = People(server, namespace="staging_")
    session = agents(server, namespace="staging_").session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}))
    (request_id,) = await asked(people, session_id)
    assert People(server).pending(session_id) == []
    people.answer(session_id, request_id)
    assert (await waiting).approved


def test_a_session_is_checked_when_it_is_made(server: RedisProcess) -> None:
    client = AgentClient(server.url)
    for wrong in ("", "a/b", "a}b{c", "x" * 129, ".."):
        with pytest.raises(GatewayError) as raised:
            client.session(wrong)
        assert raised.value.code == "bad_session_id"
    assert repr(client.session("s1")) == "<Session s1>"
    assert isinstance(client.session("s1"), Session)
