"""A site that all these tests share: two gateways on one server, each a process of its own.

Starting a gateway costs more than most of these tests take, so those that do not end, starve or reconfigure one
use the site's, each with a session of its own. Whoever needs other settings starts gateways by `gateways`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.modes import missing
from tests.support.servers import KINDS, Kind, RedisProcess, binary
from tests.web.site import CLIENT_LIMITS, Site


@asynccontextmanager
async def _site(kind: Kind) -> AsyncIterator[Site]:
    if binary(kind) is None:
        missing("redis-server" if kind == "redis" else kind)
    with RedisProcess(kind) as server:
        site = Site(server)
        try:
            await asyncio.gather(site.a.start(), site.b.start())
            yield site
        finally:
            site.a.close()
            site.b.close()


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


@pytest.fixture(params=KINDS)
def any_site(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The same, once on Valkey and once on redis-server."""
    return request.getfixturevalue(f"{request.param}_site")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of this test's own."""
    async with httpx.AsyncClient(timeout=10, limits=CLIENT_LIMITS) as client:
        yield client
