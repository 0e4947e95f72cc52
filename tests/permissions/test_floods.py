"""Attack: publish more, or larger, than a gateway can deal with, or so wrongly that its log fills up."""

from __future__ import annotations

import asyncio
import json

import pytest

from sse_gateway.gateway.turns import MOST_BYTES_IN_ALL, MOST_WAITING_BYTES, Turns
from tests.permissions.conftest import Desk
from tests.permissions.desk import Agent, Tab
from tests.permissions.test_audit import one_each
from tests.support.wait import until

LARGE = " " * 300_000
"""More than MAX_EVENT_BYTES and what is allowed around a decision."""


async def test_attack_log_filled_by_requests_that_nobody_can_ask(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """A fault is logged once for a session however often it is published, and counted each time."""
    stream = await tab(desk.a, session_id)
    before = await desk.a.metrics()
    agent.ask(session_id, request_id="asked", tool_name="bash")
    with desk.server.client.pipeline(transaction=False) as together:
        for n in range(100):
            for data in ({"tool_name": "bash"}, {"tool_name": f"other-{n}", "request_id": "asked"}):
                event = json.dumps({"type": "permission_request", "data": data})
                together.publish(f"sse_events:{session_id}", event)
        together.execute()
    # What is published last is asked last, each session's requests being dealt with in their order.
    last = {"type": "permission_request", "data": {"tool_name": "bash", "request_id": "last"}}
    desk.server.client.publish(f"sse_events:{session_id}", json.dumps(last))
    await stream.message("permission_request", count=2)
    said = [
        line for line in desk.a.logs() if line["level"] == "warning" and line.get("session") == session_id
    ]
    assert len(said) <= 2, said
    after = await desk.a.metrics()
    counted = 'sse_gateway_events_received_total{kind="malformed"}'
    assert after[counted] - before[counted] >= 100


async def test_attack_log_filled_by_an_old_backend(old_desk: Desk, session_id: str) -> None:
    """The same on the channel that all old backends share, where any session may be named."""
    faulty = {"session_id": session_id, "type": "permission_request", "id": "x", "data": {}}
    before = await old_desk.a.metrics()
    for _ in range(100):
        old_desk.server.client.publish("sse_events", json.dumps(faulty))
    counted = 'sse_gateway_events_received_total{kind="malformed"}'

    async def heard() -> bool:
        return (await old_desk.a.metrics())[counted] - before[counted] >= 100

    await until(heard, "all of them to be heard")
    said = [line for line in old_desk.a.logs() if line.get("session") == session_id]
    assert len(said) == 1, said


async def test_attack_decision_of_any_size(desk: Desk, agent: Agent, session_id: str) -> None:
    """What is larger than any decision is not parsed; as large as one may be, Redis is asked about it."""
    agent.ask(session_id, request_id="unheard")
    # Settled by hand, so that no gateway has heard of it.
    decision = {
        "request_id": "unheard",
        "outcome": "cancelled",
        "source": "cancel",
        "decided_at": "2026-01-01T00:00:00.000Z",
    }
    said = json.dumps(decision)
    settled = {"state:unheard": "cancelled", "decision:unheard": said}
    desk.server.client.hset(f"sse:{{{session_id}}}:permissions", mapping=settled)
    desk.server.client.publish(f"permission_response:{session_id}", said[:-1] + LARGE + "}")
    agent.ask(session_id, request_id="next")
    agent.call("cancel", session_id, "next")
    found = await one_each(desk.gateways, session_id, 1)
    assert [line["request_id"] for line in found] == ["next"]
    desk.server.client.publish(f"permission_response:{session_id}", said[:-1] + LARGE[:250_000] + "}")
    found = await one_each(desk.gateways, session_id, 2)
    assert [line["request_id"] for line in found] == ["unheard", "next"]


async def test_attack_clear_of_any_size(old_desk: Desk, tab: Tab, session_id: str) -> None:
    """A message on the old channel that is larger than any event is not parsed, and clears nothing."""
    stream = await tab(old_desk.a, session_id)

    def say(kind: str, data: object, padding: str = "") -> None:
        text = json.dumps({"session_id": session_id, "type": kind, "data": data})
        old_desk.server.client.publish("sse_events", text[:-1] + padding + "}")

    say("permission_request", {"tool_name": "bash", "timestamp": "1"})
    await stream.message("permission_request")
    say("permission_cleared", {}, LARGE)
    say("permission_request", {"tool_name": "bash", "timestamp": "2"})
    await stream.message("permission_request", count=2)
    assert not [message for message in stream.messages if message["type"] == "permission_cleared"]
    say("permission_cleared", {})
    await stream.message("permission_cleared", count=2)


@pytest.mark.parametrize(
    ("sessions", "most"),
    [(1, MOST_WAITING_BYTES), (100, MOST_BYTES_IN_ALL)],
    ids=["of one session", "in all"],
)
async def test_what_waits_for_redis_is_bounded_in_bytes(sessions: int, most: int) -> None:
    """Attack: publish the largest requests while Redis is away; room is made as they are dealt with."""
    turns, redis_is_there, done = Turns(), asyncio.Event(), []
    size = 256 * 1024

    async def call() -> None:
        await redis_is_there.wait()
        done.append(1)

    def flood() -> None:
        for n in range(1000):
            turns.take(f"s{n % sessions}", call, held_bytes=size)

    for times in (1, 2):
        redis_is_there.clear()
        flood()
        redis_is_there.set()
        await until(lambda times=times: len(done) == times * (most // size), "all that was taken")  # type: ignore[misc]
    await turns.stop()
