"""Warnings and deadlines reach who is paused, outlive an outage, and are nobody's to forget."""

from __future__ import annotations

import json
from datetime import datetime

from tests.chaos.local import local_gateway
from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Gateways, Tab
from tests.support.plain import plain_client
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

PAD = json.dumps({"type": "note", "data": {"pad": "x" * 50_000}})


async def fall_behind(agent: Agent, slow: SSEStream, good: SSEStream, session_id: str) -> str:
    """Publish more than the gateway holds for the slow stream, which reads nothing; return the last id."""
    slow.pause()
    for _ in range(60):
        last = str(agent.call("publish", session_id, PAD))
    await good.wait(lambda: good.parser.last_event_id == last, "everything at the good reader")
    return last


async def test_a_stream_that_is_paused_is_warned_when_it_is_back(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """Who is behind when the others are warned is warned later; who has been warned is not warned again."""
    slow = await tab(desk.a, session_id, receive_buffer=4096)
    good = await tab(desk.a, session_id)
    expires_at = agent.ask(session_id, request_id="r", expires_in=31)["expires_at"]
    for stream in (slow, good):
        await stream.message("permission_request")
    await fall_behind(agent, slow, good, session_id)
    expected = {"request_id": "r", "expires_at": expires_at}
    assert await good.event("permission_expiring") == expected
    slow.resume()
    assert await slow.event("permission_expiring") == expected
    last = await fall_behind(agent, slow, good, session_id)
    slow.resume()
    await slow.wait(lambda: slow.parser.last_event_id == last, "everything at the slow reader")
    agent.call("cancel", session_id, "r")
    for stream in (slow, good):
        await stream.message("permission_cleared")
        assert stream.named("permission_expiring") == [expected]
        assert not stream.named("stream_reset")


async def test_a_warning_outlives_an_outage(
    own_server: RedisProcess, gateways: Gateways, tab: Tab, session_id: str
) -> None:
    """A warning that falls due while Redis cannot be asked is given as soon as it can."""
    gateway = await gateways(own_server, **CROWDED)
    stream = await tab(gateway, session_id)
    expires_at = Agent(own_server).ask(session_id, request_id="r", expires_in=31)["expires_at"]
    await stream.message("permission_request")
    own_server.pause()

    async def gave_up() -> bool:
        metrics = await gateway.metrics()
        return 'sse_gateway_redis_command_duration_seconds_count{command="sse_decision"}' in metrics

    try:
        await until(gave_up, "the call to have failed")
        # Past the time in which one call may be repeated.
        assert datetime.fromisoformat(expires_at).timestamp() - datetime.now().astimezone().timestamp() < 27.5
        assert not stream.named("permission_expiring")
    finally:
        own_server.resume()
    warning = await stream.event("permission_expiring", seconds=15)
    assert warning == {"request_id": "r", "expires_at": expires_at}


async def test_a_request_that_comes_while_streams_change_places_is_settled(
    server: RedisProcess, session_id: str
) -> None:
    """Asked after a stream read and before it began, as the only other one left: it ends at its deadline."""
    agent = Agent(server)
    async with local_gateway(server.url) as gateway, plain_client() as http:
        bearer = token(session_id=session_id)
        other = await SSEStream.open(gateway.events(session_id), token=bearer)
        await other.ready()
        tickets = gateway.gateway.tickets
        redeem = tickets.redeem

        async def change_places(ticket: str, of: str) -> None:
            agent.ask(session_id, request_id="r", expires_in=2)
            await other.message("permission_request")
            other.close()
            await until(lambda: not gateway.gateway.hub.streams, "the other one to have gone")
            await redeem(ticket, of)

        # Tickets are used up between the read and the beginning.
        tickets.redeem = change_places  # type: ignore[method-assign]
        answer = await http.post(
            f"{gateway.base}/ticket/{session_id}", headers={"Authorization": f"Bearer {bearer}"}
        )
        url = gateway.events(session_id, f"ticket={answer.json()['data']['ticket']}")
        async with await SSEStream.open(url) as stream:
            await stream.message("permission_request")
            cleared = await stream.message("permission_cleared")
            assert cleared["data"]["outcome"] == "expired"
        await until(lambda: not gateway.gateway.live.sessions, "the session to be let go of")
        assert not gateway.gateway.deadlines.warnings(session_id)
