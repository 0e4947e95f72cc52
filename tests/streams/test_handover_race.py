"""Streams come and go at random while a publisher runs flat out: the race that every hand-over is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.streams.flat_out import flat_out
from tests.streams.tap import Tap
from tests.streams.view import View, read_to_the_end
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until

HOLD_ALL = {"history_events": 1_000_000, "history_bytes": 1024**3, "log_level": "info"}
"""Nothing is trimmed, so every event has to arrive."""
SESSIONS = [f"race-{number}" for number in range(8)]
WALKERS = 4
"""Viewers of each session, each on its own way."""


@pytest.mark.timeout(600)
async def test_no_handover_loses_repeats_or_reorders_an_event(
    own_server: RedisProcess,
    gateways: Callable[..., Awaitable[GatewayProcess]],
    scale: Callable[[int, int], int],
    tmp_path: Path,
) -> None:
    """However streams connect, drop and resume over two gateways, each receives exactly the history."""
    both = [await gateways(own_server, stream_transport=kind, **HOLD_ALL) for kind in ("aiohttp", "handover")]
    queries = {
        View(session_id, whole=query == "replay=all"): query
        for session_id in SESSIONS
        for query in ("", "replay=none", *["replay=all"] * (WALKERS - 2))
    }
    views = list(queries)
    left = scale(150, 10_000)

    async def walk(view: View) -> None:
        nonlocal left
        bearer = token(session_id=view.session_id, exp=2_000_000_000)
        if view.whole:
            history = f"sse:{{{view.session_id}}}:history"
            await until(lambda: own_server.client.xlen(history) > 100, "a history to replay")
        while left > 0:
            tap = await Tap.open(
                random.choice(both).port,
                view.session_id,
                bearer,
                cursor=view.cursor,
                query=queries[view],
                http=random.choice(("1.1", "1.0")),
            )
            if random.random() < 0.2:
                # Gone at any point of the hand-over itself.
                await asyncio.sleep(random.uniform(0, 0.02))
            else:
                await tap.holds(b"event: ready")
                await asyncio.sleep(random.choice((0, random.uniform(0, 0.1))))
            tap.hang_up(reset=random.random() < 0.5)
            left -= view.take(tap.frames())

    with flat_out(own_server.port, tmp_path, *SESSIONS) as publisher:
        await asyncio.gather(*map(walk, views))
        publisher.stop()

    for view in views:
        await read_to_the_end(view, random.choice(both), publisher.last[view.session_id])
    for gateway in both:
        metrics = await gateway.metrics()
        assert not [series for series in metrics if "resets_total{" in series], metrics
        assert metrics['sse_gateway_events_received_total{kind="malformed"}'] == 0
