"""The tests' gateways: started, read, stopped, killed and restarted, on every kind of server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from tests.support.gateway import GatewayProcess
from tests.support.nginx import Nginx
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream, get
from tests.support.tokens import token
from tests.support.topologies import Cluster, ReplicaPair, Sentinels
from tests.support.wait import Hopeless

MakeGateway = Callable[..., Awaitable[GatewayProcess]]

EVENT = {"type": "tool_status", "data": {"status": "executing"}}


async def publish(server: RedisProcess, session_id: str) -> str:
    reply: str = await asyncio.to_thread(
        server.client.execute_command, "FCALL", "sse_publish", 1, session_id, json.dumps(EVENT)
    )
    return reply


async def test_a_gateway_is_watched_from_its_start_to_its_end(
    gateway: GatewayProcess, server: RedisProcess, session_id: str
) -> None:
    async with await SSEStream.open(gateway.events(session_id), token=token(sessions=[session_id])) as stream:
        await stream.ready()
        published = await publish(server, session_id)
        assert (await stream.message("tool_status"))["id"] == published
        assert stream.ids == [published]
        assert (await gateway.metrics())["sse_gateway_streams"] == 1
        assert gateway.rss_bytes() > 1 << 20
        assert gateway.descriptors() > 3
        assert gateway.cpu_seconds() > 0

        assert await asyncio.to_thread(gateway.stop) == 0
        assert await stream.ended() == "clean"
        assert (await stream.event("closing"))["reason"] == "shutdown"
        assert stream.parser.complaints == []
        assert gateway.logs("SSE stream opened")
        assert gateway.logs("SSE stream closed")


async def test_a_killed_gateway_cuts_its_streams_and_comes_back_on_its_port(
    gateway: GatewayProcess, server: RedisProcess, session_id: str
) -> None:
    right = token(sessions=[session_id])
    stream = await SSEStream.open(gateway.events(session_id), token=right)
    await stream.ready()
    await publish(server, session_id)
    await stream.message("tool_status")
    await gateway.restart(by="kill")
    assert await stream.ended() == "cut"
    async with await SSEStream.open(
        gateway.events(session_id), token=right, last_event_id=stream.parser.last_event_id, http="1.0"
    ) as again:
        assert (await again.ready())["replayed"] == 0


async def test_a_gateway_that_does_not_start_shows_its_own_words(gateways: MakeGateway) -> None:
    with pytest.raises(Hopeless, match="REDIS_URL"):
        await gateways(None)


async def test_two_gateways_share_a_session_behind_nginx(
    gateways: MakeGateway, server: RedisProcess, nginx: Callable[[Nginx], Nginx], session_id: str
) -> None:
    both = [await gateways(server), await gateways(server)]
    proxy = nginx(Nginx.proxying([gateway.port for gateway in both]))
    right = token(sessions=[session_id])
    path = both[0].events(session_id).removeprefix(both[0].origin)
    streams = [await SSEStream.open(proxy.origin + path, token=right) for _ in range(2)]
    first, second = [await stream.ready() for stream in streams]
    assert first["gateway_id"] != second["gateway_id"]
    await publish(server, session_id)
    for stream in streams:
        await stream.message("tool_status")
        stream.close()
    assert (await get(proxy.origin + path)).status == 401


@pytest.mark.parametrize("topology", ["replica_pair", "cluster", "sentinels"])
@pytest.mark.timeout(120)
async def test_a_gateway_serves_on_each_topology(
    request: pytest.FixtureRequest, gateways: MakeGateway, session_id: str, topology: str
) -> None:
    servers: ReplicaPair | Cluster | Sentinels = request.getfixturevalue(topology)
    gateway = await gateways(servers)
    match servers:
        case Cluster():
            primary = servers.owner(servers.slot(session_id))
        case Sentinels():
            primary = servers.primary()
        case _:
            primary = servers.primary
    async with await SSEStream.open(gateway.events(session_id), token=token(sessions=[session_id])) as stream:
        await stream.ready()
        await publish(primary, session_id)
        await stream.message("tool_status")


async def test_an_asyncio_client_speaks_to_the_same_server(redis: Redis, server: RedisProcess) -> None:
    await redis.set("key", "value")
    assert server.client.get("key") == "value"
