"""`Idempotency-Key` on answers: a page that does not know whether its answer arrived sends it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Dial, Ear, all_at_once, answering, crowd
from tests.support.wait import until

APPROVE: dict[str, Any] = {"approved": True, "request_id": "r", "reason": "yes"}


async def test_one_answer_sent_many_times_counts_once(
    desk: Desk, agent: Agent, ear: Ear, dial: Dial, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """The same key and answer, at three gateways at once and later: one wins, the rest repeat it."""
    people = await crowd(dial, desk.gateways, 12)
    for n in range(scale(5, 200)):
        name = f"r{n}"
        agent.ask(session_id, request_id=name)
        body = APPROVE | {"request_id": name, "approved": n % 2 == 0}
        answer = answering(session_id, body, Idempotency_Key=f"key-{n}")
        replies = await all_at_once(people, [answer] * len(people))
        replies += await all_at_once(people[:3], [answer] * 3)
        assert [reply.status for reply in replies] == [200] * 15
        assert [reply.won for reply in replies].count(True) == 1
        assert all(reply.decision == replies[0].decision for reply in replies)
        await until(lambda n=n: len(ear.heard) == n + 1, "the agent to hear of one")  # type: ignore[misc]
    assert [decision["request_id"] for decision in agent.told(session_id)] == [
        decision["request_id"] for decision in ear.heard
    ]


@pytest.mark.parametrize(
    "other",
    [
        APPROVE | {"approved": False},
        APPROVE | {"request_id": "r2"},
        APPROVE | {"option_id": "once"},
        APPROVE | {"updated_input": {"cmd": "ls"}},
        {"approved": True},
    ],
    ids=["the opposite", "another request", "an option", "an edit", "no request"],
)
async def test_another_answer_under_the_same_key_is_refused(
    desk: Desk, agent: Agent, dial: Dial, session_id: str, other: dict[str, Any]
) -> None:
    """A key that stands for one answer is not taken for another, at any gateway, and decides nothing."""
    options = [{"id": "once", "label": "Once", "kind": "allow_once"}]
    for name in ("r", "r2"):
        agent.ask(session_id, request_id=name, options=options, editable=True)
    lines = [await dial(gateway) for gateway in desk.gateways]
    first = await lines[0].send(answering(session_id, APPROVE, Idempotency_Key="k"))
    assert first.won
    for line in lines:
        reply = await line.send(answering(session_id, other, Idempotency_Key="k"))
        assert (reply.status, reply.code) == (422, "idempotency_mismatch")
        again = await line.send(answering(session_id, APPROVE, Idempotency_Key="k"))
        assert (again.status, again.body["data"]["replayed"]) == (200, True)
        assert again.decision == first.decision
    assert agent.pending(session_id) == ["r2"]
    assert len(agent.told(session_id)) == 1


async def test_a_key_on_a_refused_answer_is_still_free(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """What decided nothing because it was wrong may be corrected under the same key."""
    agent.ask(session_id, request_id="r")
    first, second = await dial(desk.a), await dial(desk.b)
    wrong = answering(session_id, APPROVE | {"option_id": "nope"}, Idempotency_Key="k")
    assert (await first.send(wrong)).code == "option_conflict"
    assert (await second.send(answering(session_id, APPROVE, Idempotency_Key="k"))).won


async def test_a_loser_s_key_tells_it_the_same_again(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """An answer that lost has lost for good: repeated under its key it is told so, with what counts."""
    agent.ask(session_id, request_id="r")
    ann, bob = await dial(desk.a), await dial(desk.b)
    won = await ann.send(answering(session_id, APPROVE, user="ann", Idempotency_Key="ann-1"))
    deny = answering(session_id, APPROVE | {"approved": False}, user="bob", Idempotency_Key="bob-1")
    for reply in await asyncio.gather(bob.send(deny), ann.send(deny)):
        assert (reply.status, reply.code) == (409, "already_decided")
        assert reply.decision == won.decision


async def test_a_click_under_a_key_never_answers_what_came_since(
    desk: Desk, agent: Agent, dial: Dial, session_id: str
) -> None:
    """An answer that names no request, repeated under its key, stays with the request it answered."""
    agent.ask(session_id, request_id="first")
    line, elsewhere = await dial(desk.c), await dial(desk.a)
    click = answering(session_id, {"approved": True}, Idempotency_Key="click-1")
    assert (await line.send(click)).won
    agent.ask(session_id, request_id="second")
    # As if it had been settled a while ago: without the key the click would now mean the second.
    desk.server.client.zadd(f"sse:{{{session_id}}}:settled", {"first": 1})
    for reply in (await line.send(click), await elsewhere.send(click)):
        assert (reply.status, reply.body["data"]["replayed"]) == (200, True)
        assert reply.decision["request_id"] == "first"
    assert agent.pending(session_id) == ["second"]
