"""Gateways themselves are killed, restarted and stopped in their tracks; pages move between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tests.chaos.agent import Agent
from tests.chaos.page import Page
from tests.chaos.rig import Rig
from tests.chaos.whole import assert_whole


async def test_pages_move_between_gateways_that_are_killed_and_restarted(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """Gateways killed and restarted in turn under load cost no page an event, though it moves each time."""
    async with contextlib.AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(Page(session_id, gateways))
            for gateways in (rig.gateways, rig.gateways[::-1])
            for _ in range(2)
        ]
        async with agent.publishing(session_id, pause=0.02):
            for turn in range(scale(2, 12)):
                gateway = rig.gateways[turn % 2]
                how = ("kill", "stop")[turn // 2 % 2]
                # In a thread: a gateway that stops says goodbye to its streams, and they go at once.
                await asyncio.to_thread(getattr(gateway, how))
                await asyncio.gather(*(page.back() for page in pages))
                await gateway.start()
        last = await agent.publish(session_id)
        for page in pages:
            await page.reaches(last)
            assert page.resets == []
            await assert_whole(page, agent)
        assert sum(len(page.streams) for page in pages) > len(pages)


async def test_a_gateway_stopped_in_its_tracks_goes_on_from_where_it_was(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """A gateway that stands still for a while shows its streams afterwards all that happened meanwhile."""
    async with Page(session_id, rig.gateways[:1]) as one, Page(session_id, rig.gateways[1:]) as two:
        async with agent.publishing(session_id):
            rig.gateways[0].pause()
            await asyncio.sleep(scale(1, 8))
            await two.reaches(await agent.publish(session_id), seconds=2)
            rig.gateways[0].resume()
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)
