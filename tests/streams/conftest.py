"""The desk that most of these tests share; whoever breaks a server or a gateway has one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.streams.desk import Desk, desk
from tests.support.servers import RedisProcess


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_desk() -> AsyncIterator[Desk]:
    """The worker's desk."""
    with RedisProcess() as server:
        async with desk(server) as made:
            yield made


@pytest.fixture(name="desk")
def _desk(shared_desk: Desk) -> Desk:
    """Two gateways on one Valkey, with short histories; see `Desk`."""
    return shared_desk
