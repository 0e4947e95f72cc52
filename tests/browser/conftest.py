"""The developer console in Chromium, before a gateway and a server that all these tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.console import Console, Opener
from tests.support.browser import binary, chromium
from tests.support.gateway import GatewayProcess
from tests.support.modes import missing
from tests.support.servers import RedisProcess

if TYPE_CHECKING:
    from playwright.async_api import Browser

PATIENCE_MS = 20_000
"""How long a page may take to show what it should: far longer than it needs, for a machine under load."""


@pytest.fixture(scope="session")
def console_server() -> Iterator[RedisProcess]:
    """The worker's server behind the consoles; each test has a session of its own."""
    with RedisProcess("valkey") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def console_gateway(console_server: RedisProcess) -> AsyncIterator[GatewayProcess]:
    """The worker's gateway with the console on."""
    gateway = GatewayProcess(console_server.url, console=True, heartbeat_seconds=1)
    try:
        yield await gateway.start()
    finally:
        await asyncio.to_thread(gateway.close)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_browser() -> AsyncIterator[Browser]:
    """One Chromium for the worker; starting it takes longer than most of these tests."""
    if binary() is None:
        missing("chromium")
    expect.set_options(timeout=PATIENCE_MS)
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def consoles(shared_browser: Browser, gateways: object) -> AsyncIterator[Opener]:
    """Open consoles, each in a browser profile of its own; what none of them may do fails the test.

    That is: an error in the browser's console or a violation of the page's policy (both reported there), an
    exception nobody caught, a request to another origin, a token in an address. The test's own gateways end
    after the pages, which would report their end as an error.
    """
    opened: list[Console] = []
    async with AsyncExitStack() as stack:

        async def make(gateway: GatewayProcess, server: RedisProcess, session_id: str) -> Console:
            context = await stack.enter_async_context(await shared_browser.new_context())
            opened.append(Console(await context.new_page(), gateway, server, session_id))
            return opened[-1]

        yield make
    for console in opened:
        assert not console.faults, console.faults


@pytest_asyncio.fixture(loop_scope="session")
async def console(
    consoles: Opener, console_gateway: GatewayProcess, console_server: RedisProcess, session_id: str
) -> Console:
    """One console, not opened yet."""
    return await consoles(console_gateway, console_server, session_id)


@pytest.fixture
def another(
    consoles: Opener, console_gateway: GatewayProcess, console_server: RedisProcess, session_id: str
) -> Callable[[], object]:
    """Get a second console on the same session by awaiting a call of this."""
    return lambda: consoles(console_gateway, console_server, session_id)
