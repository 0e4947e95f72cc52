"""The server is killed, emptied, set back, stopped in its tracks, or throws its subscribers out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

from tests.chaos.agent import Agent
from tests.chaos.local import local_gateway
from tests.chaos.page import Page
from tests.chaos.rig import HEARTBEAT_SECONDS, Rig, assert_degraded
from tests.chaos.whole import assert_whole


async def test_a_server_that_comes_back_empty_resets_every_stream(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """After a server was killed and lost everything, each stream is told and goes on from a new beginning."""
    await agent.ask(session_id, "lost")
    async with Page(session_id, rig.gateways) as one, Page(session_id, rig.gateways[::-1]) as two:
        await agent.publish_many(session_id, 5)
        rig.server.kill()
        await asyncio.gather(*(assert_degraded(gateway, one, two) for gateway in rig.gateways))
        rig.server.start()
        for page in (one, two):
            await page.until(lambda page=page: page.resets, "the reset")
        await rig.ready()
        last = (await agent.publish_many(session_id, 5))[-1]
        for page in (one, two):
            await page.reaches(last)
            assert page.resets == ["epoch"]
            assert len(page.streams) == 1
            story = await assert_whole(page, agent)
            assert [event["data"]["n"] for event in story.since_reset] == [6, 7, 8, 9, 10]
            assert story.snapshot == []


async def test_a_server_set_back_to_a_dump_resets_those_who_saw_more(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """After a server was killed and came back from a dump, who saw what it lost is reset, and nobody else."""
    kept, set_back = session_id, f"{session_id}-b"
    async with (
        Page(kept, rig.gateways) as quiet,
        Page(set_back, rig.gateways) as one,
        Page(set_back, rig.gateways[::-1]) as two,
    ):
        await agent.ask(set_back, "open")
        saved = [(await agent.publish_many(session, 4))[-1] for session in (kept, set_back)]
        rig.server.save()
        lost = (await agent.publish_many(set_back, 3))[-1]
        await quiet.reaches(saved[0])
        for page in (one, two):
            await page.reaches(lost)
        await asyncio.to_thread(rig.server.restart)
        for page in (one, two):
            await page.until(lambda page=page: page.resets, "the reset")
        for session, pages in ((kept, [quiet]), (set_back, [one, two])):
            last = (await agent.publish_many(session, 4))[-1]
            for page in pages:
                await page.reaches(last)
                await assert_whole(page, agent)
        assert quiet.resets == []
        assert one.resets == two.resets == ["rolled_back"]


async def test_a_server_set_back_under_load_shows_no_event_twice(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """A server killed under load and set back to a dump leaves no stream with a history that is not so."""
    sessions = [f"{session_id}-{number}" for number in range(4)]
    pages = [
        Page(session, gateways) for session in sessions for gateways in (rig.gateways, rig.gateways[::-1])
    ]
    async with contextlib.AsyncExitStack() as stack:
        for page in pages:
            await stack.enter_async_context(page)
        async with agent.publishing(*sessions, pause=0):
            await asyncio.sleep(0.3)
            rig.server.save()
            await asyncio.sleep(0.3)
            await asyncio.to_thread(rig.server.restart)
            await rig.ready()
            await asyncio.sleep(0.3)
        for session in sessions:
            last = await agent.publish(session)
            for page in pages:
                if page.session_id == session:
                    await page.reaches(last)
                    assert page.resets in ([], ["rolled_back"])
                    await assert_whole(page, agent)


async def test_a_paused_server_only_makes_everybody_wait(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """A server that stands still for 30 s loses nothing and resets nobody: its streams stay open and wait."""
    async with Page(session_id, rig.gateways) as one, Page(session_id, rig.gateways[::-1]) as two:
        async with agent.publishing(session_id):
            await asyncio.sleep(0.2)
            paused_at = time.monotonic()
            rig.server.pause()
            await asyncio.gather(*(assert_degraded(gateway, one, two) for gateway in rig.gateways))
            await asyncio.sleep(paused_at + scale(4, 30) - time.monotonic())
            heartbeats = [
                sum(beat > paused_at for beat in page.heartbeats) * HEARTBEAT_SECONDS for page in (one, two)
            ]
            assert min(heartbeats) > (time.monotonic() - paused_at) * 0.7
            rig.server.resume()
            await rig.ready()
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_subscribers_thrown_out_again_and_again_miss_nothing(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """CLIENT KILL TYPE pubsub under load, at any moment, costs no stream an event or its connection."""
    async with Page(session_id, rig.gateways) as one, Page(session_id, rig.gateways[::-1]) as two:
        async with agent.publishing(session_id, pause=0.002):
            for _ in range(scale(8, 60)):
                await asyncio.sleep(random.uniform(0.02, 0.3))
                rig.server.client.client_kill_filter(_type="pubsub")
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert (page.resets, len(page.streams)) == ([], 1)
            await assert_whole(page, agent)


async def test_flushall_under_load_resets_every_stream(rig: Rig, agent: Agent, session_id: str) -> None:
    """After FLUSHALL the next event of a session resets its streams at once, by the epoch it carries."""
    await agent.ask(session_id, "lost")
    async with Page(session_id, rig.gateways) as one, Page(session_id, rig.gateways[::-1]) as two:
        async with agent.publishing(session_id):
            await asyncio.sleep(0.3)
            rig.server.client.flushall()
            flushed_at = time.monotonic()
            for page in (one, two):
                await page.until(lambda page=page: page.resets, "the reset")
            assert time.monotonic() - flushed_at < 4
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert page.resets == ["epoch"]
            await assert_whole(page, agent)


async def test_flushall_of_a_session_at_rest_is_found_within_seconds(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """After FLUSHALL a session in which nothing happens is reset too, by the next check of its position."""
    await agent.ask(session_id, "lost")
    async with (
        local_gateway(rig.server.url, position_check_seconds=0.5) as gateway,
        Page(session_id, [gateway]) as page,
    ):
        rig.server.client.flushall()
        await page.until(lambda: page.resets, "the reset", seconds=3)
        await page.reaches(str(await agent.top(session_id)))
        assert page.resets == ["epoch"]
        await assert_whole(page, agent)
