"""Messages vanish without a trace: the connection stands, PING is answered, and not everything comes.

Three nets catch that: the probe that must come back (`store/push.py`), the number of the next event, and the
comparison of positions with Redis. Each is shown to do so alone, and that without them nothing would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from sse_gateway.core.keys import Keys
from tests.chaos.agent import Agent
from tests.chaos.local import NEVER, LocalGateway, local_gateway
from tests.chaos.page import Page
from tests.chaos.rig import Rig, health
from tests.chaos.whole import assert_whole
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until

SOON_SECONDS = 0.3


@pytest.fixture
def wire(server: RedisProcess, proxied: Callable[[RedisProcess], Proxy]) -> Proxy:
    """The way to a server that is not broken."""
    return proxied(server)


@pytest.fixture
async def speaker(server: RedisProcess) -> AsyncIterator[Agent]:
    """An agent that reaches this server whatever the wire does."""
    async with Agent(server.url) as agent:
        yield agent


def thinks_it_is_well(gateway: LocalGateway) -> bool:
    return not gateway.gateway.not_ready() and gateway.gateway.push.reconnects == 0


async def test_a_connection_that_delivers_nothing_is_replaced_because_of_the_probe(
    wire: Proxy, speaker: Agent, session_id: str
) -> None:
    """A push connection that answers PING and delivers nothing is found by the probe alone, and replaced."""
    async with (
        local_gateway(wire.url, probe_seconds=SOON_SECONDS) as gateway,
        Page(session_id, [gateway]) as page,
    ):
        await page.reaches(await speaker.publish(session_id))
        wire.swallow(later=False)
        await page.reaches((await speaker.publish_many(session_id, 3))[-1], seconds=10)
        assert gateway.gateway.push.probe_failures == 1
        assert (page.resets, len(page.streams)) == ([], 1)
        # The new connection delivers by itself: no other has to be made for that.
        await page.reaches(await speaker.publish(session_id))
        await until(lambda: gateway.gateway.push.proven, "the new connection to be proven")
        assert gateway.gateway.push.probe_failures == 1
        await assert_whole(page, speaker)


async def test_without_the_probe_nobody_would_notice(wire: Proxy, speaker: Agent, session_id: str) -> None:
    """Control: without probe and comparison the same connection stays, delivers nothing, and looks well."""
    async with local_gateway(wire.url) as gateway, Page(session_id, [gateway]) as page:
        seen = await speaker.publish(session_id)
        await page.reaches(seen)
        wire.swallow(later=False)
        await speaker.publish_many(session_id, 3)
        await asyncio.sleep(6 * SOON_SECONDS)
        assert page.position == seen
        assert wire.swallowed == 3
        assert await gateway.gateway.redis_answers()
        assert thinks_it_is_well(gateway)


async def test_a_server_that_never_delivers_keeps_the_gateway_from_being_ready(
    wire: Proxy, speaker: Agent, session_id: str
) -> None:
    """While no connection delivers, the gateway is not ready, and streams get events by its reconnecting."""
    async with (
        local_gateway(wire.url, probe_seconds=SOON_SECONDS) as gateway,
        Page(session_id, [gateway]) as page,
    ):
        wire.swallow()
        await until(lambda: gateway.gateway.push.probe_failures >= 2, "two probes to fail")
        assert "push" in gateway.gateway.not_ready()
        assert (await health(gateway, session_id))["manager_status"] == "degraded"
        await page.reaches((await speaker.publish_many(session_id, 3))[-1], seconds=10)
        wire.deliver()
        await until(lambda: not gateway.gateway.not_ready(), "the gateway to be ready again")
        failed = gateway.gateway.push.probe_failures
        await page.reaches(await speaker.publish(session_id))
        assert gateway.gateway.push.probe_failures == failed
        assert page.resets == []
        await assert_whole(page, speaker)


async def test_a_lost_message_is_noticed_at_the_next_one(
    wire: Proxy, speaker: Agent, session_id: str
) -> None:
    """One message lost without a trace is noticed by the number of the next, and both come in order."""
    async with local_gateway(wire.url) as gateway, Page(session_id, [gateway]) as page:
        seen = await speaker.publish(session_id)
        await page.reaches(seen)
        await lose_one(wire, speaker, session_id)
        assert page.position == seen
        await page.reaches(await speaker.publish(session_id), seconds=3)
        assert page.resets == []
        assert thinks_it_is_well(gateway)
        await assert_whole(page, speaker)


async def test_a_lost_message_that_nothing_follows_is_found_by_its_position(
    wire: Proxy, speaker: Agent, session_id: str
) -> None:
    """One message lost without a trace comes although nothing follows it: positions are compared."""
    async with (
        local_gateway(wire.url, position_check_seconds=SOON_SECONDS) as gateway,
        local_gateway(wire.url, position_check_seconds=NEVER) as control,
        Page(session_id, [gateway]) as page,
        Page(session_id, [control]) as unaware,
    ):
        seen = await speaker.publish(session_id)
        for each in (page, unaware):
            await each.reaches(seen)
        lost = await lose_one(wire, speaker, session_id)
        await page.reaches(lost, seconds=5)
        await asyncio.sleep(2 * SOON_SECONDS)
        assert unaware.position == seen, "without the comparison it stays lost"
        assert page.resets == []
        assert thinks_it_is_well(gateway)
        await assert_whole(page, speaker)


async def test_a_damaged_session_does_not_keep_the_others_losses_from_being_found(
    wire: Proxy, speaker: Agent, server: RedisProcess, session_id: str
) -> None:
    """Positions go on being compared beside a session whose number in Redis is none."""
    damaged = f"{session_id}-damaged"
    async with (
        local_gateway(wire.url, position_check_seconds=SOON_SECONDS) as gateway,
        Page(session_id, [gateway]) as page,
        Page(damaged, [gateway]),
    ):
        await page.reaches(await speaker.publish(session_id))
        server.client.hset(Keys("").meta(damaged), "seq", "many")
        for _ in range(2):
            await page.reaches(await lose_one(wire, speaker, session_id), seconds=5)
        assert page.resets == []
        await assert_whole(page, speaker)


async def test_messages_lost_at_random_under_load_are_made_up_for(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """A connection that loses every fourth message shows its streams all of them, in order."""
    wire = rig.wires[0]
    channel = Keys("").events_channel(session_id).encode()
    messages = 0

    def every_fourth(which: bytes) -> bool:
        nonlocal messages
        messages += which == channel
        return which == channel and messages % 4 == 0

    async with Page(session_id, rig.gateways[:1]) as page:
        wire.swallow(every_fourth)
        before = wire.swallowed
        async with agent.publishing(session_id, pause=0.005):
            await until(lambda: wire.swallowed >= before + 40, "40 lost messages")
        wire.deliver()
        await page.reaches(await agent.publish(session_id))
        assert page.resets == []
        await assert_whole(page, agent)


@pytest.mark.long
async def test_silent_losses_are_found_at_the_pace_of_a_gateway_as_it_is_run(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """As shipped, a lost message comes within 15 s, and a dead connection is replaced within 20 s."""
    async with Page(session_id, rig.gateways[:1]) as page:
        await page.reaches(await agent.publish(session_id))
        await page.reaches(await lose_one(rig.wires[0], agent, session_id), seconds=15)

        async def failures() -> float:
            return (await rig.gateways[0].metrics())["sse_gateway_push_probe_failures_total"]

        async def replaced() -> bool:
            return await failures() == before + 1

        before = await failures()
        rig.wires[0].swallow(later=False)
        await page.reaches(await agent.publish(session_id), seconds=15)
        await until(replaced, "the probe to fail", seconds=20)
        await rig.ready()
        await page.reaches(await agent.publish(session_id), seconds=4)
        assert (page.resets, len(page.streams)) == ([], 1)
        await assert_whole(page, agent)


async def lose_one(wire: Proxy, agent: Agent, session_id: str) -> str:
    """Publish an event that no gateway on this wire hears of, and return its id."""
    channel = Keys("").events_channel(session_id).encode()
    before = wire.swallowed
    wire.swallow(lambda which: which == channel)
    id = await agent.publish(session_id)
    await until(lambda: wire.swallowed > before, "the message to be swallowed")
    wire.deliver()
    return id
