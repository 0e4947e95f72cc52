"""The network between a gateway and the server drops connections, delays, or swallows one direction."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.chaos.agent import Agent
from tests.chaos.page import Page
from tests.chaos.rig import Rig, assert_degraded
from tests.chaos.whole import assert_whole
from tests.support.proxy import Way


async def test_connections_that_drop_again_and_again_cost_no_event(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Connections to the server that are reset at any moment, all of them, cost no stream an event."""
    async with Page(session_id, rig.gateways) as one, Page(session_id, rig.gateways[::-1]) as two:
        async with agent.publishing(session_id, pause=0.002):
            for _ in range(scale(8, 60)):
                await asyncio.sleep(random.uniform(0.02, 0.3))
                random.choice(rig.wires).drop()
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_a_server_out_of_reach_is_caught_up_with(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """A gateway that cannot reach the server keeps its streams, says so, and catches up; others go on."""
    async with Page(session_id, rig.gateways[:1]) as cut_off, Page(session_id, rig.gateways[1:]) as other:
        async with agent.publishing(session_id, pause=0.02):
            rig.wires[0].refuse()
            await assert_degraded(rig.gateways[0], cut_off)
            seen = cut_off.position
            await rig.gateways[1].answers("/readyz")
            await asyncio.sleep(scale(1, 12))
            assert cut_off.position == seen
            await other.reaches(await agent.publish(session_id), seconds=2)
            rig.wires[0].accept()
            await rig.ready()
        last = await agent.publish(session_id)
        for page in (cut_off, other):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


@pytest.mark.parametrize(
    ("way", "repaired"),
    [
        pytest.param("down", True),
        pytest.param("up", False),
        pytest.param("down", False, marks=pytest.mark.long),
        pytest.param("up", True, marks=pytest.mark.long),
        pytest.param(None, True, marks=pytest.mark.long),
        pytest.param(None, False, marks=pytest.mark.long),
    ],
)
async def test_a_link_that_swallows_a_direction_is_caught_up_with(
    rig: Rig,
    agent: Agent,
    session_id: str,
    scale: Callable[[int, int], int],
    way: Way | None,
    repaired: bool,
) -> None:
    """A link that swallows a direction, or both, costs no event, whether what it held comes late or never."""
    async with Page(session_id, rig.gateways[:1]) as behind, Page(session_id, rig.gateways[1:]) as other:
        async with agent.publishing(session_id, pause=0.05):
            rig.wires[0].hold(way)
            await assert_degraded(rig.gateways[0], behind)
            await asyncio.sleep(scale(0, 12))
            await other.reaches(await agent.publish(session_id), seconds=2)
            if not repaired:
                rig.wires[0].drop()
            rig.wires[0].release()
            await rig.ready()
        last = await agent.publish(session_id)
        for page in (behind, other):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_a_slow_network_delivers_everything_later(rig: Rig, agent: Agent, session_id: str) -> None:
    """Behind a slow link events come later and in order, to streams that join meanwhile too."""
    rig.wires[0].delay(0.3)
    async with Page(session_id, rig.gateways[:1]) as slow, Page(session_id, rig.gateways[1:]) as fast:
        async with agent.publishing(session_id):
            await asyncio.sleep(0.5)
            async with Page(session_id, rig.gateways[:1]) as joining:
                await asyncio.sleep(1)
                took = []
                for _ in range(5):
                    last = await agent.publish(session_id)
                    published_at = time.monotonic()
                    await fast.reaches(last)
                    took.append(time.monotonic() - published_at)
                assert min(took) < 0.3, took
                await joining.until(lambda: last in {event["id"] for event in joining.durable()}, "it")
        last = await agent.publish(session_id)
        for page in (slow, fast):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_a_network_too_slow_for_commands_still_delivers(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """Behind a link so slow that every command fails, events still come, and the gateway is not ready."""
    async with Page(session_id, rig.gateways[:1]) as slow:
        rig.wires[0].delay(1.8)
        await rig.gateways[0].answers("/readyz", 503)
        await slow.reaches((await agent.publish_many(session_id, 20))[-1])
        rig.wires[0].delay(0)
        await rig.ready()
        await slow.reaches(await agent.publish(session_id))
        assert slow.resets == []
        await assert_whole(slow, agent)
