"""The hub's clock: heartbeats in slices, expiry and age by the second, readers that take nothing."""

from __future__ import annotations

import time

import pytest

from sse_gateway.core.wire import Frame
from sse_gateway.delivery import hub as hub_module
from sse_gateway.delivery.hub import Hub
from sse_gateway.ticks import TICK_SECONDS
from tests.streams.outbox import Outbox


class Clock:
    """What the hub reads as the time, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hub_module, "time", clock)
    return clock


def sweep(hub: Hub, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        hub._sweep(1)


async def test_each_stream_beats_once_an_interval_and_they_are_spread() -> None:
    """Each stream gets one heartbeat an interval, the first after 80 to 100 % of it, not all at once."""
    hub = Hub(heartbeat_seconds=5)
    outboxes = [Outbox() for _ in range(200)]
    for outbox in outboxes:
        hub.add(outbox.stream)
    slices = round(5 / TICK_SECONDS)
    at_once = []
    for tick in range(slices):
        before = sum(outbox.stream.events for outbox in outboxes)
        hub._beat_slices(1)
        at_once.append(sum(outbox.stream.events for outbox in outboxes) - before)
        assert tick + 1 >= slices * 0.8 or not at_once[-1]
    assert [outbox.stream.events for outbox in outboxes] == [1] * 200
    assert max(at_once) <= 40
    for _ in range(slices):
        hub._beat_slices(1)
    assert [outbox.stream.events for outbox in outboxes] == [2] * 200


async def test_a_stall_beats_every_slice_once() -> None:
    """After the loop stood still for longer than an interval, nobody gets a heartbeat twice."""
    hub = Hub(heartbeat_seconds=1)
    outbox = Outbox()
    hub.add(outbox.stream)
    hub._beat_slices(1000)
    assert outbox.stream.events == 1


async def test_a_removed_stream_is_forgotten(clock: Clock) -> None:
    """After its end a stream gets no heartbeat and no close, and removing it again does nothing."""
    hub = Hub(heartbeat_seconds=1)
    outbox = Outbox(max_age_at=clock.now + 2, expires_at=clock.now + 100)
    hub.add(outbox.stream)
    hub.remove(outbox.stream)
    hub.remove(outbox.stream)
    hub._beat_slices(1000)
    sweep(hub, clock, 5)
    assert outbox.text == b""
    assert not hub.streams
    assert not any(hub._slices)
    assert not any(hub._due.values())


async def test_a_token_is_announced_and_then_ends_its_stream(clock: Clock) -> None:
    """A stream is warned a minute before its token ends, once, and closed when it has ended."""
    hub = Hub()
    outbox = Outbox(expires_at=clock.now + 90.5)
    hub.add(outbox.stream)
    sweep(hub, clock, 30)
    assert outbox.names == []
    sweep(hub, clock, 1)
    assert outbox.names == ["token_expiring"]
    sweep(hub, clock, 59)
    assert outbox.names == ["token_expiring"]
    sweep(hub, clock, 1)
    assert outbox.names == ["token_expiring", "closing"]
    assert outbox.ended == ["token_expired"]


async def test_a_stream_of_age_is_asked_to_come_back(clock: Clock) -> None:
    """A stream is closed with `max_age` in the second its time is up, also after the clock jumped."""
    hub = Hub()
    first, second = Outbox(max_age_at=clock.now + 3.5), Outbox(max_age_at=clock.now + 4000)
    hub.add(first.stream)
    hub.add(second.stream)
    sweep(hub, clock, 3)
    assert first.ended == []
    sweep(hub, clock, 1)
    assert first.ended == ["max_age"]
    clock.now += 5000
    sweep(hub, clock, 1)
    assert second.ended == ["max_age"]


async def test_only_who_takes_nothing_for_five_seconds_is_slow(clock: Clock) -> None:
    """A reader is closed after 5 s without taking a byte; one that takes any, or all, never is."""
    hub = Hub()
    stalled, trickling, good, idle = Outbox(reads=False), Outbox(reads=False), Outbox(reads=False), Outbox()
    outboxes = (stalled, trickling, good, idle)
    for outbox in outboxes:
        hub.add(outbox.stream)
        outbox.stream.write(Frame(b"x" * 100))
    for _ in range(5):
        sweep(hub, clock, 1)
        trickling.buffer.take(1)
        good.buffer.take()
        good.stream.write(Frame(b"y" * 100))
        # More that is unsent is no sign of life.
        stalled.stream.write(Frame(b"z" * 100))
    assert not any(outbox.ended for outbox in outboxes)
    sweep(hub, clock, 1)
    assert [outbox.ended for outbox in outboxes] == [["slow_client"], [], [], []]


async def test_a_peer_that_left_is_noticed(clock: Clock) -> None:
    """A stream whose connection is gone ends within a second."""
    hub = Hub()
    outbox = Outbox()
    hub.add(outbox.stream)
    outbox.buffer.closing = True
    sweep(hub, clock, 1)
    assert outbox.ended == ["client_gone"]


@pytest.mark.parametrize("seconds", [0.0, 0.3])
async def test_draining_closes_all_and_spreads_them(seconds: float) -> None:
    """A drain closes every stream with `shutdown` within its time."""
    hub = Hub()
    outboxes = [Outbox() for _ in range(20)]
    for outbox in outboxes:
        hub.add(outbox.stream)
    began_at = time.monotonic()
    await hub.drain(seconds)
    assert time.monotonic() - began_at < seconds + 1.5
    assert all(outbox.ended == ["shutdown"] for outbox in outboxes)
