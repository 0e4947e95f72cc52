"""Streams that come and go leave nothing behind: no task, no socket, no subscription, no memory."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings
from sse_gateway.delivery import stream as stream_module
from sse_gateway.delivery.feed import Feed, Join
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway import Gateway
from sse_gateway.gateway.positions import POSITION_CHECK_SECONDS
from sse_gateway.metrics import Metrics
from sse_gateway.store import push as push_module
from sse_gateway.web.app import make_app
from sse_gateway.web.connections import CONNECTIONS, serve_through
from tests.streams.tap import Tap
from tests.support.gateway import GatewayProcess
from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET, token
from tests.support.wait import until

SESSIONS = [f"churn-{number}" for number in range(100)]
MIB = 1024 * 1024
UNLIMITED = {"max_streams_per_user": 0, "max_streams_per_session": 0, "log_level": "warning"}
"""One user comes and goes faster than its old connections are noticed to be gone."""


async def come_and_go(port: int, cycles: int, *, walkers: int = 20) -> None:
    """Open and leave that many streams, in every way a client can, before and after they are live."""
    bearers = {session_id: token(session_id=session_id) for session_id in SESSIONS}
    left = cycles

    async def walk() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            session_id = random.choice(SESSIONS)
            query = random.choice(("", "replay=all", "replay=none", "last_event_id=x"))
            http = random.choice(("1.0", "1.1"))
            tap = await Tap.open(port, session_id, bearers[session_id], query=query, http=http)
            if random.random() < 0.2:
                await asyncio.sleep(random.uniform(0, 0.01))
            else:
                await tap.holds(b"event: ready")
            tap.hang_up(reset=random.random() < 0.5)

    await asyncio.gather(*(walk() for _ in range(walkers)))


@pytest.mark.timeout(600)
async def test_thousands_of_streams_leave_nothing_behind(
    own_server: RedisProcess,
    gateways: Callable[..., Awaitable[GatewayProcess]],
    scale: Callable[[int, int], int],
    capsys: Any,
) -> None:
    """After 10,000 connects and disconnects sockets and subscriptions return exactly, memory within 8 MiB."""
    kinds = ("aiohttp", "handover")
    both = [await gateways(own_server, stream_transport=kind, **UNLIMITED) for kind in kinds]
    for session_id in SESSIONS:
        own_server.client.fcall("sse_publish", 1, session_id, '{"type":"note","data":{}}')

    def held() -> int:
        """Count the descriptors of both, less the pooled connections to Redis, which are kept for later."""
        connections: int = own_server.info("clients")["connected_clients"]
        return sum(gateway.descriptors() for gateway in both) - connections

    cycles = scale(200, 10_000)
    await asyncio.gather(*(churn(gateway, max(400, cycles // 5)) for gateway in both))
    await asyncio.sleep(1)
    before, memory = held(), [gateway.rss_bytes() for gateway in both]
    await asyncio.gather(*(churn(gateway, cycles) for gateway in both))
    await until(lambda: held() == before, f"{before} descriptors", every=0.3)
    grown = [gateway.rss_bytes() - began for gateway, began in zip(both, memory, strict=True)]
    for gateway in both:
        await until(
            lambda gateway=gateway: unsubscribed(gateway), "only the probe's channel", seconds=20, every=0.5
        )
        metrics = await gateway.metrics()
        closed = sum(value for series, value in metrics.items() if "streams_closed_total{" in series)
        assert metrics["sse_gateway_streams_opened_total"] == closed
    with capsys.disabled():
        figures = (f"{kind}: {more / MIB:.2f} MiB" for kind, more in zip(kinds, grown, strict=True))
        print("\nmemory grew by", *figures)
    assert max(grown) < 8 * MIB
    assert own_server.client.pubsub_channels("sse_events:*") == []


async def churn(gateway: GatewayProcess, cycles: int) -> None:
    """Let that many streams come and go, and return when the gateway holds none."""

    async def quiet() -> bool:
        return (await gateway.metrics())["sse_gateway_streams"] == 0

    await come_and_go(gateway.port, cycles)
    await until(quiet, "no stream", every=0.3)


async def unsubscribed(gateway: GatewayProcess) -> bool:
    """Tell whether only the probe's channel is left."""
    return (await gateway.metrics())["sse_gateway_subscriptions"] == 1


@asynccontextmanager
async def inside(server: RedisProcess, **settings: Any) -> AsyncIterator[tuple[int, Gateway]]:
    """Run a gateway in this process; return its port and itself."""
    configured = Settings(redis_url=server.url, jwt_secret=SECRET, host="127.0.0.1", **settings)
    gateway = Gateway(configured, metrics=Metrics(), max_streams=1000)
    app = make_app(configured, gateway, Authenticator(configured))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    serve_through(runner, app[CONNECTIONS])
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        await until(lambda: gateway.not_ready() == {}, "the gateway to be ready")
        yield port, gateway
    finally:
        await runner.cleanup()


def tasks() -> Counter[str]:
    """Return the running tasks by name, those without a name as one."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return Counter("Task" if name.startswith("Task-") else name for name in names)


def descriptors() -> int:
    """Return how many files and sockets this process has open, gateway and clients together."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def alive(*kinds: type) -> list[object]:
    """Return the objects of these kinds that something still holds."""
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
async def test_no_task_and_no_object_outlives_its_stream(
    server: RedisProcess, scale: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """After 10,000 streams tasks, sockets, channels, feeds, counts and timers are what they were before."""
    monkeypatch.setattr(push_module, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(stream_module, "CLOSE_GRACE_SECONDS", 0.2)
    outside = tasks()
    async with inside(server, stream_transport=transport, max_stream_age_seconds=3600) as (port, gateway):
        for session_id in SESSIONS[:5]:
            request = '{"tool_name":"bash","parameters":{},"risk_level":"low"}'
            server.client.fcall("sse_ask", 1, session_id, request)
        # The first streams open the connections to Redis, which stay.
        await come_and_go(port, 20)
        await until(lambda: gateway.push.subscriptions == 1, "only the probe's channel")
        await until(lambda: not alive(Stream), "the first streams to be forgotten")
        before, held = tasks(), descriptors()
        await come_and_go(port, scale(100, 10_000))
        await until(lambda: gateway.push.subscriptions == 1, "only the probe's channel")
        await until(lambda: tasks() == before, "the tasks of before")
        await until(lambda: descriptors() == held, "the sockets of before")
        # The round of positions that was under way holds the feeds it began with, for about ten seconds.
        forgotten = 2 * POSITION_CHECK_SECONDS
        await until(lambda: not alive(Stream, Feed, Join), "the streams to be forgotten", seconds=forgotten)
        assert not gateway.hub.streams
        assert not any(gateway.hub._slices)
        assert not any(gateway.hub._due.values())
        assert gateway.live.sessions == 0
        assert not gateway.handover._reads
        assert not gateway.deadlines._watched
        assert not gateway.presence._streams
    await until(lambda: tasks() <= outside, "the gateway's own tasks to end")
