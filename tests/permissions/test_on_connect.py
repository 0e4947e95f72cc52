"""Who connects sees what is open, in the order asked, and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.permissions.conftest import Desk
from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, Tab, answering, open_at
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream


def at_ready(stream: SSEStream) -> list[str]:
    """Return what a page shows as open when it learns that it is live."""
    place = next(n for n, event in enumerate(stream.events) if event.type == "ready")
    return open_at(stream, place)


@pytest.mark.parametrize("query", ["", "replay=all", "replay=none"])
async def test_every_stream_has_the_open_requests_once_and_in_order(
    desk: Desk, agent: Agent, tab: Tab, session_id: str, query: str
) -> None:
    """Whatever it asks to be replayed, a new stream shows what is open, each once, the first asked first."""
    names = ["z", "a", "m", "b"]
    for name in names:
        agent.ask(session_id, request_id=name)
    agent.call("cancel", session_id, "m")
    for gateway in desk.gateways:
        stream = await tab(gateway, session_id, query)
        assert at_ready(stream) == ["z", "a", "b"]
        shown = [m["data"]["request_id"] for m in stream.messages if m["type"] == "permission_request"]
        assert shown == ["z", "a", "b"]
        # What the snapshot shows has no id, so that nobody resumes from it.
        assert bool(stream.ids) is (query == "replay=all")


async def test_every_cursor_leads_to_the_same_open_requests(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """From any position of the history a stream comes back to exactly what is open, each once."""
    ids = []
    for n in range(6):
        ids.append(agent.ask(session_id, request_id=f"r{n}")["id"])
        if n % 2:
            agent.call("cancel", session_id, f"r{n - 1}")
    expected = ["r1", "r3", "r5"]
    epoch = ids[0].partition("-")[0]
    for seq in range(10):
        stream = await tab(desk.gateways[seq % 3], session_id, last_event_id=f"{epoch}-{seq}")
        assert sorted(at_ready(stream)) == expected
        shown = [m["data"]["request_id"] for m in stream.messages if m["type"] == "permission_request"]
        assert sorted(shown) == expected
        # What the replay has keeps its place; the rest stands before it.
        replayed = [
            event.json["data"]["request_id"]
            for event in stream.events
            if event.id and event.type == "settled_request"
        ]
        assert set(replayed) <= {"r0", "r2", "r4"}
    for bad in ("0000000000-1", "nonsense", f"{epoch}-99"):
        stream = await tab(desk.a, session_id, last_event_id=bad)
        assert stream.named("stream_reset")
        assert at_ready(stream) == expected


async def test_what_was_settled_before_is_never_shown_as_open(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """A settled request is a `settled_request` in a replay, in its place, under its id, and else nothing."""
    asked = agent.ask(session_id, request_id="r")
    agent.call("cancel", session_id, "r")
    epoch = asked["id"].partition("-")[0]
    for gateway in desk.gateways:
        for query, cursor in (("", None), ("replay=all", None), ("", f"{epoch}-0")):
            stream = await tab(gateway, session_id, query, last_event_id=cursor)
            assert not [m for m in stream.messages if m["type"] == "permission_request"]
            settled = [event for event in stream.events if event.type == "settled_request"]
            assert [event.id for event in settled] == ([asked["id"]] if query or cursor else [])
            assert [event.json["data"]["request_id"] for event in settled] == ["r"] * len(settled)


async def test_no_ghost_when_a_request_is_settled_while_a_stream_connects(
    desk: Desk,
    agent: Agent,
    tab: Tab,
    dial: Dial,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """Settled at any moment of a stream's coming, a request is never left open on it, whatever its way."""
    witness = await tab(desk.b, session_id)
    line = await dial(desk.c)
    start = witness.named("ready")[0]["cursor"]
    ways: list[tuple[str, str | None]] = [
        ("", None),
        ("replay=all", None),
        ("", start),
        ("replay=none", None),
    ]

    async def come(turn: int, gap: float, name: str, resume_from: str) -> None:
        query, cursor = [*ways, ("", resume_from)][turn % 5]
        await asyncio.sleep(gap)
        stream = await tab(desk.gateways[turn % 3], session_id, query, last_event_id=cursor)
        opened_with = at_ready(stream)
        await stream.wait(lambda: name not in open_at(stream), f"{name} to be closed")
        # It may be open at `ready` if it was settled later; then its closing comes, and no further opening.
        shows = [
            m["type"]
            for m in stream.messages
            if m["type"].startswith("permission_") and m["data"]["request_id"] == name
        ]
        assert shows in ([], ["permission_request", "permission_cleared"], ["permission_cleared"])
        assert name not in opened_with or shows[-1] == "permission_cleared"
        stream.close()

    for turn in range(scale(30, 400)):
        name = f"r{turn}"
        resume_from = agent.ask(session_id, request_id=name)["id"]
        comings = [
            asyncio.create_task(come(turn + n, random.uniform(0, 0.02), name, resume_from)) for n in range(3)
        ]
        await asyncio.sleep(random.uniform(0, 0.03))
        reply = await line.send(answering(session_id, {"approved": True, "request_id": name}))
        assert reply.won
        done_at = asyncio.get_running_loop().time()
        await asyncio.gather(*comings)
        assert asyncio.get_running_loop().time() - done_at < 10
        late = await tab(desk.a, session_id)
        assert at_ready(late) == [], "what is over when a stream comes is never shown"
        late.close()


async def test_a_warning_comes_thirty_seconds_before_the_deadline(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """`permission_expiring` is sent when 30 s are left: to every stream, once, with the very deadline."""
    tabs = [await tab(gateway, session_id) for gateway in desk.gateways]
    expires_at = agent.ask(session_id, request_id="r", expires_in=31.5)["expires_at"]
    for stream in tabs:
        await stream.message("permission_request")
    await asyncio.sleep(0.7)
    assert not any(stream.named("permission_expiring") for stream in tabs)
    for stream in tabs:
        warning = await stream.event("permission_expiring", seconds=5)
        assert warning == {"request_id": "r", "expires_at": expires_at}
    left = datetime.fromisoformat(expires_at).timestamp() - datetime.now().astimezone().timestamp()
    assert 27 < left < 30.2
    await asyncio.sleep(0.3)
    assert all(len(stream.named("permission_expiring")) == 1 for stream in tabs)


async def test_a_short_request_warns_at_once_and_so_does_one_that_a_late_stream_finds(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """With less than 30 s left, the warning follows the request itself, also for who connects only then."""
    early = await tab(desk.a, session_id)
    expires_at = agent.ask(session_id, request_id="r", expires_in=20)["expires_at"]
    expected = {"request_id": "r", "expires_at": expires_at}
    assert await early.event("permission_expiring") == expected
    for gateway, query in ((desk.a, ""), (desk.b, ""), (desk.c, "replay=all")):
        late = await tab(gateway, session_id, query)
        assert await late.event("permission_expiring") == expected
        kinds = [event.type if event.type != "message" else event.json["type"] for event in late.events]
        assert kinds.index("permission_request") < kinds.index("permission_expiring")
    await asyncio.sleep(0.3)
    assert len(early.named("permission_expiring")) == 1, "nobody else's coming is news"


async def test_nobody_is_warned_of_what_is_settled(
    desk: Desk, agent: Agent, tab: Tab, session_id: str
) -> None:
    """A request that is settled more than 30 s before its deadline has no warning."""
    stream = await tab(desk.a, session_id)
    agent.ask(session_id, request_id="r", expires_in=30.8)
    await stream.message("permission_request")
    agent.call("cancel", session_id, "r")
    await stream.message("permission_cleared")
    await asyncio.sleep(1.5)
    assert not stream.named("permission_expiring")


@pytest.mark.chaos
async def test_nobody_is_warned_of_what_redis_has_lost(
    own_server: RedisProcess, gateways: Gateways, tab: Tab, session_id: str
) -> None:
    """After a reset, what the snapshot does not have is over, also for the warnings."""
    gateway = await gateways(own_server, **CROWDED)
    stream = await tab(gateway, session_id)
    Agent(own_server).ask(session_id, request_id="r", expires_in=36)
    await stream.message("permission_request")
    await asyncio.to_thread(own_server.restart, empty=True)
    await stream.event("stream_reset", seconds=15)
    await asyncio.sleep(6.5)
    assert not stream.named("permission_expiring")
