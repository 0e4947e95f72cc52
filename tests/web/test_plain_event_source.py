"""A page with none of our code: `new EventSource(url)`, `onmessage`, `switch (data.type)`, in Chromium.

The page comes from another origin than the gateway, which CORS_ORIGINS names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.support.browser import binary, chromium
from tests.support.gateway import GatewayProcess
from tests.support.modes import missing
from tests.support.ports import free_port
from tests.support.tokens import token
from tests.web.site import Site

PAGE = """<!doctype html>
<title>plain</title>
<script>
const url = new URLSearchParams(location.search).get("events");
const log = [];          // what happened, in order
const byType = {};       // the types that the switch below knows, and how often each came
const source = new EventSource(url);
source.onopen = () => log.push("open");
source.onerror = () => log.push("error " + source.readyState);
source.onmessage = (event) => {
  const data = JSON.parse(event.data);
  if (Number.isNaN(new Date(data.timestamp).getTime())) throw new Error("no time: " + event.data);
  switch (data.type) {
    case "tool_status":
    case "permission_request":
    case "permission_cleared":
    case "tool_result":
    case "heartbeat":
      byType[data.type] = (byType[data.type] || 0) + 1;
      if (data.type !== "heartbeat") log.push(data.type + " " + data.id + " " + event.lastEventId);
      break;
    default:
      throw new Error("unknown: " + event.data);
  }
};
async function answer(where, token, body) {
  const response = await fetch(where, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer " + token },
    body: JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
}
</script>"""
CLOSED = 2

# The browser is driven from one event loop, which these tests share with it.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def origin() -> AsyncIterator[str]:
    """The origin that serves the page."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all of these tests."""
    if binary() is None:
        missing("chromium")
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in a profile of its own; an error that no script caught fails the test."""
    context = await browser.new_context()
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    await context.close()
    assert not faults, faults


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(valkey_site: Site, origin: str) -> AsyncIterator[GatewayProcess]:
    """A gateway whose API that origin's pages may call; a test that stops it starts it again."""
    gateway = GatewayProcess(
        valkey_site.server.url,
        cors_origins=[origin],
        heartbeat_seconds=0.5,
        min_display_seconds=0,
        drain_seconds=1,
    )
    try:
        yield await gateway.start()
    finally:
        gateway.close()


async def visit(page: Page, origin: str, url: str) -> None:
    await page.goto(f"{origin}/?events={quote(url, safe='')}")


async def log(page: Page) -> list[str]:
    found: list[str] = await page.evaluate("log")
    return found


async def state(page: Page) -> int:
    found: int = await page.evaluate("source.readyState")
    return found


async def test_a_plain_page_sees_the_five_types_and_answers(
    site: Site, gateway: GatewayProcess, origin: str, page: Page, session_id: str
) -> None:
    """A page that knows only the contract sees each type on `onmessage`; its answer by fetch clears."""
    made = token(session_id=session_id)
    await visit(page, origin, gateway.events(session_id, f"token={made}"))
    await page.wait_for_function("source.readyState === 1")
    ids = [site.publish(session_id, "tool_status", {"status": "executing"})]
    ids.append(site.ask(session_id, request_id="r1")["id"])
    await page.wait_for_function("byType.permission_request === 1")

    where = f"{gateway.base}/permission-response/{session_id}"
    answered = await page.evaluate("a => answer(...a)", [where, made, {"approved": True, "reason": "ok"}])
    assert answered["status"] == 200
    assert answered["body"]["data"]["decision"]["outcome"] == "approved"
    refused = await page.evaluate("a => answer(...a)", [where, "bad", {"approved": True}])
    assert refused["status"] == 401
    assert refused["body"]["code"] == "token_invalid"

    await page.wait_for_function("byType.permission_cleared === 1")
    result = site.publish(session_id, "tool_result", {"success": True})
    await page.wait_for_function("byType.tool_result === 1 && byType.heartbeat >= 2")
    lines = await log(page)
    assert lines[0] == "open"
    kinds = ["tool_status", "permission_request", "permission_cleared", "tool_result"]
    assert [line.split()[0] for line in lines[1:]] == kinds
    for line in lines[1:]:
        kind, id, last_event_id = line.split()
        assert id == last_event_id
        assert kind != "tool_status" or id == ids[0]
    assert lines[2].endswith(ids[1])
    assert lines[4].endswith(result)


@pytest.mark.parametrize(
    ("bad", "why"),
    [("token=bad", "401"), ("", "401"), ("token={foreign}", "403"), ("replay=x&token={good}", "400")],
)
async def test_a_refusal_stops_it_for_ever(
    gateway: GatewayProcess, origin: str, page: Page, session_id: str, bad: str, why: str
) -> None:
    """Any status but 200 closes a native EventSource: it is told once, and never asks again."""
    asked: list[int] = []
    page.on("response", lambda answer: asked.append(answer.status) if "/events/" in answer.url else None)
    query = bad.format(good=token(session_id=session_id), foreign=token(session_id="other"))
    await visit(page, origin, gateway.events(session_id, query))
    await page.wait_for_function("log.length > 0")
    assert await log(page) == [f"error {CLOSED}"]
    assert await state(page) == CLOSED
    assert asked == [int(why)]


async def test_closing_brings_it_back(
    site: Site, gateway: GatewayProcess, origin: str, page: Page, session_id: str
) -> None:
    """After `closing` it returns by itself in the time that was named, and goes on where it was."""
    await visit(page, origin, gateway.events(session_id, f"token={token(session_id=session_id)}"))
    await page.wait_for_function("source.readyState === 1")
    ids = [site.publish(session_id, "tool_status", {"n": 1})]
    await page.wait_for_function("byType.tool_status === 1")
    assert await asyncio.to_thread(gateway.stop) == 0
    ids.append(site.publish(session_id, "tool_status", {"n": 2}))
    ids.append(site.publish(session_id, "tool_status", {"n": 3}))
    await gateway.start()
    await page.wait_for_function("byType.tool_status === 3", timeout=20_000)
    ids.append(site.publish(session_id, "tool_status", {"n": 4}))
    await page.wait_for_function("byType.tool_status === 4")
    lines = await log(page)
    assert [line.split()[1] for line in lines if line.startswith("tool_status")] == ids
    assert f"error {CLOSED}" not in lines
    assert await state(page) == 1


async def test_an_ended_session_stops_it(
    site: Site, gateway: GatewayProcess, origin: str, page: Page, session_id: str
) -> None:
    """When a session has ended, the 204 on its return is what makes a native EventSource stop."""
    await visit(page, origin, gateway.events(session_id, f"token={token(session_id=session_id)}"))
    await page.wait_for_function("source.readyState === 1")
    site.publish(session_id, "tool_status")
    await page.wait_for_function("byType.tool_status === 1")
    site.call("sse_end", session_id)
    await page.wait_for_function(f"source.readyState === {CLOSED}", timeout=20_000)
    lines: list[Any] = await log(page)
    assert lines[-1] == f"error {CLOSED}"
    assert json.dumps(lines).count("tool_status") == 1


async def test_another_origin_s_page_gets_nothing(
    site: Site, origin: str, page: Page, session_id: str
) -> None:
    """A page whose origin is not named is refused by the browser, even with a good token."""
    made = token(session_id=session_id)
    await visit(page, origin, site.a.events(session_id, f"token={made}"))
    await page.wait_for_function("log.length > 0")
    assert await log(page) == [f"error {CLOSED}"]
    where = f"{site.a.base}/permission-response/{session_id}"
    failed = await page.evaluate("a => answer(...a).catch(error => error.name)", [where, made, {}])
    assert failed == "TypeError"
