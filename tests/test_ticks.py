"""The common moments: few enough to save waking up, never too early, none lost to a stall."""

from __future__ import annotations

import asyncio
import time

import pytest

from sse_gateway.ticks import TICK_SECONDS, every, tick_after


async def test_what_is_due_about_then_is_due_at_the_same_moment() -> None:
    """A tick comes no sooner than was asked, less than one tick later, and is one of a grid."""
    first = tick_after(0)
    for tenths in range(1, 60):
        seconds = tenths / 97
        now = asyncio.get_running_loop().time()
        at = tick_after(seconds)
        # Between the two looks at the clock some time may pass.
        assert now + seconds - 1e-6 <= at < asyncio.get_running_loop().time() + seconds + TICK_SECONDS + 1e-6
        assert (at - first) / TICK_SECONDS == pytest.approx(round((at - first) / TICK_SECONDS), abs=1e-6)


async def test_a_stall_is_made_up_for() -> None:
    """After the loop stood still, one call has the number of all intervals that were missed."""
    calls: list[int] = []
    began_at = asyncio.get_running_loop().time()
    repeating = asyncio.create_task(every(TICK_SECONDS, calls.append))
    while not calls:
        await asyncio.sleep(0.01)
    time.sleep(5 * TICK_SECONDS)
    stalled_after = len(calls)
    while len(calls) < stalled_after + 3:
        await asyncio.sleep(0.01)
    repeating.cancel()
    assert calls[stalled_after] >= 4
    passed = asyncio.get_running_loop().time() - began_at
    assert passed / TICK_SECONDS - 2 <= sum(calls) <= passed / TICK_SECONDS + 1
