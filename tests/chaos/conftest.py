"""Everything here breaks something on purpose: run alone by `make chaos`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.agent import Agent
from tests.chaos.rig import Rig
from tests.support.servers import RedisProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_rig() -> AsyncIterator[Rig]:
    """The worker's rig; tests take `rig`."""
    rig = Rig(RedisProcess())
    try:
        yield await rig.start()
    finally:
        rig.close()


@pytest.fixture
async def rig(shared_rig: Rig) -> AsyncIterator[Rig]:
    """A server and two gateways in working order.

    The same ones for all tests of a worker, so that they also have to survive what the tests before did.
    """
    await shared_rig.mend()
    yield shared_rig
    await shared_rig.mend()


@pytest.fixture
async def agent(rig: Rig) -> AsyncIterator[Agent]:
    """An agent that reaches the rig's server whatever its wires do."""
    async with Agent(rig.server.url) as agent:
        yield agent
