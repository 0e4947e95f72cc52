"""Many people answer the same request in the same moment, each as they like, at three gateways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Dial, Ear, Reply, Tab, all_at_once, answering, crowd
from tests.support.wait import until

PEOPLE = 200
OPTIONS = [
    {"id": "once", "label": "Once", "kind": "allow_once"},
    {"id": "never", "label": "Never", "kind": "reject_always"},
]
OPINIONS: list[dict[str, Any]] = [
    {"approved": True},
    {"approved": False},
    {"approved": True, "option_id": "once"},
    {"approved": False, "option_id": "never"},
    {"approved": True, "updated_input": {"cmd": "ls", "n": [1, {}]}},
]
"""Answers that contradict each other; two of one kind are the same answer."""


def opinion(decision: dict[str, Any]) -> dict[str, Any]:
    """Return which of them a decision is."""
    members = {name: decision[name] for name in ("approved", "option_id", "updated_input")}
    return {name: value for name, value in members.items() if value is not None}


def check(replies: list[Reply]) -> dict[str, Any]:
    """Return the one decision that everybody was told, each in a way that is true of their own answer."""
    winners = [n for n, reply in enumerate(replies) if reply.won]
    assert len(winners) == 1
    decision = replies[winners[0]].decision
    assert decision["client_id"] == f"page-{winners[0]}"
    assert decision["decided_by"] == f"user-{winners[0] % 7}"
    for n, reply in enumerate(replies):
        assert reply.decision == decision
        if OPINIONS[n % len(OPINIONS)] == opinion(decision):
            assert (reply.status, reply.body["data"]["replayed"]) == (200, n != winners[0])
        else:
            assert (reply.status, reply.code) == (409, "already_decided")
    return decision


async def test_of_200_conflicting_answers_one_wins_and_everybody_is_told_the_truth(
    desk: Desk,
    agent: Agent,
    ear: Ear,
    tab: Tab,
    dial: Dial,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Of 200 answers one wins, 199 are told so, agent and tabs have one decision; 1,000 rounds."""
    rounds = scale(10, 1000)
    tabs = [await tab(gateway, session_id) for gateway in desk.gateways for _ in range(2)]
    people = await crowd(dial, desk.gateways, PEOPLE)
    decisions = []
    for turn in range(rounds):
        request_id = f"r{turn}"
        agent.ask(session_id, request_id=request_id, options=OPTIONS, editable=True)
        requests = [
            answering(
                session_id,
                {**OPINIONS[n % len(OPINIONS)], "request_id": request_id, "client_id": f"page-{n}"},
                user=f"user-{n % 7}",
            )
            for n in range(PEOPLE)
        ]
        decisions.append(check(await all_at_once(people, requests)))
    await until(lambda: len(ear.heard) >= rounds, "the agent to hear of every decision")
    assert ear.heard == decisions
    # The stream keeps about the last thousand.
    assert agent.told(session_id) == decisions[-len(agent.told(session_id)) :]
    for stream in tabs:
        await stream.message("permission_cleared", count=rounds)
        kinds = [message["type"] for message in stream.messages]
        assert kinds == ["permission_request", "permission_cleared"] * rounds
        cleared = [message["data"] for message in stream.messages[1::2]]
        assert [{**data, "message": ...} for data in cleared] == [
            {**decision, "message": ...} for decision in decisions
        ]
        assert len(set(stream.ids)) == 2 * rounds
    # Who wins is not settled by who was sent first, nor by what was answered.
    assert len({decision["client_id"] for decision in decisions}) > 1
