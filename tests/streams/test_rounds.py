"""Everybody's turn comes once in a round, however many there are, and never many at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sse_gateway.gateway.rounds import MOST_AT_ONCE, go_round
from sse_gateway.ticks import TICK_SECONDS
from tests.support.wait import until


class Round:
    """Notes who had a turn, and how many at once."""

    def __init__(self, count: int, *, act_seconds: float = 0) -> None:
        self.items = range(count)
        self.turns: Counter[int] = Counter()
        self.batches: list[int] = []
        self._act_seconds = act_seconds

    async def act(self, items: list[int]) -> None:
        await asyncio.sleep(self._act_seconds)
        self.turns.update(items)
        self.batches.append(len(items))

    @property
    def done(self) -> int:
        """How often the one with the fewest turns had one."""
        return min(self.turns[item] for item in self.items)


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (7, 1), (99, 1), (400, 1), (3000, 2)])
async def test_everybody_has_a_turn_in_every_round(count: int, seconds: float) -> None:
    """From one session to more than the ticks can take: each has its turn in time, evenly spread."""
    going = Round(count)
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    task = asyncio.create_task(go_round(lambda: going.items, going.act, seconds=seconds))
    await until(lambda: going.done >= 2, "two rounds", seconds=20)
    passed = loop.time() - began_at
    task.cancel()
    # The second round begins after 80 to 100 % of `seconds`, and its last turn comes at its end.
    assert passed <= 2 * seconds * 1.5
    assert max(going.batches) <= min(MOST_AT_ONCE, count * TICK_SECONDS / (0.8 * seconds) + 2)
    assert max(going.turns.values()) <= 3


async def test_a_slow_turn_is_followed_by_no_burst() -> None:
    """Where a turn takes longer than a tick, as in an outage, the next waits for a tick all the same."""
    going = Round(100, act_seconds=2.5 * TICK_SECONDS)
    task = asyncio.create_task(go_round(lambda: going.items, going.act, seconds=1.0))
    await until(lambda: len(going.batches) >= 4, "some turns", seconds=20)
    going._act_seconds = 0
    before, loop = len(going.batches), asyncio.get_running_loop()
    began_at = loop.time()
    await until(lambda: len(going.batches) >= before + 5, "more turns", seconds=20)
    task.cancel()
    assert loop.time() - began_at >= 4 * TICK_SECONDS * 0.9


async def test_nobody_there_is_no_hurry() -> None:
    """With nothing to do there is one turn a round."""
    going = Round(0)
    task = asyncio.create_task(go_round(lambda: going.items, going.act, seconds=0.5))
    await until(lambda: len(going.batches) >= 3, "three rounds", seconds=20)
    task.cancel()
    assert going.batches[:3] == [0, 0, 0]
