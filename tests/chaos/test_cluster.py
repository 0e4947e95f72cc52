"""A Redis Cluster: slots move under load, a node dies, a node comes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from sse_gateway.gateway import functions
from sse_gateway.store.push import PROBE_SECONDS
from tests.chaos.agent import Agent
from tests.chaos.local import LocalGateway, local_gateway
from tests.chaos.page import Page
from tests.chaos.whole import assert_whole
from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.topologies import Cluster
from tests.support.wait import until


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three primaries, of which two go on when one is gone."""
    with Cluster(options={"cluster-require-full-coverage": "no"}) as cluster:
        yield cluster


@pytest.fixture
async def both(cluster: Cluster) -> AsyncIterator[list[LocalGateway]]:
    """Two gateways."""
    async with (
        local_gateway(cluster.url, probe_seconds=PROBE_SECONDS) as one,
        local_gateway(cluster.url, probe_seconds=PROBE_SECONDS) as two,
    ):
        yield [one, two]


@pytest.fixture
async def agent(cluster: Cluster) -> AsyncIterator[Agent]:
    """An agent that knows all nodes."""
    async with Agent(cluster.url) as agent:
        yield agent


def session_on(cluster: Cluster, node: RedisProcess, name: str) -> str:
    """Return a session id whose slot this node serves."""
    names = (f"{name}-{number}" for number in itertools.count())
    return next(name for name in names if cluster.owner(cluster.slot(name)) is node)


async def test_a_slot_that_moves_under_load_takes_its_sessions_along(
    cluster: Cluster,
    both: list[LocalGateway],
    agent: Agent,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """A slot that moves to and fro while its session is published to costs no event and resets nobody."""
    home = cluster.nodes[0]
    moving = session_on(cluster, home, session_id)
    async with Page(moving, both) as one, Page(moving, both[::-1]) as two:
        async with agent.publishing(moving, pause=0.005):
            for _ in range(scale(2, 10)):
                await asyncio.sleep(0.2)
                before = (await agent.top(moving)).epoch
                await asyncio.to_thread(
                    cluster.migrate,
                    cluster.slot(moving),
                    between_keys=lambda: time.sleep(0.03),
                    before_end=lambda: time.sleep(0.05),
                )

                async def begun(before: str = before) -> str | None:
                    epoch = (await agent.top(moving)).epoch
                    return epoch if epoch != before else None

                # Each move begins an epoch, with the next event, and only the one before is remembered.
                epoch = await until(begun, "the next epoch")
                for page in (one, two):
                    await page.until(
                        lambda page=page, epoch=epoch: page.position.startswith(epoch), "the move"
                    )
        last = await agent.publish(moving)
        for page in (one, two):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_a_dead_node_holds_up_only_its_own_sessions(
    cluster: Cluster, both: list[LocalGateway], agent: Agent, session_id: str
) -> None:
    """While a node is down its own sessions wait; those on the others go on and are caught up."""
    dead, alive = cluster.nodes[0], cluster.nodes[1]
    waiting, going_on = (session_on(cluster, node, session_id) for node in (dead, alive))
    async with (
        Page(waiting, both) as stuck,
        Page(going_on, both) as one,
        Page(going_on, both[::-1]) as two,
    ):
        await stuck.reaches((await agent.publish_many(waiting, 3))[-1])
        for page in (one, two):
            await page.reaches((await agent.publish_many(going_on, 3))[-1])
        dead.kill()
        for node in cluster.nodes[1:]:
            node.client.client_kill_filter(_type="pubsub")
        # Without a turn of the gateways' loop in between: they have no push connection yet.
        event = json.dumps({"type": "tool_status", "data": {"status": "missed"}})
        missed = str(alive.client.fcall("sse_publish", 1, going_on, event))
        for page in (one, two):
            await page.reaches(missed, seconds=5)
        assert all(gateway.gateway.not_ready() for gateway in both), "not all of Redis is there"
        for page in (one, two):
            await page.reaches((await agent.publish_many(going_on, 3))[-1], seconds=5)
        assert stuck.streams[-1].end is None
        dead.start()
        cluster.settled()
        await stuck.until(lambda: stuck.resets, "the reset", seconds=20)
        for gateway in both:
            await until(lambda gateway=gateway: not gateway.gateway.not_ready(), "ready again", seconds=20)
        for session, pages in ((waiting, [stuck]), (going_on, [one, two])):
            last = await agent.publish(session)
            for page in pages:
                await page.reaches(last)
                assert len(page.streams) == 1
                await assert_whole(page, agent)
        assert stuck.resets == ["epoch"]
        assert one.resets == two.resets == []


async def test_a_node_that_joins_gets_the_functions(
    cluster: Cluster, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is given its first slot has the functions soon, for agents that bring none themselves."""
    monkeypatch.setattr(functions, "LAYOUT_SECONDS", 0.3)
    slot = cluster.slot(session_id)
    async with local_gateway(cluster.url):
        first = cluster.nodes[0]
        shared = {name: value for name, value in first.options.items() if name.startswith("cluster-")}
        new = RedisProcess(options=shared | {"cluster-port": str(free_port())})
        cluster.nodes.append(new)
        new.start()
        new.client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, first.options["cluster-port"])
        await asyncio.to_thread(cluster.settled)
        await asyncio.to_thread(cluster.migrate, slot, to=new)
        await until(lambda: new.client.fcall("sse_version", 0), "the functions on the new node")
