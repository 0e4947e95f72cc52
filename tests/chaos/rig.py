"""A server and two gateways, each of these on a wire of its own that can fail."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from tests.chaos.page import Page
from tests.support.gateway import GatewayProcess
from tests.support.plain import plain_client
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until

HEARTBEAT_SECONDS = 0.5


class Rig:
    """One server, `wires[i]` between it and `gateways[i]`. `mend()` puts everything back into order.

    The gateways differ in how they hold their streams.
    """

    def __init__(self, server: RedisProcess, **settings: Any) -> None:
        self.server = server
        self.wires = [Proxy(server.port), Proxy(server.port)]
        settings = {"heartbeat_seconds": HEARTBEAT_SECONDS, "log_level": "info", **settings}
        self.gateways = [
            GatewayProcess(wire.url, stream_transport=transport, **settings)
            for wire, transport in zip(self.wires, ("aiohttp", "handover"), strict=True)
        ]

    async def start(self) -> Self:
        """Start all of it."""
        self.server.start()
        for wire in self.wires:
            wire.start()
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))
        return self

    def close(self) -> None:
        """End all of it."""
        for part in (*self.gateways, *self.wires, self.server):
            part.close()

    async def mend(self) -> None:
        """Undo whatever a test did, and wait until both gateways are ready again."""
        if self.server.running:
            self.server.resume()
        else:
            self.server.start()
        self.server.dump.unlink(missing_ok=True)
        for wire in self.wires:
            wire.accept()
            wire.deliver()
            wire.delay(0)
            wire.release()
        for gateway in self.gateways:
            if not gateway.running:
                gateway.spawn()
            gateway.resume()
        await self.ready()

    async def ready(self, *, seconds: float = 25.0) -> None:
        """Wait until both gateways say they are ready."""
        await ready(self.gateways, seconds=seconds)


async def ready(gateways: list[GatewayProcess], *, seconds: float = 25.0) -> None:
    """Wait until these gateways say they are ready."""
    await asyncio.gather(*(gateway.answers("/readyz", seconds=seconds) for gateway in gateways))


async def health(gateway: GatewayProcess, session_id: str) -> Any:
    """Return what a gateway says about a session."""
    async with plain_client(timeout=5) as client:
        response = await client.get(
            f"{gateway.base}/health/{session_id}",
            headers={"Authorization": f"Bearer {token(session_id=session_id)}"},
        )
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def assert_degraded(gateway: GatewayProcess, *pages: Page) -> None:
    """Wait until a gateway says that it cannot do its work, and see that its streams live on all the same."""
    streams = [page.streams[-1] for page in pages]
    await gateway.answers("/readyz", 503)
    said = await health(gateway, pages[0].session_id)
    assert (said["manager_status"], said["redis"]) == ("degraded", "unreachable"), said
    before = [len(page.heartbeats) for page in pages]
    await until(
        lambda: all(len(page.heartbeats) >= count + 2 for page, count in zip(pages, before, strict=True)),
        "two more heartbeats on each stream",
    )
    assert [page.streams[-1] for page in pages] == streams, "streams stay open"
    assert all(stream.end is None for stream in streams)
