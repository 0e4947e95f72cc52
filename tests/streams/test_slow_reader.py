"""A slow reader harms nobody: not the fast ones beside it, not the process's memory, and not itself."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest

from tests.streams.desk import ids
from tests.streams.tap import Tap
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

Gateways = Callable[..., Awaitable[GatewayProcess]]

SESSION = "slow"
FAST = 100
EVENTS_A_SECOND = 50
PAD = "x" * 8000
ROUND_SECONDS = 1.0
QUEUE_EVENTS = 20
"""Few, so that the slow reader is paused in every round it is slow in."""
HISTORY_READS = 'sse_gateway_redis_command_duration_seconds_count{command="sse_read"}'
HOLD_ALL = {"history_events": 100_000, "history_bytes": 1024**3, "log_level": "info", "heartbeat_seconds": 60}
MIB = 1024 * 1024

_SENT_AT = re.compile(rb'"at":([0-9]{6,})[,}]')


class Agent:
    """Publish at a steady pace, each event with the time it was sent at."""

    def __init__(self, server: RedisProcess) -> None:
        self._client = server.connect()
        self.last = 0
        self.epoch = ""

    async def publish(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for turn in range(int(seconds * EVENTS_A_SECOND)):
            await asyncio.sleep(begin + turn / EVENTS_A_SECOND - loop.time())
            data = {"pad": PAD, "at": time.monotonic_ns()}
            event = json.dumps({"type": "note", "data": data}, separators=(",", ":"))
            id = await self._client.execute_command("FCALL", "sse_publish", 1, SESSION, event)
            self.epoch, _, last = id.decode().partition("-")
            self.last = int(last)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


class Fast:
    """A reader that takes everything and notes how long each event took."""

    def __init__(self) -> None:
        self.delays: list[int] = []

    def data(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.delays += [now - int(sent) for sent in _SENT_AT.findall(data)]

    async def p99_of(self, publishing: Coroutine[Any, Any, None]) -> float:
        """Return the 99th percentile while this publishes, in milliseconds."""
        self.delays.clear()
        await publishing
        assert len(self.delays) > FAST * ROUND_SECONDS * EVENTS_A_SECOND * 0.8
        return sorted(self.delays)[int(len(self.delays) * 0.99)] / 1e6


class Slow(Tap):
    """A viewer that reads like anybody, or `sip`s: a small read ten times a second, less than is sent."""

    sipping = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.sipping:
            self._transport.pause_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport

    @property
    def position(self) -> int:
        """Return the number of the last event whose id has come, 0 before the first."""
        begin = self.received.rfind(b"\nid: ")
        if self.received.find(b"\n", begin + 1) < 0:
            # The line of the last has come in part only.
            begin = self.received.rfind(b"\nid: ", 0, begin)
        line = self.received[begin + 1 :].partition(b"\n")[0]
        return int(line.rpartition(b"-")[2]) if begin >= 0 else 0

    async def sip(self) -> None:
        """Read slowly until cancelled."""
        self.sipping = True
        try:
            while True:
                await asyncio.sleep(0.1)
                self._resume()
        finally:
            self.sipping = False
            self._resume()

    async def reach(self, seq: int) -> None:
        """Read everything up to this event."""
        await self.wait(
            lambda: self.position == seq and self.received.endswith(b"\n\n\r\n"), f"event {seq}", seconds=60
        )

    def _resume(self) -> None:
        if not self._transport.is_reading():
            self._transport.resume_reading()


@contextmanager
def watched(gateway: GatewayProcess) -> Iterator[Callable[[], int]]:
    """Return how many bytes the process has grown at most since the beginning."""
    begin = most = gateway.rss_bytes()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, gateway.rss_bytes())
            await asyncio.sleep(0.05)

    task = asyncio.create_task(watch())
    try:
        yield lambda: most - begin
    finally:
        task.cancel()


@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_a_slow_reader_does_not_slow_the_fast_ones(
    own_server: RedisProcess, gateways: Gateways, scale: Callable[[int, int], int], capsys: Any
) -> None:
    """Beside a slow reader the p99 of 100 fast ones stays within 1.5 times, and memory within 16 MiB.

    The slow one is paused and has everything in the end, on one connection. It is slow every other round, so
    that whatever else the machine does is in both kinds of round; of their p99s the medians are compared.
    """
    gateway = await gateways(own_server, stream_queue_events=QUEUE_EVENTS, **HOLD_ALL)
    fast = Fast()
    bearer = token(session_id=SESSION)
    taps = [await Tap.open(gateway.port, SESSION, bearer, on_data=fast.data) for _ in range(FAST)]
    slow = await Slow.open(gateway.port, SESSION, bearer, query="replay=all", receive_buffer=4096)
    await slow.holds(b"event: ready")
    p99s: dict[bool, list[float]] = {False: [], True: []}
    behind = []

    async with Agent(own_server) as agent:

        async def round_of(*, sipping: bool) -> None:
            reading = asyncio.create_task(slow.sip()) if sipping else None
            p99s[sipping].append(await fast.p99_of(agent.publish(ROUND_SECONDS)))
            if reading is not None:
                behind.append(agent.last - slow.position)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await slow.reach(agent.last)

        await agent.publish(ROUND_SECONDS)
        await slow.reach(agent.last)
        before = (await gateway.metrics())[HISTORY_READS]
        with watched(gateway) as grown:
            for turn in range(scale(8, 20)):
                for sipping in (turn % 2 == 0, turn % 2 == 1):
                    await round_of(sipping=sipping)
        paused = (await gateway.metrics())[HISTORY_READS] - before
        without, beside = (statistics.median(p99s[sipping]) for sipping in (False, True))
        with capsys.disabled():
            print(
                f"\np99 without a slow reader {without:.1f} ms, beside one {beside:.1f} ms "
                f"({beside / without:.2f}, {len(behind)} rounds each); memory grew by "
                f"{grown() / MIB:.1f} MiB; the slow one was {min(behind)} to {max(behind)} events behind, "
                f"and read on {paused:g} times"
            )
        durable = [frame.id for frame in slow.frames() if frame.name == "message" and frame.id]
        assert durable == [f"{agent.epoch}-{seq}" for seq in range(1, agent.last + 1)]
    assert min(behind) > QUEUE_EVENTS
    assert paused >= len(behind), "who is behind is paused, and reads on from history"
    assert not any(tap.over for tap in (slow, *taps))
    for tap in (slow, *taps):
        tap.hang_up()
    assert grown() < 16 * MIB
    assert beside / without < 1.5, p99s


async def test_a_reader_that_takes_nothing_is_closed_and_comes_back_whole(
    own_server: RedisProcess, gateways: Gateways
) -> None:
    """Who takes nothing for 5 s is closed as `slow_client`; neither it nor one beside it misses an event."""
    both = [await gateways(own_server, stream_transport=kind, **HOLD_ALL) for kind in ("aiohttp", "handover")]
    await asyncio.gather(*(_stall(gateway, own_server, f"stalled-{gateway.port}") for gateway in both))


async def _stall(gateway: GatewayProcess, server: RedisProcess, session_id: str) -> None:
    bearer = token(session_id=session_id)
    url = gateway.events(session_id)
    stalled = await SSEStream.open(url, token=bearer, receive_buffer=4096)
    good = await SSEStream.open(url, token=bearer)
    await stalled.ready()
    await good.ready()
    began_at = time.monotonic()
    stalled.pause()
    published = publish(server, session_id, 300)
    await good.wait(lambda: ids(good) == published, "everything at the good reader")
    held = (await gateway.metrics())["sse_gateway_buffered_bytes"]
    assert 0 < held <= 101 * (len(PAD) + 500), "paused at 100 events, not written everything"

    async def closed() -> bool:
        metrics = await gateway.metrics()
        return metrics.get('sse_gateway_streams_closed_total{reason="slow_client"}') == 1

    await until(closed, "the close of the slow one", seconds=12)
    assert time.monotonic() - began_at > 4.5
    published += publish(server, session_id, 10)
    # What was on its way still arrives, in order; then the connection ends.
    stalled.resume()
    await stalled.ended()
    got = ids(stalled)
    assert got == published[: len(got)]
    assert len(got) < 300
    back = await SSEStream.open(url, token=bearer, last_event_id=stalled.parser.last_event_id)
    await back.ready()
    assert got + ids(back) == published
    assert not back.named("stream_reset")
    await good.wait(lambda: ids(good) == published, "everything at the good reader")
    for stream in (good, back):
        stream.close()


def publish(server: RedisProcess, session_id: str, count: int) -> list[str]:
    """Publish that many events of 8 kB and return their ids."""
    event = json.dumps({"type": "note", "data": {"pad": PAD}})
    return [str(server.client.fcall("sse_publish", 1, session_id, event)) for _ in range(count)]


async def test_a_reader_that_stalls_for_less_is_not_closed(
    own_server: RedisProcess, gateways: Gateways
) -> None:
    """A reader that stalls for 3 s, again and again, while much is published, stays and gets everything."""
    gateway = await gateways(own_server, **HOLD_ALL)
    stream = await SSEStream.open(
        gateway.events(SESSION), token=token(session_id=SESSION), receive_buffer=4096
    )
    await stream.ready()
    published = []
    for _ in range(2):
        stream.pause()
        published += publish(own_server, SESSION, 200)
        await asyncio.sleep(3)
        taken = len(ids(stream))
        stream.resume()
        # More than waits in the kernel: the gateway must see something taken.
        await stream.wait(lambda taken=taken: len(ids(stream)) > taken + 40, "the reader to go on")
    await stream.wait(lambda: ids(stream) == published, "everything")
    stream.close()
