"""Clients of the SDK on the suite's servers, closed at each test's end, with nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sse_gateway.agent import AgentClient
from tests.agent.people import People
from tests.support.servers import RedisProcess


@pytest.fixture
async def agents() -> AsyncIterator[Callable[..., AgentClient]]:
    """Make clients: `agents(server)`, of anything that has a URL, a URL, or a client of redis-py."""
    made: list[AgentClient] = []

    def make(redis: Any, **options: Any) -> AgentClient:
        made.append(AgentClient(getattr(redis, "url", redis), **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()
    await asyncio.sleep(0)
    ours = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("sse agent")]
    assert not ours, ours


@pytest.fixture
def agent(agents: Callable[..., AgentClient], server: RedisProcess) -> AgentClient:
    """One client on `server`."""
    return agents(server)


@pytest.fixture
def people(server: RedisProcess) -> People:
    """Who answers on `server`."""
    return People(server)
