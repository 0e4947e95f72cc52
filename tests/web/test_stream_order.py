"""A stream from its first byte on: head, retry, snapshot or replay, ready, events."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from tests.support.gateway import GatewayProcess
from tests.support.tokens import token
from tests.web.site import HEARTBEAT_SECONDS, Site, Tab

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
CURSOR = re.compile(r"[0-9a-f]{10}-\d{1,15}")
HTTP_VERSIONS: tuple[Literal["1.1", "1.0"], ...] = ("1.1", "1.0")


async def raw_beginning(
    gateway: GatewayProcess, session_id: str, *, until: bytes
) -> tuple[str, list[str], bytes]:
    """Return status line, header lines and the body's first bytes, with no parser in between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    path = gateway.events(session_id).removeprefix(gateway.origin)
    writer.write(
        f"GET {path}?token={token(session_id=session_id)} HTTP/1.0\r\n"
        f"Host: gateway\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        received = await reader.readuntil(until)
    writer.close()
    await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    return status, lines, body


async def test_the_head_is_exactly_what_the_design_says(either: GatewayProcess, session_id: str) -> None:
    """The response has the designed headers and no others, and is not compressed even on request."""
    status, lines, _ = await raw_beginning(either, session_id, until=b"\n\n")
    assert status == "HTTP/1.0 200 OK"
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert re.fullmatch(r"[0-9a-f]{16}", headers.pop("X-Request-ID"))
    del headers["Date"]
    assert headers == {
        "Server": "sse_gateway",
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-store, no-transform",
        "Connection": "close",
        "X-Accel-Buffering": "no",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


async def test_the_first_bytes_are_a_jittered_retry(either: GatewayProcess, session_id: str) -> None:
    """Each stream begins with a `retry:` of its own between 2.5 and 4.5 s, then `ready` with an id."""
    delays = set()
    for _ in range(8):
        _, _, body = await raw_beginning(either, session_id, until=b"event: ready\nid: ")
        match = re.fullmatch(rb"retry: (\d+)\n\nevent: ready\nid: ", body)
        assert match, body
        delays.add(int(match[1]))
    assert all(2500 <= delay <= 4500 for delay in delays)
    assert len(delays) > 1


@pytest.mark.parametrize("version", HTTP_VERSIONS)
async def test_a_first_connection_is_ready_at_an_empty_position(
    either: GatewayProcess, tab: Tab, session_id: str, version: Literal["1.1", "1.0"]
) -> None:
    """A stream of a new session is told who serves it and a position to resume from, before any event."""
    stream = await tab(either, session_id, http=version)
    ready = await stream.ready()
    assert stream.events[0].type == "ready"
    assert stream.events[0].id == ready["cursor"]
    assert CURSOR.fullmatch(ready["cursor"])
    assert ready["cursor"].endswith("-0")
    assert TIMESTAMP.fullmatch(ready["server_time"])
    off = datetime.now(UTC) - datetime.fromisoformat(ready["server_time"])
    assert abs(off) < timedelta(seconds=10)
    assert ready == {
        "session_id": session_id,
        "gateway_id": ready["gateway_id"],
        "cursor": ready["cursor"],
        "heartbeat_seconds": HEARTBEAT_SECONDS,
        "replayed": 0,
        "complete": True,
        "server_time": ready["server_time"],
    }
    assert ("transfer-encoding" in stream.headers) == (version == "1.1")


@pytest.mark.parametrize("version", HTTP_VERSIONS)
async def test_live_events_follow_with_their_ids(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str, version: Literal["1.1", "1.0"]
) -> None:
    """A durable event arrives on `message`, completed, in order, its id on the line and in the JSON."""
    stream = await tab(either, session_id, http=version)
    cursor = (await stream.ready())["cursor"]
    ids = [
        site.publish(session_id, "tool_status", {"status": "executing"}),
        site.publish(session_id, "tool_result", {"result": [1, 2.5, None]}, timestamp="then"),
    ]
    result = await stream.message("tool_result")
    assert result == {
        "id": ids[1],
        "session_id": session_id,
        "type": "tool_result",
        "data": {"result": [1, 2.5, None]},
        "timestamp": "then",
    }
    status = stream.messages[0]
    assert TIMESTAMP.fullmatch(status["timestamp"])
    assert [message["id"] for message in stream.messages] == stream.ids == ids
    epoch = cursor.partition("-")[0]
    assert ids == [f"{epoch}-1", f"{epoch}-2"]
    assert not stream.parser.complaints
    assert not stream.parser.comments


async def test_a_stream_without_cursor_gets_the_state(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str
) -> None:
    """The snapshot holds open requests, each call's last status and the last result, none with an id."""
    site.publish(session_id, "tool_status", {"tool_call_id": "c1", "status": "executing"})
    first = site.ask(session_id, request_id="r1")
    site.ask(session_id, request_id="r2")
    site.publish(session_id, "tool_status", {"tool_call_id": "c2", "status": "executing"})
    site.publish(session_id, "tool_status", {"tool_call_id": "c1", "status": "done"})
    site.publish(session_id, "tool_result", {"result": "old"})
    site.publish(session_id, "custom.kind", {})
    top = site.publish(session_id, "tool_result", {"result": "new"})

    stream = await tab(either, session_id)
    ready = await stream.ready()
    assert ready["cursor"] == top
    assert ready["replayed"] == 0
    assert ready["complete"] is True
    snapshot, last = stream.events[:-1], stream.events[-1]
    assert last.type == "ready"
    assert last.id == top
    assert all(event.type == "message" and event.id is None for event in snapshot)
    assert all("id" not in message for message in stream.messages)
    assert [
        (message["type"], message["data"].get("request_id") or message["data"].get("tool_call_id"))
        for message in stream.messages
    ] == [
        ("permission_request", "r1"),
        ("permission_request", "r2"),
        ("tool_status", "c2"),
        ("tool_status", "c1"),
        ("tool_result", None),
    ]
    request = stream.messages[0]["data"]
    assert request["status"] == "pending"
    assert request["expires_at"] == first["expires_at"]
    assert stream.messages[3]["data"]["status"] == "done"
    assert stream.messages[4]["data"]["result"] == "new"


@pytest.mark.parametrize("carrier", ["header", "last_event_id", "lastEventId", "both"])
async def test_a_cursor_resumes_behind_it(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str, carrier: str
) -> None:
    """What followed the cursor is replayed with its ids; the header counts before the query."""
    ids = [site.publish(session_id, "tool_status", {"n": n}) for n in range(4)]
    query = {"header": "", "both": f"last_event_id={ids[3]}"}.get(carrier, f"{carrier}={ids[1]}")
    header = ids[1] if carrier in ("header", "both") else None
    stream = await tab(either, session_id, query, last_event_id=header)
    ready = await stream.ready()
    assert [(event.type, event.id) for event in stream.events] == [
        ("message", ids[2]),
        ("message", ids[3]),
        ("ready", ids[3]),
    ]
    assert ready["replayed"] == 2
    assert ready["complete"] is True


async def test_a_replayed_request_that_is_settled_opens_no_dialog(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str
) -> None:
    """A request decided meanwhile is replayed under another name, in its place; an open one as itself."""
    begin = site.publish(session_id, "tool_status")
    settled = site.ask(session_id, request_id="r1")
    site.call("sse_cancel", session_id, "r1")
    pending = site.ask(session_id, request_id="r2")
    stream = await tab(either, session_id, last_event_id=begin)
    assert [(event.type, event.json.get("type"), event.id) for event in stream.events[:3]] == [
        ("settled_request", "permission_request", settled["id"]),
        ("message", "permission_cleared", stream.ids[0]),
        ("message", "permission_request", pending["id"]),
    ]


@pytest.mark.parametrize(("mode", "replayed", "shown"), [("all", 3, 3), ("none", 0, 0), ("snapshot", 0, 1)])
async def test_replay_chooses_what_a_stream_without_cursor_gets(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str, mode: str, replayed: int, shown: int
) -> None:
    """`?replay=` asks for the whole history, for nothing, or for the snapshot."""
    for n in range(3):
        site.publish(session_id, "tool_status", {"n": n})
    stream = await tab(either, session_id, f"replay={mode}")
    ready = await stream.ready()
    assert ready["replayed"] == replayed
    assert len(stream.messages) == shown


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda top: "nonsense", "malformed"),
        (lambda top: "0123456789-1", "epoch"),
        (lambda top: f"{top.partition('-')[0]}-900", "ahead"),
    ],
    ids=["malformed", "epoch", "ahead"],
)
async def test_a_cursor_that_cannot_be_honoured_resets(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str, make: Any, reason: str
) -> None:
    """The stream says why it cannot go on from there, then sends the snapshot and is ready, incomplete."""
    top = site.publish(session_id, "tool_result", {"result": 1})
    requested = make(top)
    stream = await tab(either, session_id, last_event_id=requested)
    ready = await stream.ready()
    assert [event.type for event in stream.events] == ["stream_reset", "message", "ready"]
    reset = stream.named("stream_reset")[0]
    assert reset == {"reason": reason, "requested": requested, "oldest": top, "latest": top}
    assert stream.events[0].id is None
    assert ready["complete"] is False


async def test_an_ended_session_stops_the_client(
    site: Site, either: GatewayProcess, tab: Tab, session_id: str
) -> None:
    """Ending closes open streams with a reason; who comes back at the top gets 204, others a last replay."""
    begin = site.publish(session_id, "tool_status")
    stream = await tab(either, session_id)
    site.call("sse_end", session_id)
    closing = await stream.event("closing")
    assert (closing["reason"], closing["reconnect"]) == ("session_ended", False)
    assert await stream.ended() == "clean"

    back = await tab(either, session_id, ready=False, last_event_id=stream.parser.last_event_id)
    assert (back.status, back.body) == (204, b"")
    behind = await tab(either, session_id, "replay=all")
    assert await behind.ended() == "clean"
    assert [event.type for event in behind.events] == ["message", "ready", "closing"]
    assert behind.ids == [begin]
    assert json.loads(behind.events[-1].data)["reason"] == "session_ended"
