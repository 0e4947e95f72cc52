"""How long events took is asked of few of them, in an even flow of each with the same chance."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.keys import Keys
from sse_gateway.gateway.live import LAG_EVENTS, Live
from sse_gateway.metrics import Metrics
from tests.streams.outbox import EPOCH, event


class Asked(Metrics):
    """Notes which events were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def observe_lag(self, payload: bytes) -> None:
        self.asked.append(self.durable_received)


@pytest.fixture
def metrics() -> Asked:
    return Asked()


@pytest.fixture
def live(metrics: Asked) -> Live:
    def ignore(*_: Any) -> Any:
        return None

    live = Live(
        cast(Any, None), keys=Keys(), max_event_bytes=1000, metrics=metrics, on_request=ignore,
        on_permission=ignore, on_ended=ignore, on_behind=ignore, on_other=ignore, ready=ignore,
    )  # fmt: skip
    feed = live.join("s").feed
    feed.place(Cursor(EPOCH, 0))
    feed.parked = None
    return live


def ticks(live: Live, count: int, *, events: int) -> None:
    """Let ticks pass with so many events between each and the next."""
    feed = live.feed_of("s")
    assert feed is not None
    for _ in range(count):
        live._choose_for_lag(1)
        for _ in range(events):
            live.receive(feed.channel, event(feed.last + 1))


def test_of_many_one_a_tick_is_asked_at_any_place_among_them(live: Live, metrics: Asked) -> None:
    """In a flood about one event a tick is asked, early ones as often as late ones."""
    ticks(live, 1, events=400)
    metrics.asked.clear()
    ticks(live, 200, events=400)
    assert len(metrics.asked) == 200
    assert len(set(metrics.asked)) == len(metrics.asked)
    places = sorted((count - 1) % 400 for count in metrics.asked)
    assert 120 <= places[len(places) // 2] <= 280
    assert places[0] < 40
    assert places[-1] >= 360


def test_of_few_one_in_eight_at_least_is_asked(live: Live, metrics: Asked) -> None:
    """With an event now and then none is waited for longer than a few, also after a flood."""
    ticks(live, 5, events=1000)
    metrics.asked.clear()
    began_at = metrics.durable_received
    for _ in range(200):
        ticks(live, 3, events=0)
        ticks(live, 1, events=1)
    gaps = [after - before for before, after in zip([began_at, *metrics.asked], metrics.asked, strict=False)]
    assert max(gaps) <= LAG_EVENTS
    assert len(gaps) >= 200 / LAG_EVENTS


def test_the_first_event_is_asked(live: Live, metrics: Asked) -> None:
    """Who tries it out with one event finds it in the metric."""
    ticks(live, 5, events=0)
    feed = live.feed_of("s")
    assert feed is not None
    live.receive(feed.channel, event(1))
    assert metrics.asked == [1]
