"""Any number of waiting requests cost one connection, and each gets its own decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from sse_gateway.agent import AgentClient
from tests.agent.people import People
from tests.support.servers import RedisProcess
from tests.support.wait import until


async def test_two_hundred_waiting_requests_over_fifty_sessions_share_one_connection(
    any_server: RedisProcess, session_id: str
) -> None:
    people = People(any_server)
    before = {one["id"] for one in any_server.client.client_list()}
    pool = BlockingConnectionPool(host="127.0.0.1", port=any_server.port, max_connections=1, timeout=10)
    redis = Redis(connection_pool=pool)
    async with AgentClient(redis, recheck_seconds=3600) as client:
        tasks = {
            (number % 50, number): asyncio.create_task(
                client.session(f"{session_id}-{number % 50}").request_permission(
                    "bash", {"n": number}, request_id=f"r{number}", timeout=60
                )
            )
            for number in range(200)
        }
        sessions = [f"{session_id}-{n}" for n in range(50)]
        await until(lambda: sum(len(people.pending(one)) for one in sessions) == 200, "200 open requests")
        ours = [one for one in any_server.client.client_list() if one["id"] not in before]
        # The one of our pool, and the one all of them wait on.
        assert len(ours) == 2
        assert sorted(int(one["sub"]) for one in ours) == [0, 50]
        began = time.monotonic()
        for number in range(200):
            people.answer(f"{session_id}-{number % 50}", f"r{number}", approved=number % 3 > 0)
        decisions = await asyncio.wait_for(asyncio.gather(*tasks.values()), 20)
        assert time.monotonic() - began < 10
        assert [decision.request_id for decision in decisions] == [f"r{number}" for number in range(200)]
        assert [decision.approved for decision in decisions] == [number % 3 > 0 for number in range(200)]
    # A client of the application's own is not ours to close.
    assert await redis.ping()
    await redis.aclose()
    await pool.disconnect()


async def test_a_thousand_deadlines_at_once_are_all_kept(
    server: RedisProcess,
    agents: Callable[..., AgentClient],
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    client = agents(server)
    count = scale(300, 1000)
    began = time.monotonic()
    decisions = await asyncio.gather(
        *(
            client.session(f"{session_id}-{n % 40}").request_permission("bash", {"n": n}, timeout=2)
            for n in range(count)
        )
    )
    assert {decision.outcome for decision in decisions} == {"expired"}
    assert time.monotonic() - began < 15


async def test_sessions_that_are_done_are_unsubscribed_and_the_connection_is_given_back(
    server: RedisProcess,
    people: People,
    agents: Callable[..., AgentClient],
    session_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_gateway.agent.listener.LINGER_SECONDS", 0.2)
    client = agents(server)
    client._listener._ping_seconds = 0.2
    for number in range(3):
        await client.session(f"{session_id}-{number}").request_permission("bash", {}, timeout=0.1)
    await until(lambda: not server.client.client_list(_type="pubsub"), "the connection to be closed")
    assert server.client.execute_command("PUBSUB CHANNELS") == []
    waiting = asyncio.create_task(client.session(session_id).request_permission("bash", {}, request_id="r1"))
    await until(lambda: people.pending(session_id), "the request")
    people.answer(session_id, "r1")
    assert (await asyncio.wait_for(waiting, 5)).approved
