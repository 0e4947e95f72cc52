"""What becomes of an event whose publisher heard no answer, and of one that is not meant to last."""

from __future__ import annotations

import asyncio
import json

import httpx

from sse_gateway.agent import AgentClient
from sse_gateway.core.keys import Keys
from tests.chaos.agent import Agent
from tests.chaos.page import Page
from tests.chaos.rig import Rig
from tests.chaos.whole import assert_whole
from tests.support.plain import plain_client
from tests.support.tokens import token
from tests.support.wait import until


async def post(rig: Rig, session_id: str, key: str, n: int) -> httpx.Response:
    """Publish over HTTP at the first gateway."""
    gateway = rig.gateways[0]
    async with plain_client(timeout=10) as client:
        return await client.post(
            f"{gateway.base}/publish/{session_id}",
            json={"type": "note", "data": {"n": n}},
            headers={
                "Authorization": f"Bearer {token(session_id=session_id, scope='sse:publish')}",
                "Idempotency-Key": key,
            },
        )


async def test_a_publish_whose_answer_was_lost_is_repeated_and_kept_once(
    rig: Rig, agent: Agent, session_id: str
) -> None:
    """An event posted again under its key, since the answer was lost, is kept once and under the first id."""
    wire = rig.wires[0]
    async with Page(session_id, rig.gateways[1:]) as page:
        while not list(page.durable()):
            # Once more where the gateway had to connect first: then it was not even sent.
            wire.hold("down")
            first = asyncio.create_task(post(rig, session_id, "once", 1))
            await page.until(lambda post=first: list(page.durable()) or post.done(), "the event or a refusal")
            wire.drop()
            wire.release()
            assert (await first).status_code == 503
        again = [await post(rig, session_id, "once", 1) for _ in range(2)]
        kept = page.position
        assert [answer.json()["data"]["id"] for answer in again] == [kept, kept]
        other = await post(rig, session_id, "once", 2)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        await page.reaches(await agent.publish(session_id))
        assert len(list(page.durable())) == 2
        await assert_whole(page, agent)


async def test_a_key_is_remembered_for_five_minutes(rig: Rig, agent: Agent, session_id: str) -> None:
    """A key publishes once in 300 seconds, however often and by whatever way it comes, and anew after."""
    async with AgentClient(rig.wires[0].url) as one, AgentClient(rig.wires[1].url) as two:
        sessions = [client.session(session_id) for client in (one, two)]
        async with Page(session_id, rig.gateways) as page:
            ids = await asyncio.gather(
                *(session.publish("note", {}, idempotency_key="same") for session in sessions * 10)
            )
            assert len(set(ids)) == 1
            key = Keys("").idem(session_id, "same")
            assert 290 < rig.server.client.ttl(key) <= 300
            rig.server.client.pexpire(key, 1)
            await until(lambda: not rig.server.client.exists(key), "the key to expire")
            later = await sessions[0].publish("note", {}, idempotency_key="same")
            assert later not in ids
            await page.reaches(str(later))
            await assert_whole(page, agent)


async def test_an_event_that_is_not_durable_is_live_only(rig: Rig, agent: Agent, session_id: str) -> None:
    """durable=False reaches every open stream once, has no id, moves no position, and is kept nowhere."""
    async with (
        AgentClient(rig.server.url) as client,
        Page(session_id, rig.gateways) as one,
        Page(session_id, rig.gateways[::-1]) as two,
    ):
        session = client.session(session_id)
        first = await agent.publish(session_id)
        for text in "some", "words":
            assert await session.publish("token", {"text": text}, durable=False) is None
        last = await agent.publish(session_id)
        for page in (one, two):
            await page.reaches(last)
            assert [event["data"] for event in page.transient()] == [{"text": "some"}, {"text": "words"}]
            order = [
                event.id for event in page.events if '"tool_status"' in event.data or '"token"' in event.data
            ]
            assert order == [first, None, None, last]
            await assert_whole(page, agent)
        # Whoever comes later, or again, gets what is durable.
        async with Page(session_id, rig.gateways) as late:
            await late.reaches(last)
            assert late.transient() == []
            await assert_whole(late, agent)
        async with Page(session_id, rig.gateways, cursor=first) as again:
            await again.reaches(last)
            assert again.transient() == []
            assert [event["id"] for event in again.durable()] == [last]
    assert "words" not in json.dumps(await agent.history(session_id))
