"""What a retry can cure is a 200 that ends in `closing`; what should stop a client is a status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx

from tests.support.gateway import GatewayProcess
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import token
from tests.support.wait import until
from tests.web.site import Gateways, Site, bearer

Proxied = Callable[[RedisProcess], Proxy]


async def open_stream(gateway: GatewayProcess, session_id: str, **claims: object) -> SSEStream:
    return await SSEStream.open(gateway.events(session_id), token=token(session_id=session_id, **claims))


async def check_sent_away(stream: SSEStream, reason: str) -> None:
    """Check that a stream was accepted, told when to come back, and ended properly, with nothing else in it."""
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
    site: Site, gateways: Gateways, session_id: str
) -> None:
    """At MAX_STREAMS a stream gets a 200, a later `retry:` and an end; with room again it gets in."""
    gateway = await gateways(site.server, max_streams=2)
    one, two = [await open_stream(gateway, session_id, sub=user) for user in ("user-1", "user-2")]
    for stream in (one, two):
        await stream.ready()
    await check_sent_away(await open_stream(gateway, session_id), "overloaded")
    metrics = await gateway.metrics()
    assert metrics['sse_gateway_streams_rejected_total{reason="overloaded"}'] == 1
    assert metrics["sse_gateway_streams"] == 2

    one.close()

    async def has_room() -> bool:
        return (await gateway.metrics())["sse_gateway_streams"] == 1

    await until(has_room, "the closed stream to be noticed")
    async with await open_stream(gateway, session_id) as third:
        await third.ready()
    assert two.end is None
    two.close()


async def test_a_limit_of_session_or_user_is_a_429(site: Site, gateways: Gateways, session_id: str) -> None:
    """Too many streams of one session or one user get a 429 with `Retry-After`, others get in."""
    gateway = await gateways(site.server, max_streams_per_session=2, max_streams_per_user=3)
    mine = [await open_stream(gateway, name) for name in (session_id, session_id, f"{session_id}-2")]
    for stream in mine:
        await stream.ready()
    refused = {
        "this session": await open_stream(gateway, session_id, sub="user-2"),
        "this user": await open_stream(gateway, f"{session_id}-3"),
    }
    for whose, answer in refused.items():
        assert answer.status == 429
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert int(answer.headers["retry-after"]) > 0
        body = json.loads(answer.body)
        assert body["success"] is False
        assert body["code"] == "too_many_streams"
        assert whose in body["message"]
    async with await open_stream(gateway, f"{session_id}-3", sub="user-2") as other:
        await other.ready()
    for stream in mine:
        assert stream.end is None
        stream.close()


async def test_a_gateway_that_never_saw_redis_starts_and_waits(
    site: Site, gateways: Gateways, proxied: Proxied, session_id: str
) -> None:
    """Started before its Redis a gateway is live and not ready, sends streams away, and later takes them."""
    link = proxied(site.server)
    link.refuse()
    gateway = await gateways(link, wait="live")
    await gateway.answers("/readyz", 503)
    url, by_claim, by_owner = gateway.events(session_id), token(session_id=session_id), token()
    streams = await asyncio.gather(
        SSEStream.open(url, token=by_claim),
        SSEStream.open(url, token=by_claim, http="1.0"),
        SSEStream.open(url, token=by_owner),
    )
    for stream in streams:
        await check_sent_away(stream, "unavailable")
    # What no retry can cure is still said.
    assert (await get(url, token="bad")).status == 401
    assert (await get(url)).status == 401

    link.accept()
    await gateway.answers("/readyz")
    async with await open_stream(gateway, session_id) as stream:
        await stream.ready()
        site.publish(session_id, "tool_status")
        await stream.message("tool_status")


async def test_streams_stay_open_through_an_outage(
    site: Site, gateways: Gateways, proxied: Proxied, http: httpx.AsyncClient, session_id: str
) -> None:
    """An open stream outlives Redis' absence, gets what it missed, and an answer meanwhile is a 503."""
    link = proxied(site.server)
    gateway = await gateways(link, heartbeat_seconds=0.3)
    asked = site.ask(session_id)
    async with await open_stream(gateway, session_id) as stream:
        await stream.ready()
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
        await check_sent_away(await open_stream(gateway, session_id), "unavailable")
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
