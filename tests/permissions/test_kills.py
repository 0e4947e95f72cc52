"""Gateways, agents and Redis end at the worst moment: what was decided is delivered, and claimed once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sse_gateway.agent import AgentClient
from tests.permissions.desk import CROWDED, Agent, Dial, Ear, Gateways, Line, Tab, answering, crowd, open_at
from tests.support import started
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until

pytestmark = pytest.mark.chaos

Agents = Callable[..., AgentClient]
WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.parametrize(
    ("approved", "key"), [(True, ""), (False, "key-1")], ids=["approved", "denied with key"]
)
async def test_a_gateway_killed_between_the_script_and_its_reply_has_decided(  # noqa: PLR0917
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    agents: Agents,
    tab: Tab,
    dial: Dial,
    session_id: str,
    approved: bool,
    key: str,
) -> None:
    """Agent and tabs have the decision, a repetition elsewhere is told that it counted, one claims."""
    proxy = proxied(own_server)
    first, second = await asyncio.gather(gateways(proxy, **CROWDED), gateways(own_server, **CROWDED))
    agent = Agent(own_server)
    stream = await tab(second, session_id)
    workers = [agents(own_server, worker_id=f"w{n}").session(session_id) for n in range(2)]
    waiting = [
        asyncio.create_task(worker.request_permission("bash", {"n": 1}, request_id="r", timeout=60))
        for worker in workers
    ]
    await stream.message("permission_request")
    body = {"approved": approved, "request_id": "r", "reason": "so be it"}
    headers = {"Idempotency_Key": key} if key else {}
    line = await dial(first)
    proxy.withhold(b"sse_answer")
    answer = line.send(answering(session_id, body, user="ann", **headers))
    decisions = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert proxy.withholding
    assert not answer.done()
    first.kill()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(answer, 5)

    assert {decision.approved for decision in decisions} == {approved}
    assert {decision.decided_by for decision in decisions} == {"ann"}
    assert (await stream.message("permission_cleared"))["data"]["decided_by"] == "ann"
    line = await dial(second)
    again = await line.send(answering(session_id, body, user="ann", **headers))
    assert (again.status, again.body["data"]["replayed"]) == (200, True)
    other = await line.send(answering(session_id, body | {"approved": not approved}, user="bob"))
    assert (other.status, other.decision) == (409, again.decision)
    claims = await asyncio.gather(*(worker.claim(decisions[0]) for worker in workers for _ in range(2)))
    assert sorted(claims) == [False, False, True, True]
    assert len(agent.told(session_id)) == 1
    assert [m["type"] for m in stream.messages] == ["permission_request", "permission_cleared"]
    # The one that took the answer cannot write its line any more, so another does.
    await until(lambda: second.logs("permission_decided"), "the line of the decision")
    (audited,) = first.logs("permission_decided") + second.logs("permission_decided")
    assert (audited["outcome"], audited["decided_by"]) == (decisions[0].outcome, "ann")


async def test_a_reply_that_does_not_come_is_a_503_and_the_repetition_tells_the_truth(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Gateways,
    dial: Dial,
    session_id: str,
) -> None:
    """A gateway that does not learn what became of an answer says so, and the same answer again finds out."""
    proxy = proxied(own_server)
    gateway = await gateways(proxy, **CROWDED)
    agent = Agent(own_server)
    agent.ask(session_id, request_id="r")
    line = await dial(gateway)
    proxy.withhold(b"sse_answer")
    lost = await line.send(answering(session_id, {"approved": True, "request_id": "r"}))
    assert (lost.status, lost.code) == (503, "redis_unavailable")
    assert agent.standing(session_id, "r")["decision"]["approved"] is True
    proxy.release()
    again = await line.send(answering(session_id, {"approved": True, "request_id": "r"}))
    assert (again.status, again.body["data"]["replayed"]) == (200, True)


class Worker:
    """An agent in a process of its own, which asks under a fixed id and acts if it may."""

    def __init__(self, server: RedisProcess, session_id: str, folder: Path) -> None:
        self.done = folder / "done"
        self._command = [sys.executable, str(WORKER), server.url, session_id, str(self.done)]
        self._log = folder / "log"

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return started.start("an agent", self._command, output=output)

    @property
    def deeds(self) -> list[str]:
        return self.done.read_text().splitlines() if self.done.exists() else []


async def test_an_agent_killed_while_waiting_is_told_when_it_is_back(
    own_server: RedisProcess, gateways: Gateways, tab: Tab, dial: Dial, session_id: str, tmp_path: Path
) -> None:
    """An answer given while no agent lives reaches the restarted one; a paused twin acts no second time."""
    gateway = await gateways(own_server, **CROWDED)
    worker = Worker(own_server, session_id, tmp_path)
    stream = await tab(gateway, session_id)
    killed, paused = worker.start(), worker.start()
    await stream.message("permission_request")
    agent = Agent(own_server)
    await until(
        lambda: own_server.client.pubsub_numsub(f"permission_response:{session_id}")[0][1] == 2,
        "both agents to wait",
    )
    started.end(killed, signal.SIGKILL)
    os.kill(paused.pid, signal.SIGSTOP)
    assert agent.pending(session_id) == ["deploy-7"], "whoever is gone withdraws nothing"
    line = await dial(gateway)
    assert (await line.send(answering(session_id, {"approved": True, "request_id": "deploy-7"}))).won
    restarted = worker.start()
    await until(lambda: worker.deeds, "the restarted agent to act")
    os.kill(paused.pid, signal.SIGCONT)
    for process in (paused, restarted):
        assert await asyncio.to_thread(process.wait, 20) == 0
        started.forget(process)
    assert worker.deeds == ["approved"]
    assert [m["type"] for m in stream.messages] == ["permission_request", "permission_cleared"]


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
async def test_redis_restarted_while_agents_wait(
    any_own_server: RedisProcess,
    gateways: Gateways,
    agents: Agents,
    tab: Tab,
    dial: Dial,
    session_id: str,
    empty: bool,
) -> None:
    """Whether Redis kept the request or not, it is open once on all tabs, answered, told, claimed once."""
    server = any_own_server
    two = await asyncio.gather(*(gateways(server, **CROWDED) for _ in range(2)))
    tabs = [await tab(gateway, session_id) for gateway in two]
    workers = [agents(server, worker_id=f"w{n}").session(session_id) for n in range(2)]
    waiting = [
        asyncio.create_task(worker.request_permission("bash", {"n": 1}, request_id="r", timeout=60))
        for worker in workers
    ]
    for stream in tabs:
        await stream.message("permission_request")
    server.save()
    await asyncio.to_thread(server.restart, empty=empty)
    agent = Agent(server)
    await until(lambda: agent.pending(session_id) == ["r"], "the request to be open again", seconds=20)
    for gateway in two:
        await gateway.answers("/readyz")
    for stream in tabs:
        await stream.wait(lambda stream=stream: open_at(stream) == ["r"], "the dialog")  # type: ignore[misc]
    line = await dial(two[1])
    reply = await line.send(answering(session_id, {"approved": True, "request_id": "r"}, user="ann"))
    assert reply.won, reply
    decisions = await asyncio.wait_for(asyncio.gather(*waiting), 15)
    assert [decision.decided_by for decision in decisions] == ["ann", "ann"]
    claims = await asyncio.gather(*(worker.claim(decisions[0]) for worker in workers))
    assert sorted(claims) == [False, True]
    assert len(agent.told(session_id)) == 1
    for stream in tabs:
        await stream.wait(lambda stream=stream: open_at(stream) == [], "the dialog to be closed", seconds=20)  # type: ignore[misc]
        assert len(stream.named("stream_reset")) == (1 if empty else 0)
    # Whoever comes now sees no ghost.
    late = await tab(two[0], session_id)
    assert open_at(late) == []


async def test_answers_that_come_while_redis_restarts_are_made_once(
    own_server: RedisProcess,
    gateways: Gateways,
    tab: Tab,
    dial: Dial,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """People who repeat their answer until it is taken, through restarts, make one decision a request."""
    two = await asyncio.gather(*(gateways(own_server, **CROWDED) for _ in range(2)))
    agent = Agent(own_server)
    people = await crowd(dial, two, 6)

    async def insist(line: Line, body: dict[str, Any]) -> dict[str, Any]:
        while True:
            reply = await line.send(answering(session_id, body))
            if reply.status != 503:
                return reply.decision

    for turn in range(scale(2, 12)):
        stream = await tab(two[turn % 2], session_id)
        request_id = f"r{turn}"
        agent.ask(session_id, request_id=request_id)
        await stream.message("permission_request")
        own_server.save()
        restarting = asyncio.create_task(asyncio.to_thread(own_server.restart))
        await asyncio.sleep(0.005 * turn)
        bodies = [{"approved": n % 2 == 0, "request_id": request_id} for n in range(6)]
        found = await asyncio.gather(*(insist(line, body) for line, body in zip(people, bodies, strict=True)))
        await restarting
        # Before the kill a decision can be made that the dump does not have; what stands now counts.
        stands = agent.standing(session_id, request_id)
        assert stands["status"] == "decided"
        assert stands["decision"] in found
        told = [decision for decision in agent.told(session_id) if decision["request_id"] == request_id]
        assert told == [stands["decision"]]
        for gateway in two:
            await gateway.answers("/readyz")


async def test_a_session_heard_by_its_channel_alone_has_one_decision_after_a_kill(
    own_server: RedisProcess,
    gateways: Gateways,
    tab: Tab,
    dial: Dial,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Gateways killed at any moment of an answer leave a request open or decided, never in between."""
    survivor, victim = await asyncio.gather(*(gateways(own_server, **CROWDED) for _ in range(2)))
    agent = Agent(own_server)
    stream = await tab(survivor, session_id)
    sure = await dial(survivor)
    async with Ear(own_server, session_id) as ear:
        for turn in range(scale(2, 25)):
            request_id = f"r{turn}"
            agent.ask(session_id, request_id=request_id)
            await stream.message("permission_request", count=turn + 1)
            answers = [
                line.send(answering(session_id, {"approved": True, "request_id": request_id}))
                for line in await crowd(dial, [victim], 8)
            ]
            await asyncio.sleep(0.0007 * turn)
            victim.kill()
            await asyncio.wait(answers)
            decided = agent.standing(session_id, request_id)["status"] == "decided"
            replies = [answer.result() for answer in answers if not answer.exception()]
            assert decided or not replies
            final = await sure.send(answering(session_id, {"approved": True, "request_id": request_id}))
            assert (final.status, final.body["data"]["replayed"]) == (200, decided)
            await until(lambda turn=turn: len(ear.heard) == turn + 1, "one decision")  # type: ignore[misc]
            await stream.message("permission_cleared", count=turn + 1)
            await victim.start()
    assert agent.told(session_id) == ear.heard
    assert [m["type"] for m in stream.messages] == ["permission_request", "permission_cleared"] * len(
        ear.heard
    )
