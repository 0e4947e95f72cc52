"""How streams end: on SIGTERM, with their token, and when a page's next stream replaces its last."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from typing import Literal

import httpx
import pytest

from tests.support.plain import plain_client
from tests.support.stream import get
from tests.support.tokens import token
from tests.support.wait import listening, until
from tests.web.site import Gateways, Site, Tab, bearer


@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
async def test_sigterm_closes_streams_properly(
    site: Site, tab: Tab, gateways: Gateways, session_id: str, transport: str
) -> None:
    """Each stream ends with `closing` whose `retry:` is its delay, then the end of its body; exit code 0."""
    gateway = await gateways(site.server, stream_transport=transport)
    versions: tuple[Literal["1.1", "1.0"], ...] = ("1.1", "1.0", "1.1", "1.0", "1.1", "1.0")
    streams = [await tab(gateway, session_id, http=version) for version in versions]
    last = site.publish(session_id, "tool_status")
    for stream in streams:
        await stream.message("tool_status")

    assert await asyncio.to_thread(gateway.stop) == 0
    delays = set()
    for stream in streams:
        assert await stream.ended() == "clean"
        assert not stream.parser.unfinished
        assert stream.events[-1].type == "closing"
        closing = stream.events[-1].json
        assert closing.keys() == {"reason", "reconnect", "retry_ms"}
        assert (closing["reason"], closing["reconnect"]) == ("shutdown", True)
        assert 500 <= closing["retry_ms"] <= 2000
        assert stream.parser.retry == closing["retry_ms"]
        assert stream.parser.last_event_id == last
        delays.add(closing["retry_ms"])
    assert len(delays) > 1
    closed = gateway.logs("SSE stream closed")
    assert [line["reason"] for line in closed] == ["shutdown"] * len(streams)


@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
async def test_a_reader_that_is_behind_at_the_end_gets_what_was_written_for_it(
    site: Site, tab: Tab, gateways: Gateways, session_id: str, transport: str
) -> None:
    """What waits in the gateway's buffer at SIGTERM is sent before it exits, and the body ends properly."""
    gateway = await gateways(site.server, stream_transport=transport, drain_seconds=0)
    address = httpx.URL(gateway.events(session_id))
    quick = await tab(gateway, session_id, http="1.1")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.connect((address.host, address.port))
        slow.sendall(
            f"GET {address.path} HTTP/1.1\r\nHost: h\r\n"
            f"Authorization: Bearer {token(session_id=session_id)}\r\n\r\n".encode()
        )
        received = b""
        while b"event: ready" not in received:
            received += await asyncio.to_thread(slow.recv, 4096)
        for number in range(90):
            last = site.publish(session_id, "tool_output", text="x" * 10_000, number=number)
        await until(lambda: quick.parser.last_event_id == last, "the gateway to have written all")
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        await until(lambda: len(gateway.logs("SSE stream closed")) == 2, "the streams to be closed")
        # Long after the gateway has let go of everything else.
        await asyncio.sleep(1)
        assert not stopping.done()
        while more := await asyncio.to_thread(slow.recv, 65536):
            received += more
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b"id: ") == 1 + 90  # that of `ready` too
    assert f"id: {last}\n".encode() in received
    assert b"event: closing" in received
    assert await stopping == 0


async def test_a_gateway_without_streams_ends_at_once(site: Site, gateways: Gateways) -> None:
    """SIGTERM and SIGINT end an idle gateway with code 0, whatever DRAIN_SECONDS says."""
    one, other = await asyncio.gather(*(gateways(site.server, drain_seconds=60) for _ in range(2)))
    assert await asyncio.to_thread(one.stop, seconds=10) == 0
    os.kill(other.pid, signal.SIGINT)
    await until(lambda: not other.running, "the gateway to end after Ctrl-C")
    assert other.stop() == 0


async def test_a_draining_gateway_takes_nobody_new_and_serves_its_guests(
    site: Site, tab: Tab, gateways: Gateways, session_id: str
) -> None:
    """While it drains: no new connections, not ready, streams sent elsewhere by a 200, POSTs served."""
    gateway = await gateways(site.server, drain_seconds=3)
    streams = await asyncio.gather(*(tab(gateway, session_id) for _ in range(30)))
    request_id = site.ask(session_id)["request_id"]
    async with plain_client(base_url=gateway.base, headers=bearer(session_id)) as guest:
        # One connection for all, opened before the end began: a proxy's pool is full of these.
        assert (await guest.get(f"/health/{session_id}")).json()["data"]["manager_status"] == "running"
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        await until(lambda: not listening(gateway.port), "the listening socket to be closed")

        readiness = await guest.get(f"{gateway.origin}/readyz")
        assert readiness.status_code == 503
        assert "draining" in readiness.text
        assert (await guest.get(f"{gateway.origin}/healthz")).status_code == 200
        assert (await guest.get(f"/health/{session_id}")).json()["data"]["manager_status"] == "stopped"
        answer = await guest.post(
            f"/permission-response/{session_id}", json={"approved": True, "request_id": request_id}
        )
        assert answer.status_code == 200
        late = await guest.get(f"/events/{session_id}")
        assert late.status_code == 200
        assert late.headers["content-type"].startswith("text/event-stream")
        assert "event: closing" in late.text
        assert '"reason":"shutdown","reconnect":true' in late.text
        assert any(stream.end is None for stream in streams), "the drain was over before it was looked at"
        assert await stopping == 0
    ends = []
    for stream in streams:
        assert await stream.ended() == "clean"
        assert stream.named("closing")[0]["reason"] == "shutdown"
        ends.append(stream.arrivals[-1])
    # Spread, so that the next gateway is not stormed.
    assert max(ends) - min(ends) > 0.7


async def test_a_stream_ends_with_its_token(
    gateways: Gateways, site: Site, tab: Tab, session_id: str
) -> None:
    """A stream is warned and then closed as its token ends; coming back with that token is a 401."""
    gateway = await gateways(site.server, jwt_leeway_seconds=0)
    expiry = int(time.time()) + 3
    stream = await tab(gateway, session_id, claims={"exp": expiry})
    assert (await stream.event("token_expiring"))["expires_at"].startswith("20")
    closing = await stream.event("closing")
    assert time.time() >= expiry
    assert (closing["reason"], closing["reconnect"]) == ("token_expired", False)
    assert await stream.ended() == "clean"
    back = await get(gateway.events(session_id), token=token(session_id=session_id, exp=expiry))
    assert back.status == 401
    assert b"token_expired" in back.body


async def test_a_page_s_next_stream_replaces_its_last(site: Site, tab: Tab, session_id: str) -> None:
    """A user's same `client_id` replaces its stream; another user's or none does not."""
    plain = await tab(site.a, session_id)
    first = await tab(site.a, session_id, "client_id=page")
    foreign = await tab(site.a, session_id, "client_id=page", claims={"sub": "user-2"})
    second = await tab(site.a, session_id, "client_id=page")
    closing = await first.event("closing")
    assert (closing["reason"], closing["reconnect"]) == ("superseded", False)
    assert await first.ended() == "clean"
    site.publish(session_id, "tool_status")
    for stream in (plain, foreign, second):
        await stream.message("tool_status")
        assert not stream.named("closing")


async def test_two_pages_with_one_client_id_are_told_apart_by_429(
    site: Site, tab: Tab, session_id: str
) -> None:
    """Streams that replace each other again and again end in a 429, which stops a native client."""
    *_, last = [await tab(site.a, session_id, "client_id=page") for _ in range(4)]
    refused = await get(site.a.events(session_id, "client_id=page"), token=token(session_id=session_id))
    assert refused.status == 429
    assert refused.headers["retry-after"] == "30"
    assert b'"code":"too_many_streams"' in refused.body
    assert not last.named("closing")


@pytest.mark.parametrize("hang_up", ["close", "abort"])
async def test_a_closed_tab_is_noticed_and_logged_once(
    site: Site, tab: Tab, http: httpx.AsyncClient, session_id: str, hang_up: str
) -> None:
    """A browser that goes, by FIN or reset, gives its stream back without an event being sent."""
    stream = await tab(site.a, session_id)
    stream.close() if hang_up == "close" else stream.abort()

    def ours(message: str) -> list[dict[str, object]]:
        return [line for line in site.a.logs(message) if line["session"] == session_id]

    async def nobody() -> bool:
        health = await http.get(f"{site.b.base}/health/{session_id}", headers=bearer(session_id))
        return bool(health.json()["data"]["subscriber_count"] == 0)

    await until(lambda: ours("SSE stream closed"), "the line about the closed stream")

    await until(nobody, "the other gateway to know that nobody is there")
    assert [line["reason"] for line in ours("SSE stream closed")] == ["client_gone"]
