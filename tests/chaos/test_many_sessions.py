"""Thousands of sessions have to be caught up at once, and one that is not concerned must not feel it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from sse_gateway.core.keys import Keys
from sse_gateway.gateway.catching_up import CATCH_UP_BATCH
from tests.support.gateway import GatewayProcess
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

OPENED_AT_ONCE = 50
PAUSE_SECONDS = 0.005


@pytest.mark.timeout(180)
async def test_catching_up_thousands_does_not_hold_up_the_rest(
    server: RedisProcess,
    redis: Redis,
    proxied: Callable[[RedisProcess], Proxy],
    gateways: Callable[..., Awaitable[GatewayProcess]],
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    """After an outage 2,000 sessions are caught up or reset in batches, and events of others come at once."""
    count = scale(600, 2000)
    wire = proxied(server)
    gateway = await gateways(
        wire, heartbeat_seconds=10, log_level="warning", max_streams_per_user=0, stream_rate_per_client=0
    )
    names = [f"{session_id}-{number}" for number in range(count)]
    busy = f"{session_id}-busy"
    async with contextlib.AsyncExitStack() as stack:
        streams = await stack.enter_async_context(opened(gateway, [*names, busy]))
        uninvolved = streams.pop(busy)
        wire.refuse()
        await gateway.answers("/readyz", 503)
        forgotten = set(names[::2])
        missed = await miss(redis, names, forgotten)
        meter = asyncio.create_task(publish_times(redis, busy))
        wire.accept()
        began_at = time.monotonic()
        waiting = set(names)

        def all_told() -> bool:
            waiting.difference_update([name for name in waiting if told(streams[name], name in forgotten)])
            return not waiting

        await until(all_told, "every stream to be caught up or reset", seconds=60)
        took = time.monotonic() - began_at
        await gateway.answers("/readyz")
        meter.cancel()
        caught_up = (await gateway.metrics()).get('sse_gateway_catchups_total{reason="reconnect"}', 0)
        assert caught_up >= count, "it did not wait for the positions to be compared"
        for name, stream in streams.items():
            assert stream.end is None
            resets = [reset["reason"] for reset in stream.named("stream_reset")]
            assert resets == (["epoch"] if name in forgotten else []), (name, resets)
            assert stream.ids == ([] if name in forgotten else [missed[name]])
        told_at = [
            at
            for stream in streams.values()
            for event, at in zip(stream.events, stream.arrivals, strict=True)
            if event.type == "stream_reset" or (event.type == "message" and event.id is not None)
        ]
        # From the first that was caught up on: before, its own connection was not back yet.
        events = [
            (event.json["data"]["at"], at)
            for event, at in zip(uninvolved.events, uninvolved.arrivals, strict=True)
            if event.id is not None and event.type == "message" and event.json["data"]["at"] >= min(told_at)
        ]
        meanwhile = [sum(published < at < came for at in told_at) for published, came in events]
        print(
            f"{count} sessions in {took:.2f} s, of which {max(told_at) - min(told_at):.2f} s catching up; "
            f"{len(events)} events, before which at most {max(meanwhile)} streams were served, "
            f"on average {statistics.mean(meanwhile):.0f}; "
            f"the longest took {max(came - published for published, came in events):.3f} s"
        )
        # Counted in streams, not in seconds: those depend on what else the machine does. An event may come
        # into the middle of two batches, and what is ready at once is read in any order: up to a batch more.
        assert max(meanwhile) <= 3 * CATCH_UP_BATCH
        numbers = [int(id.partition("-")[2]) for id in uninvolved.ids]
        assert numbers == list(range(1, len(numbers) + 1))


@contextlib.asynccontextmanager
async def opened(gateway: GatewayProcess, names: list[str]) -> AsyncIterator[dict[str, SSEStream]]:
    """Open a stream of each session, by name."""
    right = token(sessions=["*"])
    streams: dict[str, SSEStream] = {}

    async def open_one(name: str) -> None:
        streams[name] = await SSEStream.open(gateway.events(name), token=right, seconds=30)
        await streams[name].ready(seconds=30)

    try:
        for start in range(0, len(names), OPENED_AT_ONCE):
            await asyncio.gather(*(open_one(name) for name in names[start : start + OPENED_AT_ONCE]))
        yield streams
    finally:
        for stream in streams.values():
            stream.abort()


async def miss(redis: Redis, names: list[str], forgotten: set[str]) -> dict[str, str]:
    """Have the server forget some sessions, and publish to the others; return the ids by session."""
    event = json.dumps({"type": "note", "data": {}})
    keys = Keys("")
    told_to = [name for name in names if name not in forgotten]
    async with redis.pipeline(transaction=False) as pipeline:
        for name in forgotten:
            pipeline.delete(keys.meta(name), keys.history(name))
        await pipeline.execute()
        for name in told_to:
            pipeline.fcall("sse_publish", 1, name, event)
        return {name: id.decode() for name, id in zip(told_to, await pipeline.execute(), strict=True)}


def told(stream: SSEStream, reset: bool) -> bool:
    """Tell whether the stream has had what it missed, or was reset, which ends in a second `ready`."""
    return len(stream.named("ready")) == 2 if reset else bool(stream.ids)


async def publish_times(redis: Redis, session_id: str) -> None:
    """Publish what time it is, for ever."""
    while True:
        event = json.dumps({"type": "note", "data": {"at": time.monotonic()}})
        await redis.fcall("sse_publish", 1, session_id, event)
        await asyncio.sleep(PAUSE_SECONDS)
