"""What a retry can cure is a 200 that ends in `closing`; what should stop a client is a status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx

from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import token
from tests.support.wait import until
from tests.web.site import Gateways, Site, Tab, bearer

Proxied = Callable[[RedisProcess], Proxy]


async def check_sent_away(stream: SSEStream, reason: str) -> None:
    """Check that a stream was accepted, told when to come back, and properly ended, and no more."""
    assert await stream.ended() == "clean"
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event.type for event in stream.events] == ["closing"]
    closing = stream.events[0].json
    assert (closing["reason"], closing["reconnect"]) == (reason, True)
    assert 5000 <= closing["retry_ms"] <= 15000
    assert stream.parser.retry == closing["retry_ms"]
    assert stream.parser.last_event_id == ""
    assert not stream.parser.complaints


async def test_a_full_process_sends_streams_elsewhere(
    site: Site, tab: Tab, gateways: Gateways, session_id: str
) -> None:
    """At MAX_STREAMS a stream gets a 200, a later `retry:` and an end; with room again it gets in."""
    gateway = await gateways(site.server, max_streams=2)
    one, two = [await tab(gateway, session_id, claims={"sub": user}) for user in ("user-1", "user-2")]
    await check_sent_away(await tab(gateway, session_id, ready=False), "overloaded")
    metrics = await gateway.metrics()
    assert metrics['sse_gateway_streams_rejected_total{reason="overloaded"}'] == 1
    assert metrics["sse_gateway_streams"] == 2

    one.close()

    async def has_room() -> bool:
        return (await gateway.metrics())["sse_gateway_streams"] == 1

    await until(has_room, "the closed stream to be noticed")
    await tab(gateway, session_id)
    assert two.end is None


async def test_a_limit_of_session_or_user_is_a_429(
    site: Site, tab: Tab, gateways: Gateways, session_id: str
) -> None:
    """Too many streams of one session or one user get a 429 with `Retry-After`, others get in."""
    gateway = await gateways(site.server, max_streams_per_session=2, max_streams_per_user=3)
    mine = [await tab(gateway, name) for name in (session_id, session_id, f"{session_id}-2")]
    refused = {
        "this session": await tab(gateway, session_id, ready=False, claims={"sub": "user-2"}),
        "this user": await tab(gateway, f"{session_id}-3", ready=False),
    }
    for whose, answer in refused.items():
        assert answer.status == 429
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert int(answer.headers["retry-after"]) > 0
        body = json.loads(answer.body)
        assert body["success"] is False
        assert body["code"] == "too_many_streams"
        assert whose in body["message"]
    await tab(gateway, f"{session_id}-3", claims={"sub": "user-2"})
    for stream in mine:
        assert stream.end is None


async def test_a_gateway_that_never_saw_redis_starts_and_waits(
    site: Site, tab: Tab, gateways: Gateways, proxied: Proxied, session_id: str
) -> None:
    """Started before its Redis a gateway is live and not ready, sends streams away, and later takes them."""
    link = proxied(site.server)
    link.refuse()
    gateway = await gateways(link, wait="live")
    await gateway.answers("/readyz", 503)
    streams = await asyncio.gather(
        tab(gateway, session_id, ready=False),
        tab(gateway, session_id, ready=False, http="1.0"),
        tab(gateway, session_id, ready=False, token=token()),
    )
    for stream in streams:
        await check_sent_away(stream, "unavailable")
    # What no retry can cure is still said.
    assert (await get(gateway.events(session_id), token="bad")).status == 401
    assert (await get(gateway.events(session_id))).status == 401

    link.accept()
    await gateway.answers("/readyz")
    stream = await tab(gateway, session_id)
    site.publish(session_id, "tool_status")
    await stream.message("tool_status")


async def test_streams_stay_open_through_an_outage(
    site: Site, tab: Tab, gateways: Gateways, proxied: Proxied, http: httpx.AsyncClient, session_id: str
) -> None:
    """An open stream outlives Redis' absence, gets what it missed, and an answer meanwhile is a 503."""
    link = proxied(site.server)
    gateway = await gateways(link, heartbeat_seconds=0.3)
    asked = site.ask(session_id)
    stream = await tab(gateway, session_id)
    link.refuse()
    answer = await http.post(
        f"{gateway.base}/permission-response/{session_id}",
        headers=bearer(session_id),
        json={"approved": True, "request_id": asked["request_id"]},
    )
    assert answer.status_code == 503
    assert answer.json()["code"] == "redis_unavailable"
    assert int(answer.headers["retry-after"]) > 0
    missed = [site.publish(session_id, "tool_status", {"n": n}) for n in range(3)]
    await check_sent_away(await tab(gateway, session_id, ready=False), "unavailable")
    beats = len(stream.events)
    await stream.wait(lambda: len(stream.events) >= beats + 2, "heartbeats without Redis")
    assert stream.ids == []

    link.accept()
    await stream.wait(lambda: stream.ids == missed, "what was published meanwhile")
    after = site.publish(session_id, "tool_status")
    await stream.wait(lambda: stream.ids == [*missed, after], "what is published now")
    assert not stream.named("stream_reset")
    pending = json.loads(site.call("sse_decision", session_id, asked["request_id"]))
    assert pending["status"] == "pending"
