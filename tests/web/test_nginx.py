"""Streams through a real nginx: as an old one comes out of the box, and as we recommend it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.nginx import Nginx
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until
from tests.web.site import Gateways, Site, bearer

Start = Callable[[Nginx], Nginx]

RECOMMENDED = """
    proxy_buffering off;
    proxy_read_timeout 75s;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    error_page 502 503 504 =200 @away;
"""
AWAY = """
    location @away {
        internal;
        default_type text/event-stream;
        add_header Cache-Control no-store always;
        return 200 "retry: 5000\\n\\n";
    }
"""
"""An upstream that is gone answers an EventSource with a 200, or it would give up for ever."""
PROXIES: dict[str, dict[str, Any]] = {
    "HTTP/1.0": {"http": "1.0"},
    "HTTP/1.1": {"http": "1.1"},
    "recommended": {"http": "1.1", "location": RECOMMENDED, "server": AWAY},
}


def through(proxy: Nginx, gateway: GatewayProcess, session_id: str, query: str = "") -> str:
    """Return the address of a stream by way of the proxy."""
    return str(gateway.events(session_id, query).replace(gateway.origin, proxy.origin))


async def open_through(proxy: Nginx, gateway: GatewayProcess, session_id: str, **options: Any) -> SSEStream:
    return await SSEStream.open(
        through(proxy, gateway, session_id), token=token(session_id=session_id), **options
    )


@pytest.mark.parametrize("kind", PROXIES)
async def test_events_arrive_at_once(site: Site, nginx: Start, session_id: str, kind: str) -> None:
    """Each event comes through when it is published, one by one, and heartbeats between them."""
    proxy = nginx(Nginx.proxying([site.a.port], **PROXIES[kind]))
    async with await open_through(proxy, site.a, session_id) as stream:
        await stream.ready()
        for n in range(1, 6):
            site.publish(session_id, "tool_status", {"n": n})
            await stream.message("tool_status", count=n, seconds=2)
        large = "x" * 200_000
        site.publish(session_id, "tool_result", {"text": large})
        assert (await stream.message("tool_result"))["data"]["text"] == large
        beats = len(stream.events)
        await stream.wait(lambda: len(stream.events) >= beats + 2, "heartbeats")
        assert not stream.parser.complaints
        # X-Accel-Buffering is for the proxy; what is for the browser gets there.
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-store, no-transform"


@pytest.mark.parametrize("kind", PROXIES)
async def test_the_end_comes_through(
    site: Site, nginx: Start, gateways: Gateways, http: httpx.AsyncClient, session_id: str, kind: str
) -> None:
    """`closing` and a proper end of the body reach the browser, and the proxy reports no broken upstream."""
    gateway = await gateways(site.server)
    proxy = nginx(Nginx.proxying([gateway.port], **PROXIES[kind]))
    streams = await asyncio.gather(*(open_through(proxy, gateway, session_id) for _ in range(5)))
    for stream in streams:
        await stream.ready()
    assert await asyncio.to_thread(gateway.stop) == 0
    for stream in streams:
        assert await stream.ended() == "clean"
        assert stream.events[-1].json["reason"] == "shutdown"
    assert "prematurely" not in proxy.log()

    away = await http.get(through(proxy, gateway, session_id))
    if kind == "recommended":
        assert away.status_code == 200
        assert away.headers["content-type"].startswith("text/event-stream")
        assert away.text == "retry: 5000\n\n"
    else:
        assert away.status_code == 502


async def test_a_pooled_connection_is_not_one_that_held_a_stream(
    site: Site, either: GatewayProcess, nginx: Start, http: httpx.AsyncClient, session_id: str
) -> None:
    """After streams have ended, requests over the proxy's pooled connections are answered at once."""
    proxy = nginx(
        Nginx(
            f"upstream gateways {{ server 127.0.0.1:{either.port}; keepalive 8; }}"
            "server { listen 127.0.0.1:$PORT; location / { proxy_pass http://gateways;"
            'proxy_http_version 1.1; proxy_set_header Connection ""; } }'
        )
    )
    health = f"{either.base}/health/{session_id}".replace(either.origin, proxy.origin)
    for _ in range(4):
        streams = await asyncio.gather(*(open_through(proxy, either, session_id) for _ in range(4)))
        for stream in streams:
            await stream.ready()
        for stream in streams[:2]:
            stream.close()
        site.call("sse_end", session_id)
        for stream in streams[2:]:
            assert await stream.ended() == "clean"
        begin = time.monotonic()
        answers = await asyncio.gather(*(http.get(health, headers=bearer(session_id)) for _ in range(10)))
        assert all(answer.status_code == 200 for answer in answers)
        assert time.monotonic() - begin < 8
        # A publish opens the session again.
        site.publish(session_id, "tool_status")
    assert "prematurely" not in proxy.log()


async def test_a_closed_tab_behind_a_proxy_is_noticed(site: Site, nginx: Start, session_id: str) -> None:
    """A tab that is closed behind a proxy gives its stream back to the gateway."""
    proxy = nginx(Nginx.proxying([site.a.port], http="1.0"))
    stream = await open_through(proxy, site.a, session_id)
    await stream.ready()
    stream.close()
    await until(
        lambda: [line for line in site.a.logs("SSE stream closed") if line["session"] == session_id],
        "the gateway to notice",
    )
    refused = await SSEStream.open(through(proxy, site.a, session_id))
    assert refused.status == 401
    assert json.loads(refused.body)["code"] == "token_missing"
