"""Three gateways on one server that these tests share, each with sessions of its own; and tabs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from sse_gateway.agent import AgentClient
from tests.permissions.desk import CROWDED, Agent, Dial, Ear, Line, Tab
from tests.support.gateway import GatewayProcess, running
from tests.support.servers import RedisProcess
from tests.support.tabs import tabs


class Desk:
    """Gateways `a`, `b`, `c` on one server; `c` takes answers without an id at once."""

    def __init__(self, server: RedisProcess, **settings: Any) -> None:
        self.server = server
        self.a = GatewayProcess(server.url, **CROWDED, **settings)
        self.b = GatewayProcess(server.url, **CROWDED, **settings)
        self.c = GatewayProcess(server.url, min_display_seconds=0, **CROWDED, **settings)

    @property
    def gateways(self) -> tuple[GatewayProcess, GatewayProcess, GatewayProcess]:
        """All of them."""
        return self.a, self.b, self.c


@asynccontextmanager
async def _desk(**settings: Any) -> AsyncIterator[Desk]:
    with RedisProcess("valkey") as server:
        desk = Desk(server, **settings)
        async with running(*desk.gateways):
            yield desk


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_desk() -> AsyncIterator[Desk]:
    """The worker's desk; tests take `desk`."""
    async with _desk() as desk:
        yield desk


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_old_desk() -> AsyncIterator[Desk]:
    """The worker's desk for backends of the old kind; tests take `old_desk`."""
    async with _desk(simple_notifier_compat=True) as desk:
        yield desk


@pytest.fixture
def desk(shared_desk: Desk) -> Desk:
    """Three gateways on one server: neither may be killed or reconfigured."""
    return shared_desk


@pytest.fixture
def old_desk(shared_old_desk: Desk) -> Desk:
    """Three gateways that also listen to backends of the old kind."""
    return shared_old_desk


@pytest.fixture
def agent(desk: Desk) -> Agent:
    """An agent without the SDK on the desk's server."""
    return Agent(desk.server)


@pytest.fixture
async def ear(desk: Desk, session_id: str) -> AsyncIterator[Ear]:
    """What an agent of this test's session hears on its channel."""
    async with Ear(desk.server, session_id) as ear:
        yield ear


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    """Open streams that are hung up at the end; they are ready unless told `ready=False`."""
    async with tabs() as opened:
        yield opened


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Connect people to gateways, each on a line of their own that is hung up at the end: see `Dial`."""
    lines: list[Line] = []

    async def connect(gateway: GatewayProcess) -> Line:
        lines.append(await Line.to(gateway))
        return lines[-1]

    yield connect
    for line in lines:
        line.close()
    await asyncio.sleep(0)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of this test's own."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        yield client


@pytest.fixture
async def agents() -> AsyncIterator[Callable[..., AgentClient]]:
    """Make clients of the SDK: `agents(server)`; they are closed at the end."""
    made: list[AgentClient] = []

    def make(redis: Any, **options: Any) -> AgentClient:
        made.append(AgentClient(getattr(redis, "url", redis), **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()
