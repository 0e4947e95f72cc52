"""Going round all sessions again and again, evenly: what is done to many at once would hold events up."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from sse_gateway.ticks import TICK_SECONDS, sleep_until, tick_after

MOST_AT_ONCE = 50
"""Sessions in one batch to Redis, which serves nobody else meanwhile: 0.6 ms for so many beats."""

Item = TypeVar("Item")


async def go_round(
    items: Callable[[], Iterable[Item]], act: Callable[[list[Item]], Awaitable[None]], *, seconds: float
) -> None:
    """Give each item to `act` once in about `seconds`, for ever, as few at a time as the ticks allow.

    The order is another one each time; what is new waits for the next round. `act` must not raise.
    """
    loop = asyncio.get_running_loop()
    while True:
        all_items = list(items())
        random.shuffle(all_items)
        round_seconds = seconds * random.uniform(0.8, 1.0)
        ticks = max(math.floor(round_seconds / TICK_SECONDS), 1)
        at_once = min(max(math.ceil(len(all_items) / ticks), 1), MOST_AT_ONCE)
        starts = range(0, max(len(all_items), 1), at_once)
        pause = round_seconds / len(starts)
        at = loop.time()
        for start in starts:
            await act(all_items[start : start + at_once])
            if pause < TICK_SECONDS:
                # More batches than ticks: evenly then, and not several at one tick.
                await asyncio.sleep(pause)
            else:
                at += pause
                await sleep_until(tick_after(at - loop.time()))
