"""The tests' nginx and Chromium do what they say, shown with a plain stream of aiohttp's and none of ours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from playwright.async_api import Page

from tests.support.gateway import environment
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.stream import SSEStream, get
from tests.support.wait import Hopeless, until

PAGE = """<!doctype html><pre id=out></pre><script>
const source = new EventSource("/events");
source.onmessage = event => out.textContent += event.lastEventId + ":" + event.data + ";";
</script>"""


@pytest.fixture
async def upstream() -> AsyncIterator[int]:
    """A page and a stream of three events; returns the port."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        for number in range(3):
            await response.write(b"id: %d\ndata: event\n\n" % number)
        await asyncio.sleep(30 if "stay" in request.query else 0)
        return response

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/events", events)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield port
    await runner.cleanup()


@pytest.mark.parametrize("http", ["1.0", "1.1"])
async def test_nginx_passes_a_stream_through(
    upstream: int, nginx: Callable[[Nginx], Nginx], http: str
) -> None:
    proxy = nginx(Nginx.proxying([upstream], http="1.1" if http == "1.1" else "1.0"))
    stream = await SSEStream.open(f"{proxy.origin}/events", last_event_id="7")
    assert await stream.ended() == "clean"
    assert stream.ids == ["0", "1", "2"]
    await until(lambda: '"GET /events HTTP/1.1" 200' in proxy.access_log(), "nginx to write its log")

    async with await SSEStream.open(f"{proxy.origin}/events?stay") as staying:
        await staying.wait(lambda: len(staying.events) == 3, "the events before the end of the body")
        assert staying.end is None


async def test_nginx_answers_for_an_upstream_that_is_gone(nginx: Callable[[Nginx], Nginx]) -> None:
    proxy = nginx(Nginx.proxying([free_port()]))
    assert (await get(f"{proxy.origin}/")).status == 502
    assert "Connection refused" in proxy.log()


def test_nginx_says_why_it_does_not_start(nginx: Callable[[Nginx], Nginx]) -> None:
    with pytest.raises(Hopeless, match="unknown directive"):
        nginx(Nginx("no_such_directive;"))


async def test_a_plain_event_source_runs_in_chromium(upstream: int, page: Page) -> None:
    await page.goto(f"http://127.0.0.1:{upstream}/")
    await page.wait_for_function("out.textContent.startsWith('0:event;1:event;2:event;')")


def test_a_gateway_gets_its_settings_and_none_of_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_GATEWAY_PORT", "1")
    made = environment({"console": True, "cors_origins": ["http://a", "http://b"], "max_streams": None})
    assert {name: value for name, value in made.items() if name.startswith("SSE_")} == {
        "SSE_GATEWAY_CONSOLE": "true",
        "SSE_GATEWAY_CORS_ORIGINS": "http://a http://b",
    }
    assert made["PATH"] == os.environ["PATH"]
