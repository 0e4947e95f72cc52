"""Nothing hangs for ever and no decision is missed, whatever happens to Redis or the way to it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sse_gateway.agent import AgentClient, Unavailable
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support import started
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until

pytestmark = pytest.mark.chaos

WORKER = Path(__file__).with_name("worker.py")


async def test_a_request_outlives_a_restart_of_redis_with_its_data(
    any_own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(any_own_server)
    session = agents(any_own_server).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    any_own_server.save()
    await asyncio.to_thread(any_own_server.restart)
    before = time.monotonic()
    people.answer(session_id, request_id)
    decision = await asyncio.wait_for(waiting, 15)
    assert decision.approved
    assert time.monotonic() - before < 5
    assert await session.claim(decision)


async def test_a_decision_made_while_the_agent_was_cut_off_is_found(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    people, proxy = People(own_server), proxied(own_server)
    session = agents(proxy, recheck_seconds=3600).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    await until(lambda: own_server.client.client_list(_type="pubsub"), "the agent's subscription")
    proxy.refuse()
    people.answer(session_id, request_id)
    await asyncio.sleep(1)
    assert not waiting.done()
    proxy.accept()
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_a_request_that_redis_lost_is_asked_again_with_the_time_it_had_left(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    session = agents(own_server).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {"a": [1]}, timeout=30))
    (request_id,) = await asked(people, session_id)
    first = people.request(session_id, request_id)
    await asyncio.sleep(1.5)
    await asyncio.to_thread(own_server.restart, empty=True)
    assert await asked(people, session_id) == [request_id]
    again = people.request(session_id, request_id)
    assert 28 < again["expires_in"] + 1.5 <= 30.2
    assert {**again, "expires_in": 0, "expires_at": 0, "timestamp": 0} == {
        **first,
        "expires_in": 0,
        "expires_at": 0,
        "timestamp": 0,
    }
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 10)).approved


@pytest.mark.parametrize("policy", ["fail", "deny_after:0.1"])
async def test_a_restart_of_redis_is_no_absence(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str, policy: str
) -> None:
    """Redis has forgotten who is watching; a gateway is back only seconds after the agent has asked again."""
    people = People(own_server)
    people.watch(session_id, 1)
    session = agents(own_server).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, on_no_viewer=policy))
    await asked(people, session_id)
    await asyncio.to_thread(own_server.restart, empty=True)
    (request_id,) = await asked(people, session_id)
    await asyncio.sleep(2.5)
    assert not waiting.done()
    people.watch(session_id, 1)
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_killed_subscriptions_are_made_again_and_what_was_missed_is_looked_up(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    session = agents(own_server, recheck_seconds=3600).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    await until(lambda: own_server.client.client_list(_type="pubsub"), "the agent's subscription")
    own_server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    # In the same breath, so that nobody is listening.
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_a_paused_redis_only_delays(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    session = agents(own_server, recheck_seconds=0.5).session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    own_server.pause()
    publishing = asyncio.create_task(session.tool_status("executing"))
    await asyncio.sleep(4.5)
    own_server.resume()
    await publishing
    assert [event["type"] for event in people.events(session_id)] == ["permission_request", "tool_status"]
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_a_connection_that_delivers_nothing_is_found_out_and_replaced(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    people, proxy = People(own_server), proxied(own_server)
    client = agents(proxy, recheck_seconds=6)
    session = client.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    await until(lambda: own_server.client.client_list(_type="pubsub"), "the agent's subscription")
    (deaf,) = own_server.client.client_list(_type="pubsub")
    await asyncio.sleep(2.5)
    proxy.swallow()
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 12)).approved
    assert proxy.swallowed == 1
    proxy.deliver()

    # The next one is heard of at once, on another connection.
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    await until(
        lambda: {one["id"] for one in own_server.client.client_list(_type="pubsub")} - {deaf["id"]},
        "another subscription",
    )
    before = time.monotonic()
    people.answer(session_id, request_id)
    await asyncio.wait_for(waiting, 12)
    assert time.monotonic() - before < 3


async def test_a_half_open_connection_is_replaced_after_a_missing_sign_of_life(
    own_server: RedisProcess, proxied: Callable[[RedisProcess], Proxy], agents: Callable[..., AgentClient],
    session_id: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    people, proxy = People(own_server), proxied(own_server)
    client = agents(proxy, recheck_seconds=3600)
    client._listener._ping_seconds = 0.5
    session = client.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    await until(lambda: own_server.client.client_list(_type="pubsub"), "the agent's subscription")
    await asyncio.sleep(0.7)
    before = proxy.connections
    proxy.hold("down")
    people.answer(session_id, request_id)
    await until(lambda: proxy.connections > before, "a new connection")
    proxy.release()
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_deadlines_pass_without_redis_and_the_agent_is_told(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    client = agents(own_server, call_seconds=1.5)
    waiting = asyncio.create_task(client.session(session_id).request_permission("bash", {}, timeout=2))
    await asked(people, session_id)
    own_server.kill()
    before = time.monotonic()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 15)
    assert 1.5 < time.monotonic() - before < 10


async def test_asking_while_redis_is_away_asks_when_it_is_back(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    session = agents(own_server, call_seconds=0.5).session(session_id)
    own_server.kill()
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=30))
    with pytest.raises(Unavailable):
        await session.tool_status("executing")
    await asyncio.sleep(1.5)
    await asyncio.to_thread(own_server.start)
    (request_id,) = await asked(people, session_id)
    people.answer(session_id, request_id)
    assert (await asyncio.wait_for(waiting, 10)).approved


async def test_an_agent_killed_while_waiting_gets_the_stored_decision_and_acts_once(
    own_server: RedisProcess, session_id: str, tmp_path: Path
) -> None:
    people = People(own_server)
    done = tmp_path / "done"

    def spawn() -> subprocess.Popen[bytes]:
        with (tmp_path / "worker.log").open("ab") as output:
            return started.start(
                "agent",
                [sys.executable, str(WORKER), own_server.url, session_id, str(done)],
                output=output,
                cwd=Path.cwd(),
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            )

    worker = spawn()
    try:
        await asked(people, session_id)
        started.end(worker, signal.SIGKILL)
        people.answer(session_id, "deploy-7", reason="go on")
        workers = [spawn(), spawn()]
        codes = [await asyncio.to_thread(started.end, one, 0, seconds=20) for one in workers]
    finally:
        for one in list(started.running):
            if started.running[one] == "agent":
                os.kill(one, signal.SIGKILL)
    assert codes == [0, 0], (tmp_path / "worker.log").read_text()
    assert done.read_text() == "approved go on\n"
    assert people.state(session_id, "deploy-7") == "consumed"


async def test_a_thousand_small_breaks_lose_no_decision(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Connections are dropped all the time while requests are asked, answered and claimed."""
    people, proxy = People(own_server), proxied(own_server)
    client = agents(proxy, recheck_seconds=3600, call_seconds=30)
    rounds = scale(60, 1000)
    answered = 0

    async def work(number: int) -> bool:
        session = client.session(f"{session_id}-{number % 7}")
        decision = await session.request_permission(
            "bash", {"n": number}, timeout=120, request_id=f"r{number}"
        )
        return await session.claim(decision) and await session.claim(decision)

    async def answer_all() -> None:
        nonlocal answered
        while answered < rounds:
            for number in range(7):
                for request_id in people.pending(f"{session_id}-{number}"):
                    people.answer(f"{session_id}-{number}", request_id)
                    answered += 1
            await asyncio.sleep(0.01)

    async def drop() -> None:
        while True:
            await asyncio.sleep(0.2)
            proxy.drop()

    dropping = asyncio.create_task(drop())
    answering = asyncio.create_task(answer_all())
    gate = asyncio.Semaphore(20)

    async def limited(number: int) -> bool:
        async with gate:
            return await work(number)

    try:
        claimed = await asyncio.wait_for(asyncio.gather(*map(limited, range(rounds))), scale(80, 300))
    finally:
        dropping.cancel()
        answering.cancel()
    assert claimed == [True] * rounds
