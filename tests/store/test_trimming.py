"""The history's bounds: a number of events and a number of bytes, both exact."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from sse_gateway.store.library import Limits
from tests.store.scripts import Scripts
from tests.support.servers import RedisProcess

SESSION = "s-1"
LIMITS = Limits(history_events=20, history_bytes=12_000, max_event_bytes=4_000)


@pytest.fixture(params=["valkey", "redis"])
def small(request: pytest.FixtureRequest) -> Scripts:
    server: RedisProcess = request.getfixturevalue(f"{request.param}_process")
    server.flush()
    return Scripts(server, limits=LIMITS)


def sizes(scripts: Scripts) -> list[int]:
    return [len(fields["d"].encode()) for _, fields in scripts.entries(SESSION)]


def totals(scripts: Scripts) -> list[int]:
    return [int(fields["b"]) for _, fields in scripts.entries(SESSION)]


def test_small_events_are_kept_up_to_the_number_and_the_oldest_go_first(small: Scripts) -> None:
    for number in range(30):
        small.publish(SESSION, {"type": "x", "data": number})
    assert [event["data"] for event in small.events(SESSION)] == list(range(10, 30))


def test_large_events_are_kept_up_to_the_bytes_and_no_fewer_than_fit(small: Scripts) -> None:
    for number in range(30):
        small.publish(SESSION, {"type": "x", "data": str(number) + "y" * 2_000})
        kept = sizes(small)
        assert sum(kept) <= LIMITS.history_bytes
        if number >= len(kept):
            assert sum(kept) + max(kept) > LIMITS.history_bytes


def test_each_entry_tells_the_exact_bytes_up_to_and_with_it(small: Scripts) -> None:
    random.seed(7)
    for _ in range(200):
        event: Any = {"type": "x", "data": "é" * random.choice([0, 10, 100, 600])}
        small.publish(SESSION, event)
        lengths, sums = sizes(small), totals(small)
        assert [after - before for before, after in itertools.pairwise(sums)] == lengths[1:]
        assert len(lengths) <= LIMITS.history_events
        assert sum(lengths) <= LIMITS.history_bytes
        assert int(small.meta(SESSION)["bytes"]) == sums[-1]


def test_a_mixture_is_trimmed_by_whichever_bound_is_met_first(small: Scripts) -> None:
    for _ in range(18):
        small.publish(SESSION, {"type": "x"})
    small.publish(SESSION, {"type": "x", "data": "y" * 3_600})
    assert len(small.events(SESSION)) == 19
    for _ in range(2):
        small.publish(SESSION, {"type": "x", "data": "y" * 3_600})
    kept = sizes(small)
    assert sum(kept) <= LIMITS.history_bytes
    assert sum(kept[-3:]) < LIMITS.history_bytes
    assert len(kept) > 3, "the bytes leave room for some of the small ones"


def test_the_newest_event_always_stays(small: Scripts) -> None:
    for _ in range(5):
        event_id = small.publish(SESSION, {"type": "x", "data": "y" * 3_900})
        assert small.events(SESSION)[-1]["id"] == event_id


def test_a_cleared_request_counts_like_any_event(small: Scripts) -> None:
    small.ask(SESSION, request_id="r")
    small.answer(SESSION, "r", reason="z" * 1_000)
    lengths = sizes(small)
    assert totals(small) == [lengths[0], sum(lengths)]


def test_byte_totals_go_on_after_the_history_expired(small: Scripts) -> None:
    small.publish(SESSION, {"type": "x", "data": "y" * 3_000})
    small.client.delete(small.keys.history(SESSION))
    for _ in range(3):
        small.publish(SESSION, {"type": "x", "data": "y" * 3_000})
    assert len(small.events(SESSION)) == 3
    small.publish(SESSION, {"type": "x", "data": "y" * 3_000})
    assert len(small.events(SESSION)) == 3
    assert sum(sizes(small)) <= LIMITS.history_bytes
