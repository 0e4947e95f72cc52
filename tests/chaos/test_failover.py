"""A replica takes over: with all the writes, without the last ones, back again, by order of Sentinels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sse_gateway.store.push import PROBE_SECONDS
from tests.chaos.agent import Agent
from tests.chaos.local import LocalGateway, local_gateway
from tests.chaos.page import Page
from tests.chaos.whole import assert_whole
from tests.support.proxy import Proxy
from tests.support.topologies import ReplicaPair, Sentinels
from tests.support.wait import until


@pytest.fixture
async def both(replica_pair: ReplicaPair) -> AsyncIterator[list[LocalGateway]]:
    """Two gateways at the address that follows the primary."""
    async with (
        local_gateway(replica_pair.url, probe_seconds=PROBE_SECONDS) as one,
        local_gateway(replica_pair.url, probe_seconds=PROBE_SECONDS) as two,
    ):
        yield [one, two]


@pytest.fixture
async def agent(replica_pair: ReplicaPair) -> AsyncIterator[Agent]:
    """An agent at the same address."""
    async with Agent(replica_pair.url) as agent:
        yield agent


async def fail_over(pair: ReplicaPair) -> None:
    """Kill the primary as it is and let the replica take over with what it has."""
    pair.primary.kill()
    await asyncio.to_thread(pair.promote)


async def test_a_failover_that_lost_nothing_resumes_everyone(
    replica_pair: ReplicaPair, both: list[LocalGateway], agent: Agent, session_id: str
) -> None:
    """After a failover or failback that lost nothing, open streams and returning cursors go on unreset."""
    async with Page(session_id, both) as one, Page(session_id, both[::-1]) as two:
        async with Page(session_id, both) as left:
            last = (await agent.publish_many(session_id, 5))[-1]
            await left.reaches(last)
        for _ in ("failover", "failback"):
            await asyncio.to_thread(replica_pair.in_step)
            await fail_over(replica_pair)
            # One that was away meanwhile comes back with a cursor of before.
            async with Page(session_id, both, cursor=left.position) as left:
                last = (await agent.publish_many(session_id, 5))[-1]
                for page in (one, two, left):
                    await page.reaches(last)
                    assert page.resets == []
                    await assert_whole(page, agent)
            await asyncio.to_thread(replica_pair.rejoin)
        assert (len(one.streams), len(two.streams)) == (1, 1)


async def test_a_failover_that_lost_writes_resets_those_who_saw_them(
    replica_pair: ReplicaPair, both: list[LocalGateway], agent: Agent, session_id: str
) -> None:
    """After a failover or failback that lost writes, who saw them is reset, and nobody else is."""
    untouched = f"{session_id}-b"
    wire = Proxy(replica_pair.front.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(wire)
        sheltered = await stack.enter_async_context(local_gateway(wire.url))
        saw = await stack.enter_async_context(Page(session_id, both))
        unaware = await stack.enter_async_context(Page(session_id, [sheltered]))
        other = await stack.enter_async_context(Page(untouched, both[::-1]))
        pages = (saw, unaware, other)
        for times in (1, 2):
            first = (await agent.publish_many(session_id, 4))[-1]
            quiet = await agent.publish(untouched)
            for page in pages:
                await page.reaches(quiet if page is other else first)
            await asyncio.to_thread(replica_pair.in_step)
            replica_pair.cut()
            wire.swallow()
            await saw.reaches((await agent.publish_many(session_id, 3))[-1])
            await fail_over(replica_pair)
            wire.deliver()
            await saw.until(lambda times=times: len(saw.resets) == times, "the reset")
            # These take the numbers of the lost ones.
            last = (await agent.publish_many(session_id, 5))[-1]
            quiet = await agent.publish(untouched)
            for page in pages:
                await page.reaches(quiet if page is other else last)
                await assert_whole(page, agent)
            assert saw.resets == ["rolled_back"] * times
            assert unaware.resets == other.resets == []
            await asyncio.to_thread(replica_pair.rejoin)


async def test_a_push_connection_left_at_the_old_primary_is_replaced(
    replica_pair: ReplicaPair, agent: Agent, session_id: str
) -> None:
    """A push connection left at an isolated primary is found by the probe; its late writes end in a reset."""
    pair = replica_pair
    async with (
        local_gateway(pair.url, probe_seconds=0.3) as gateway,
        Page(session_id, [gateway]) as page,
        Agent(pair.primary.url) as at_the_old_one,
    ):
        await page.reaches((await agent.publish_many(session_id, 3))[-1])
        await asyncio.to_thread(pair.in_step)
        pair.cut()
        late = await at_the_old_one.publish(session_id)
        await page.reaches(late)
        pair.replica.client.replicaof("NO", "ONE")
        # The address leads to the new primary; of the old connections only those that subscribe are left.
        pair.front.target = pair.replica.port
        pair.primary.client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: gateway.gateway.push.probe_failures == 1, "the probe to fail")
        await page.until(lambda: page.resets, "the reset")
        await page.reaches((await agent.publish_many(session_id, 3))[-1])
        assert page.resets == ["rolled_back"]
        await assert_whole(page, agent)


@pytest.mark.timeout(120)
async def test_sentinels_promote_the_replica_under_load(sentinels: Sentinels, session_id: str) -> None:
    """A failover by Sentinel under load is followed by the gateways and leaves each stream whole or reset."""
    async with contextlib.AsyncExitStack() as stack:
        both = [
            await stack.enter_async_context(local_gateway(sentinels.url, probe_seconds=PROBE_SECONDS))
            for _ in range(2)
        ]
        agent = await stack.enter_async_context(Agent(sentinels.url))
        pages = [await stack.enter_async_context(Page(session_id, order)) for order in (both, both[::-1])]
        async with agent.publishing(session_id):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(sentinels.failover)
            for gateway in both:
                await until(
                    lambda gateway=gateway: not gateway.gateway.not_ready(), "ready again", seconds=30
                )
            await asyncio.sleep(0.3)
        last = await agent.publish(session_id)
        for page in pages:
            await page.reaches(last)
            # Replication is asynchronous: the last writes may be lost, but never in silence.
            assert page.resets in ([], ["rolled_back"])
            assert len(page.streams) == 1
            await assert_whole(page, agent)
