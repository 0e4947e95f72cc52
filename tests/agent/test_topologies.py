"""The same SDK over Sentinel and Cluster, by URL and with the application's own client, through failovers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode

from sse_gateway.agent import AgentClient, Session
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support.servers import RedisProcess
from tests.support.topologies import Cluster, ReplicaPair, Sentinels

pytestmark = pytest.mark.chaos


async def whole_story(session: Session, people: People) -> None:
    """Publish, ask, wait, claim, cancel and end in one session."""
    await session.tool_status("executing")
    await session.publish("token", {"text": "…"}, durable=False)
    waiting = asyncio.create_task(session.request_permission("bash", {"a": 1}, timeout=30))
    (request_id,) = await asked(people, session.session_id)
    people.answer(session.session_id, request_id)
    decision = await asyncio.wait_for(waiting, 5)
    assert decision.approved
    assert await session.claim(decision)
    waiting = asyncio.create_task(session.request_permission("bash", {"a": 2}, request_id="r2"))
    await asked(people, session.session_id)
    assert (await session.cancel("r2")).outcome == (await waiting).outcome == "cancelled"
    assert await session.end() == 0


@pytest.mark.parametrize("by", ["url", "client"])
async def test_a_cluster_serves_every_session_wherever_its_slot_is(
    cluster: Cluster, agents: Callable[..., AgentClient], session_id: str, by: str
) -> None:
    people = People(cluster)
    redis: Any = cluster.url
    if by == "client":
        redis = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", node.port) for node in cluster.nodes])
    client = agents(redis)
    sessions = [client.session(f"{session_id}-{number}") for number in range(9)]
    await asyncio.gather(*(whole_story(session, people) for session in sessions))
    listeners = sum(len(node.client.client_list(_type="pubsub")) for node in cluster.nodes)
    assert listeners == 1
    if by == "client":
        await client.close()
        await redis.aclose()


async def test_requests_wait_through_a_slot_that_moves(
    cluster: Cluster, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(cluster)
    client = agents(cluster)
    session = client.session(session_id)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=60))
    (request_id,) = await asked(people, session_id)
    publishing = asyncio.create_task(keep_publishing(session))
    await asyncio.to_thread(cluster.migrate, cluster.slot(f"sse:{{{session_id}}}"))
    await asyncio.sleep(0.3)
    publishing.cancel()
    people.answer(session_id, request_id)
    decision = await asyncio.wait_for(waiting, 10)
    assert await session.claim(decision)
    numbers = [event["data"]["n"] for event in people.events(session_id) if event["type"] == "note"]
    # On a fast machine more is published than the history keeps.
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) > 10


async def keep_publishing(session: Session) -> None:
    """Publish numbers until cancelled."""
    number = 0
    while True:
        await session.publish("note", {"n": number})
        number += 1


@pytest.mark.parametrize("by", ["url", "client"])
async def test_a_sentinel_failover_only_delays(
    sentinels: Sentinels, agents: Callable[..., AgentClient], session_id: str, by: str
) -> None:
    old = sentinels.primary()
    people = People(old)
    redis: Any = sentinels.url
    manager: Any = None
    if by == "client":
        manager = Sentinel([("127.0.0.1", one.port) for one in sentinels.sentinels])
        redis = manager.master_for(sentinels.name)
    client = agents(redis)
    session = client.session(session_id)
    await whole_story(client.session(f"{session_id}-first"), people)
    waiting = asyncio.create_task(session.request_permission("bash", {}, timeout=90))
    (request_id,) = await asked(people, session_id)
    await asyncio.sleep(0.2)
    new = await asyncio.to_thread(sentinels.failover)
    people = People(new)
    people.answer(session_id, request_id)
    decision = await asyncio.wait_for(waiting, 20)
    assert decision.approved
    assert await session.claim(decision)
    if by == "client":
        await client.close()
        await redis.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()


async def test_a_claim_counts_once_the_replica_has_it(
    replica_pair: ReplicaPair, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(replica_pair.primary)
    client = agents(replica_pair, wait_replicas=1, call_seconds=3)
    session = client.session(session_id)
    for number in range(2):
        waiting = asyncio.create_task(session.request_permission("bash", {}, request_id=f"r{number}"))
        await asked(people, session_id)
        people.answer(session_id, f"r{number}")
        await waiting
    assert await session.claim("r0")
    assert replica_pair.replica.client.hget(f"sse:{{{session_id}}}:permissions", "state:r0") == "consumed"
    replica_pair.in_step()
    replica_pair.cut()
    with pytest.raises(Exception, match="replicas"):
        await session.claim("r1")
    replica_pair.heal()
    assert await session.claim("r1")


async def test_wait_replicas_is_refused_where_it_cannot_be_kept(own_server: RedisProcess) -> None:
    with pytest.raises(ValueError, match="Cluster"):
        AgentClient(f"redis+cluster://127.0.0.1:{own_server.port}", wait_replicas=1)
