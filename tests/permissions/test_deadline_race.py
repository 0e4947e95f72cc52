"""Answers that arrive in the milliseconds around a deadline: one outcome, told to everybody alike."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Self

from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Dial, Ear, Line, Reply, Tab, answering, crowd
from tests.support.servers import RedisProcess
from tests.support.wait import until

SPREAD_SECONDS = 0.005
SESSIONS = 10
CLOSE_IN = 5
"""Once in so many rounds an answer has to reach Redis within the spread before a deadline, and once after."""


def moment(iso: str) -> float:
    """Return unix seconds."""
    return datetime.fromisoformat(iso).timestamp()


async def at(when: float) -> None:
    """Return at a moment, more exactly than the loop's timers are."""
    await asyncio.sleep(max(0.0, when - time.time() - 0.002))
    while time.time() < when:
        await asyncio.sleep(0)


class Landings:
    """When each answer reached Redis, by the clock of Redis: it tells of every call (MONITOR)."""

    def __init__(self, server: RedisProcess) -> None:
        self._server = server
        self._landed: dict[tuple[str, str], list[float]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        self._client = self._server.connect()
        self._monitor = await self._client.monitor().__aenter__()
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._monitor.__aexit__()
        await self._client.aclose()

    async def of(self, session_id: str, request_id: str, count: int) -> list[float]:
        """Return when the answers to a request landed, in unix seconds."""
        landed = self._landed[f"sse:{{{session_id}}}", request_id]
        await until(lambda: len(landed) == count, "the answers to land")
        return landed

    async def _listen(self) -> None:
        async for seen in self._monitor.listen():
            words = seen["command"].split(" ", 5)
            if words[:2] == ["FCALL", "sse_answer"]:
                self._landed[words[3], words[4]].append(seen["time"])


class Race:
    """One session whose requests are answered about when they expire."""

    def __init__(self, desk: Desk, agent: Agent, landings: Landings, session_id: str) -> None:
        self.desk, self.agent, self.landings, self.session_id = desk, agent, landings, session_id
        self.lead = 0.002
        """How long before the deadline to send, so that about half are late: the machine decides."""
        self.outcomes: list[str] = []
        self.distances: list[float] = []
        """How long after its deadline each answer reached Redis, in seconds; before it where negative."""

    async def run(self, tab: Tab, dial: Dial, rounds: int) -> None:
        """Ask and answer, check after each round and at the end."""
        tabs = [await tab(gateway, self.session_id) for gateway in self.desk.gateways]
        people = await crowd(dial, self.desk.gateways, 2)
        async with Ear(self.desk.server, self.session_id) as ear:
            # A busy machine delays some by more than the spread: there it takes more rounds.
            while (turn := len(self.outcomes)) < rounds or (turn < 4 * rounds and not self.close(rounds)):
                await self.round(people, f"r{turn}")
                await until(lambda turn=turn: len(ear.heard) > turn, "the agent to hear")  # type: ignore[misc]
            for stream in tabs:
                await stream.message("permission_cleared", count=len(self.outcomes))
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

    def landed(self) -> tuple[int, int]:
        """Return how many answers reached Redis within the spread before their deadline, and after it."""
        before = sum(-SPREAD_SECONDS <= distance < 0 for distance in self.distances)
        return before, sum(0 <= distance <= SPREAD_SECONDS for distance in self.distances)

    def close(self, rounds: int) -> bool:
        """Tell whether enough have, on both sides."""
        return min(self.landed()) >= rounds // CLOSE_IN

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
        assert all(reply.decision == decision for reply in replies)
        landed = await self.landings.of(self.session_id, request_id, len(replies))
        distances = [moment - deadline for moment in landed]
        self.lead += sum(distances) / len(distances) / 2
        self.distances += distances


async def test_answers_that_race_the_deadline_have_one_outcome_that_all_agree_on(
    desk: Desk, agent: Agent, tab: Tab, dial: Dial, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Within ±5 ms of a deadline, tabs, agent, history and HTTP status tell one outcome, a true one.

    At least 20 answers (300 in `make test-long`) reach Redis in the last 5 ms, and as many in the 5 ms after.
    """
    rounds = scale(10, 150)
    async with Landings(desk.server) as landings:
        races = [Race(desk, agent, landings, f"{session_id}-{n}") for n in range(SESSIONS)]
        await asyncio.gather(*(race.run(tab, dial, rounds) for race in races))
    before, after = (sum(side) for side in zip(*(race.landed() for race in races), strict=True))
    answers = sum(len(race.distances) for race in races)
    print(f"of {answers} answers {before} landed within 5 ms before the deadline, {after} after it")
    assert all(race.close(rounds) for race in races), "it was no race"
    outcomes = [outcome for race in races for outcome in race.outcomes]
    assert 0.1 < outcomes.count("expired") / len(outcomes) < 0.9
