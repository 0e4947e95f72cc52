"""A plain `EventSource` in Chromium, with none of our code, behind nginx and two gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.agent import Agent
from tests.support.gateway import BASE_PATH, GatewayProcess
from tests.support.nginx import Nginx
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until

if TYPE_CHECKING:
    from playwright.async_api import Page

HEARTBEAT_SECONDS = 0.5
HTTP = """
upstream gateways { $SERVERS }
server {
  listen 127.0.0.1:$PORT;
  location = /page { default_type text/html; return 200 "<!doctype html><title>a page</title>"; }
  location / { proxy_pass http://gateways; proxy_http_version 1.1; proxy_set_header Connection ""; }
}
"""
LISTEN = """
url => {
  window.seen = []; window.opened = 0; window.errors = 0; window.beats = 0;
  const source = window.source = new EventSource(url);
  source.onopen = () => { window.opened += 1; };
  source.onerror = () => { window.errors += 1; };
  source.onmessage = event => {
    const said = JSON.parse(event.data);
    if (said.type !== "heartbeat") window.seen.push([said.id, event.lastEventId, said.data.n]);
    else window.beats += 1;
  };
}
"""


@pytest.fixture
async def agent(server: RedisProcess) -> AsyncIterator[Agent]:
    """An agent that reaches the server whatever the gateways do."""
    async with Agent(server.url) as agent:
        yield agent


class Setting:
    """A browser's page at nginx, before two gateways, on one wire to the server."""

    def __init__(self, page: Page, wire: Proxy, gateways: list[GatewayProcess], origin: str) -> None:
        self.page = page
        self.wire = wire
        self.gateways = gateways
        self._origin = origin

    async def listen(self, session_id: str) -> None:
        """Open the page and its EventSource."""
        await self.page.goto(f"{self._origin}/page")
        right = token(session_id=session_id)
        url = f"{self._origin}{BASE_PATH}/events/{session_id}?replay=all&token={right}"
        await self.page.evaluate(LISTEN, url)
        await self.sees("window.opened === 1", "the EventSource to open")

    async def sees(self, condition: str, what: str, *, seconds: float = 30) -> None:
        """Wait until something is true in the page."""
        await until(lambda: self.page.evaluate(condition), what, seconds=seconds, every=0.1)

    async def comes_to(self, id: str) -> None:
        """Wait until the page has had this event."""
        await self.sees(f"window.seen.some(seen => seen[0] === '{id}')", f"the event {id}", seconds=40)

    async def has_all(self, agent: Agent, session_id: str) -> None:
        """Assert that it has had each event of the history once and in order."""
        assert await self.page.evaluate("window.source.readyState") == 1
        seen: list[Any] = await self.page.evaluate("window.seen")
        expected = [
            [event["id"], event["id"], event["data"]["n"]] for event in await agent.history(session_id)
        ]
        assert seen == expected


@pytest.fixture
async def setting(
    server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Callable[..., Awaitable[GatewayProcess]],
    nginx: Callable[[Nginx], Nginx],
    page: Page,
) -> Setting:
    """Two gateways, nginx that takes the other when one is not there, and a page."""
    wire = proxied(server)
    settings = {"heartbeat_seconds": HEARTBEAT_SECONDS, "drain_seconds": 0.5}
    both = await asyncio.gather(*(gateways(wire, **settings) for _ in range(2)))
    servers = " ".join(f"server 127.0.0.1:{gateway.port} max_fails=0;" for gateway in both)
    proxy = nginx(Nginx(HTTP.replace("$SERVERS", servers)))
    return Setting(page, wire, list(both), proxy.origin)


@pytest.mark.timeout(150)
async def test_an_eventsource_outlives_an_outage_and_a_restart_of_each_gateway(
    setting: Setting, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """A plain EventSource loses and repeats nothing over 30 s without Redis and a restart of each gateway."""
    async with agent.publishing(session_id, pause=0.08):
        await setting.listen(session_id)
        await setting.sees("window.seen.length > 5", "some events")
        setting.wire.refuse()
        for gateway in setting.gateways:
            await gateway.answers("/readyz", 503)
        gone_at = time.monotonic()
        beats = await setting.page.evaluate("window.beats")
        await asyncio.sleep(scale(2, 30))
        beats = await setting.page.evaluate("window.beats") - beats
        assert beats >= (time.monotonic() - gone_at) / HEARTBEAT_SECONDS * 0.6, "heartbeats go on"
        assert await setting.page.evaluate("[window.opened, window.errors]") == [1, 0], (
            "the stream stays open"
        )
        setting.wire.accept()
        for gateway in setting.gateways:
            await gateway.answers("/readyz")
        await setting.comes_to(await agent.publish(session_id))
        for gateway in setting.gateways:
            opened = await setting.page.evaluate("window.opened")
            assert await asyncio.to_thread(gateway.stop) == 0
            await setting.sees("window.source.readyState === 1", "the EventSource to be back")
            await gateway.start()
            assert await setting.page.evaluate("window.opened") <= opened + 1
        assert await setting.page.evaluate("window.opened") >= 2, "at least one of them had carried it"
    await setting.comes_to(await agent.publish(session_id))
    await setting.has_all(agent, session_id)


@pytest.mark.long
@pytest.mark.timeout(150)
async def test_an_eventsource_that_comes_back_during_the_outage_tries_again(
    setting: Setting, agent: Agent, session_id: str
) -> None:
    """A plain EventSource whose gateway restarts while Redis is away keeps trying, and then has all of it."""
    async with agent.publishing(session_id, pause=0.08):
        await setting.listen(session_id)
        await setting.sees("window.seen.length > 5", "some events")
        setting.wire.refuse()
        for gateway in setting.gateways:
            await asyncio.to_thread(gateway.stop)
            await gateway.start(wait="live")
        # It is answered 200 and a `closing`, each time, with a longer delay.
        await setting.sees("window.opened >= 2", "an attempt without Redis")
        assert await setting.page.evaluate("window.source.readyState") != 2
        setting.wire.accept()
    await setting.comes_to(await agent.publish(session_id))
    await setting.has_all(agent, session_id)
