"""The whole way: agent, Redis, two real gateways, streams, and a person's POST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from sse_gateway.agent import AgentClient, Option, Session
from tests.support.gateway import GatewayProcess
from tests.support.plain import plain_client
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

Gateways = Callable[..., Awaitable[GatewayProcess]]


async def post(gateway: GatewayProcess, session_id: str, body: dict[str, Any], user: str) -> httpx.Response:
    async with plain_client() as http:
        return await http.post(
            f"{gateway.base}/permission-response/{session_id}",
            json=body,
            headers={"Authorization": f"Bearer {token(sub=user)}"},
        )


async def test_an_answer_given_at_either_gateway_reaches_the_agent_as_it_was_given(
    server: RedisProcess, gateways: Gateways, agents: Callable[..., AgentClient], session_id: str
) -> None:
    two = [await gateways(server), await gateways(server)]
    session = agents(server, recheck_seconds=3600).session(session_id, owner="ada")
    await session.tool_status("executing", tool_name="bash", tool_call_id="c1")
    streams = [await SSEStream.open(one.events(session_id), token=token(sub="ada")) for one in two]
    for number, gateway in enumerate(two):
        waiting = asyncio.create_task(
            session.request_permission(
                "bash",
                {"cmd": "rm -rf build"},
                timeout=60,
                editable=True,
                options=[Option("always", "Always", "allow_always")],
                on_no_viewer="fail" if number else "wait",
            )
        )
        requests = [await stream.message("permission_request", count=number + 1) for stream in streams]
        request = requests[0]["data"]
        assert {one["data"]["request_id"] for one in requests} == {request["request_id"]}
        await asyncio.sleep(0.2)
        before = time.monotonic()
        response = await post(
            gateway,
            session_id,
            {
                "approved": True,
                "request_id": request["request_id"],
                "args_digest": request["args_digest"],
                "option_id": "always",
                "updated_input": {"cmd": "ls"},
                "reason": "only look",
            },
            "ada",
        )
        assert response.status_code == 200, response.text
        decision = await asyncio.wait_for(waiting, 5)
        assert time.monotonic() - before < 2
        assert (decision.approved, decision.decided_by, decision.reason) == (True, "ada", "only look")
        assert (decision.option_id, decision.option_kind) == ("always", "allow_always")
        assert decision.arguments({"cmd": "rm -rf build"}) == {"cmd": "ls"}
        assert await session.claim(decision)
        for stream in streams:
            cleared = await stream.message("permission_cleared", count=number + 1)
            assert cleared["data"]["request_id"] == request["request_id"]
    await session.publish("token", {"text": "bye"}, durable=False)
    for stream in streams:
        assert (await stream.message("token"))["data"] == {"text": "bye"}
    await session.end("all done")
    for stream in streams:
        assert (await stream.event("closing"))["reason"] == "session_ended"
        stream.close()


async def _are(session: Session, viewers: int) -> bool:
    return await session.viewers() == viewers


async def test_nobody_watching_is_told_over_all_gateways(
    server: RedisProcess, gateways: Gateways, agents: Callable[..., AgentClient], session_id: str
) -> None:
    two = [await gateways(server), await gateways(server)]
    session = agents(server).session(session_id, owner="ada")
    assert (await session.request_permission("bash", {}, on_no_viewer="fail")).reason == "no_viewer"
    # One who may only look is no viewer.
    looker = await SSEStream.open(two[0].events(session_id), token=token(sub="ada", scope="sse:read"))
    await looker.ready()
    assert await session.viewers() == 0
    assert (await session.request_permission("bash", {}, on_no_viewer="deny_after:0.6")).reason == "no_viewer"
    viewer = await SSEStream.open(two[1].events(session_id), token=token(sub="ada"))
    await viewer.ready()
    waiting = asyncio.create_task(
        session.request_permission("bash", {"n": 1}, on_no_viewer="deny_after:0.6", timeout=60)
    )
    await until(session.viewers, "the viewer to be counted")
    second = await SSEStream.open(two[0].events(session_id), token=token(sub="ada"))
    await until(lambda: _are(session, 2), "both viewers to be counted")
    second.close()
    await until(lambda: _are(session, 1), "one to be gone")
    await asyncio.sleep(1.5)
    assert not waiting.done()
    viewer.close()
    assert (await asyncio.wait_for(waiting, 10)).reason == "no_viewer"
    looker.close()


async def test_a_gateway_killed_before_its_reply_has_decided_all_the_same(
    server: RedisProcess,
    gateways: Gateways,
    agents: Callable[..., AgentClient],
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    first, second = await gateways(server), await gateways(server)
    session = agents(server).session(session_id, owner="ada")
    await session.tool_status("executing")
    for number in range(scale(2, 20)):
        waiting = asyncio.create_task(
            session.request_permission("bash", {"n": number}, request_id=f"r{number}", timeout=60)
        )
        async with await SSEStream.open(second.events(session_id), token=token(sub="ada")) as stream:
            await stream.message("permission_request")
        answering = asyncio.create_task(
            post(first, session_id, {"approved": True, "request_id": f"r{number}"}, "ada")
        )
        await asyncio.sleep(0.002 * number)
        first.kill()
        await asyncio.wait((answering,))
        if not answering.exception():
            answering.result()
        response = await post(second, session_id, {"approved": True, "request_id": f"r{number}"}, "ada")
        assert response.status_code == 200, response.text
        decision = await asyncio.wait_for(waiting, 5)
        assert decision.approved
        assert await session.claim(decision)
        await first.start()
