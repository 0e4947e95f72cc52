"""The moments at which this process does what has no exact time: ten a second, the same ones for all of it.

Waking up costs more than most of what is then done. So what is merely due "about now" (heartbeats, presence,
positions, looks at time limits) waits for the next tick, and wakes the process together.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

TICK_SECONDS = 0.1
_PHASE_SECONDS = random.random() * TICK_SECONDS
"""Processes of one machine share a clock, and should not all turn to Redis in the same moment."""
_EARLY = 0.02
"""By how much of a tick a timer may be early: uvloop's know milliseconds."""


def tick_after(seconds: float) -> float:
    """Return the first tick that is `seconds` from now or later, but never now, on the loop's clock."""
    now = (asyncio.get_running_loop().time() - _PHASE_SECONDS) / TICK_SECONDS
    tick = max(math.ceil(now + seconds / TICK_SECONDS - _EARLY), math.floor(now + _EARLY) + 1)
    return tick * TICK_SECONDS + _PHASE_SECONDS


async def sleep_until(at: float) -> None:
    """Sleep until a moment on the loop's clock; let others run where it has passed."""
    await asyncio.sleep(at - asyncio.get_running_loop().time())


async def every(seconds: float, act: Callable[[int], None]) -> None:
    """Call `act` for ever, with the number of intervals since the last call, so that a stall catches up.

    `seconds` is a multiple of TICK_SECONDS.
    """
    loop = asyncio.get_running_loop()
    then = tick_after(0)
    while True:
        await sleep_until(then + seconds)
        intervals = max(1, int((loop.time() - then) / seconds))
        then += intervals * seconds
        act(intervals)
