"""Streams that move from one gateway to the other, by their own will or the gateway's."""

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

Gateways = Callable[..., Awaitable[GatewayProcess]]

HOLD_ALL = {"history_events": 1_000_000, "history_bytes": 1024**3, "log_level": "info"}
TRANSPORTS = ("aiohttp", "handover")
"""One gateway of each kind, so that both are shown."""
SESSIONS = [f"moving-{number}" for number in range(4)]


async def connect(view: View, gateway: GatewayProcess, **options: str) -> Tap:
    bearer = token(session_id=view.session_id)
    return await Tap.open(gateway.port, view.session_id, bearer, cursor=view.cursor, **options)


@pytest.mark.timeout(300)
async def test_a_stream_that_moves_at_each_reconnect_loses_nothing(
    own_server: RedisProcess,
    gateways: Gateways,
    scale: Callable[[int, int], int],
    tmp_path: Path,
) -> None:
    """A viewer that is at the other gateway after each reconnect gets every event once and in order."""
    both = [await gateways(own_server, stream_transport=kind, **HOLD_ALL) for kind in TRANSPORTS]
    views = [View(session_id) for session_id in SESSIONS for _ in range(2)]
    moves = scale(10, 100)

    async def walk(view: View) -> None:
        for move in range(moves):
            tap = await connect(view, both[move % 2])
            await tap.holds(b"event: ready")
            await asyncio.sleep(random.uniform(0, 0.05))
            tap.hang_up(reset=random.random() < 0.5)
            assert view.take(tap.frames())

    with flat_out(own_server.port, tmp_path, *SESSIONS, pause=0.001) as publisher:
        await asyncio.gather(*map(walk, views))
        publisher.stop()
    for view in views:
        await read_to_the_end(view, both[moves % 2], publisher.last[view.session_id])


def check_reasons(reasons: list[str], expected: str, *, least: int) -> None:
    """Check why streams ended; one short of time may also have said `unavailable`."""
    assert reasons.count(expected) >= least, reasons
    assert set(reasons) <= {expected, "unavailable"}, reasons


async def follow(
    view: View, gateways: list[GatewayProcess], reasons: list[str], until: asyncio.Event
) -> None:
    """Stay connected as a client does, at the next gateway after each end, and note why each ended."""
    turn = random.randrange(len(gateways))
    while not until.is_set():
        turn = (turn + 1) % len(gateways)
        try:
            tap = await connect(view, gateways[turn], http=random.choice(("1.0", "1.1")))
        except OSError:
            # Its listening socket is closed while it drains.
            await asyncio.sleep(0.02)
            continue
        ending = asyncio.ensure_future(tap.end(seconds=60))
        leaving = asyncio.ensure_future(until.wait())
        await asyncio.wait((ending, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        tap.hang_up()
        frames = tap.frames()
        if ending.done():
            ending.result()
            assert tap.complete, bytes(tap.received[-200:])
            if frames:
                assert frames[-1].name == "closing", frames[-1]
                reasons.append(frames[-1].json["reason"])
        ending.cancel()
        view.take(frames)


@pytest.mark.timeout(300)
async def test_streams_that_are_sent_away_for_their_age_come_back_whole(
    own_server: RedisProcess,
    gateways: Gateways,
    scale: Callable[[int, int], int],
    tmp_path: Path,
) -> None:
    """A stream closed with `max_age` ends properly, and its viewer goes on elsewhere without loss."""
    settings = {"max_stream_age_seconds": 1, **HOLD_ALL}
    both = [await gateways(own_server, stream_transport=kind, **settings) for kind in TRANSPORTS]
    views = [View(session_id) for session_id in SESSIONS for _ in range(5)]
    reasons: list[str] = []
    until = asyncio.Event()
    with flat_out(own_server.port, tmp_path, *SESSIONS, pause=0.002) as publisher:
        following = [asyncio.create_task(follow(view, both, reasons, until)) for view in views]
        await asyncio.sleep(scale(4, 30))
        until.set()
        await asyncio.gather(*following)
        publisher.stop()
    check_reasons(reasons, "max_age", least=len(views))
    for view in views:
        await read_to_the_end(view, random.choice(both), publisher.last[view.session_id])


@pytest.mark.timeout(300)
async def test_gateways_restarted_one_after_the_other_lose_nothing(
    own_server: RedisProcess,
    gateways: Gateways,
    scale: Callable[[int, int], int],
    tmp_path: Path,
) -> None:
    """A stream closed with `shutdown` ends properly, and its viewer goes on elsewhere without loss."""
    both = [await gateways(own_server, stream_transport=kind, **HOLD_ALL) for kind in TRANSPORTS]
    views = [View(session_id) for session_id in SESSIONS for _ in range(5)]
    reasons: list[str] = []
    until = asyncio.Event()
    with flat_out(own_server.port, tmp_path, *SESSIONS, pause=0.002) as publisher:
        following = [asyncio.create_task(follow(view, both, reasons, until)) for view in views]
        for gateway in both * scale(1, 4):
            await asyncio.sleep(1)
            # In a thread: the clients have to go on while it drains.
            assert await asyncio.to_thread(gateway.stop) == 0
            await gateway.start()
        await asyncio.sleep(0.5)
        until.set()
        await asyncio.gather(*following)
        publisher.stop()
    check_reasons(reasons, "shutdown", least=len(views))
    for view in views:
        await read_to_the_end(view, random.choice(both), publisher.last[view.session_id])
