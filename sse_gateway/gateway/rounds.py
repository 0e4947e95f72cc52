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
        at_once = math.ceil(len(all_items) * TICK_SECONDS / round_seconds)
        at_once = min(max(at_once, 1), MOST_AT_ONCE)
        starts = range(0, max(len(all_items), 1), at_once)
        at = loop.time()
        for start in starts:
            await act(all_items[start : start + at_once])
            at += round_seconds / len(starts)
            await sleep_until(tick_after(max(0.0, at - loop.time())))
