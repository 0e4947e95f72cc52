"""A site that all these tests share: two gateways on one server, each a process of its own.

Starting a gateway takes longer than most of these tests, so those that do not end, starve or reconfigure one
use the site's, each with a session of its own. Whoever needs other settings starts some by `gateways`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.support.gateway import GatewayProcess, running
from tests.support.modes import missing
from tests.support.plain import plain_client
from tests.support.servers import KINDS, Kind, RedisProcess, binary
from tests.support.tabs import tabs
from tests.web.site import CLIENT_LIMITS, Human, Site, Tab


@asynccontextmanager
async def _site(kind: Kind) -> AsyncIterator[Site]:
    if binary(kind) is None:
        missing("redis-server" if kind == "redis" else kind)
    with RedisProcess(kind) as server:
        site = Site(server)
        async with running(site.a, site.b):
            yield site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey_site() -> AsyncIterator[Site]:
    """The worker's site on Valkey."""
    async with _site("valkey") as site:
        yield site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_site() -> AsyncIterator[Site]:
    """The worker's site on redis-server."""
    async with _site("redis") as site:
        yield site


@pytest.fixture
def site(valkey_site: Site) -> Site:
    """Two gateways on one Valkey; see `Site` for their settings."""
    return valkey_site


@pytest.fixture(params=["aiohttp", "handover"])
def either(request: pytest.FixtureRequest, site: Site) -> GatewayProcess:
    """The site's gateway `a` and then its `b`: each way to hold a stream."""
    return site.a if request.param == "aiohttp" else site.b


@pytest.fixture(params=KINDS)
def any_site(request: pytest.FixtureRequest) -> Any:
    """The same, once on Valkey and once on redis-server."""
    return request.getfixturevalue(f"{request.param}_site")


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """Open streams that are hung up at the end of the test; see `Tab` for the call."""
    async with tabs() as opened:
        yield opened


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of this test's own."""
    async with plain_client(timeout=10, limits=CLIENT_LIMITS) as client:
        yield client


@pytest.fixture
def human(http: httpx.AsyncClient, session_id: str) -> Human:
    """Somebody who answers requests of this test's session."""
    return Human(http, session_id)


@pytest.fixture
async def heard(any_site: Site, session_id: str) -> AsyncIterator[list[Any]]:
    """What an agent that subscribed to the answers' channel has heard so far."""
    found: list[Any] = []
    async with Redis(host="127.0.0.1", port=any_site.server.port) as client, client.pubsub() as channel:
        await channel.subscribe(f"permission_response:{session_id}")
        assert (await channel.get_message(timeout=10))["type"] == "subscribe"

        async def listen() -> None:
            while True:
                message = await channel.get_message(timeout=None)
                found.append(json.loads(message["data"]))

        task = asyncio.create_task(listen())
        yield found
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
