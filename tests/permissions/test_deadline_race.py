"""Answers that arrive in the milliseconds around a deadline: one outcome, told to everybody alike."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import datetime

from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Dial, Ear, Line, Reply, Tab, answering, crowd
from tests.support.wait import until

SPREAD_SECONDS = 0.005
SESSIONS = 10


def moment(iso: str) -> float:
    """Return unix seconds."""
    return datetime.fromisoformat(iso).timestamp()


async def at(when: float) -> None:
    """Return at a moment, more exactly than the loop's timers are."""
    await asyncio.sleep(max(0.0, when - time.time() - 0.002))
    while time.time() < when:
        await asyncio.sleep(0)


class Race:
    """One session whose requests are answered about when they expire."""

    def __init__(self, desk: Desk, agent: Agent, session_id: str) -> None:
        self.desk, self.agent, self.session_id = desk, agent, session_id
        self.lead, self.step = 0.002, 0.008
        """How long before the deadline to send, so that about half are late, and how to find it."""
        self.late: bool | None = None
        self.outcomes: list[str] = []

    async def run(self, tab: Tab, dial: Dial, rounds: int) -> None:
        """Ask and answer, check after each round and at the end."""
        tabs = [await tab(gateway, self.session_id) for gateway in self.desk.gateways]
        people = await crowd(dial, self.desk.gateways, 2)
        async with Ear(self.desk.server, self.session_id) as ear:
            for turn in range(rounds):
                await self.round(people, f"r{turn}")
                await until(lambda turn=turn: len(ear.heard) > turn, "the agent to hear")  # type: ignore[misc]
            for stream in tabs:
                await stream.message("permission_cleared", count=rounds)
                cleared = [m["data"] for m in stream.messages if m["type"] == "permission_cleared"]
                assert [data | {"message": ""} for data in cleared] == [
                    d | {"message": ""} for d in ear.heard
                ]
            told = self.agent.told(self.session_id)
            assert told == ear.heard[-len(told) :]
            assert [decision["outcome"] for decision in ear.heard] == self.outcomes
            kept = self.agent.events(self.session_id, "permission_cleared")
            assert [event["data"] | {"message": ""} for event in kept] == [
                decision | {"message": ""} for decision in ear.heard[-len(kept) :]
            ]

    async def round(self, people: list[Line], request_id: str) -> None:
        standing = self.agent.ask(self.session_id, request_id=request_id, expires_in=0.15)
        deadline = moment(standing["expires_at"])

        async def answer(n: int) -> Reply:
            body = {"approved": n == 0, "request_id": request_id}
            await at(deadline - self.lead + random.uniform(-SPREAD_SECONDS, SPREAD_SECONDS))
            return await people[n].send(answering(self.session_id, body))

        replies = await asyncio.gather(answer(0), answer(1))
        decision = self.agent.standing(self.session_id, request_id)["decision"]
        self.outcomes.append(decision["outcome"])
        in_time = moment(decision["decided_at"]) < deadline
        if decision["outcome"] == "expired":
            assert not in_time
            assert [(reply.status, reply.code) for reply in replies] == [(410, "request_expired")] * 2
        else:
            assert in_time
            approve, deny = replies
            first, second = (approve, deny) if decision["outcome"] == "approved" else (deny, approve)
            assert first.won
            assert (second.status, second.code) == (409, "already_decided")
        self.aim(late=decision["outcome"] == "expired")
        assert all(reply.decision == decision for reply in replies)

    def aim(self, *, late: bool) -> None:
        """Send earlier after an answer that was late, else later: the machine decides how long it takes."""
        if self.late is not None and late != self.late:
            self.step = max(0.001, self.step / 2)
        self.late = late
        self.lead += self.step if late else -self.step


async def test_answers_that_race_the_deadline_have_one_outcome_that_all_agree_on(
    desk: Desk, agent: Agent, tab: Tab, dial: Dial, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Within ±5 ms of a deadline, tabs, agent, history and HTTP status tell one outcome, a true one."""
    races = [Race(desk, agent, f"{session_id}-{n}") for n in range(SESSIONS)]
    await asyncio.gather(*(race.run(tab, dial, scale(10, 150)) for race in races))
    outcomes = [outcome for race in races for outcome in race.outcomes]
    assert 0.1 < outcomes.count("expired") / len(outcomes) < 0.9, "it was no race"
