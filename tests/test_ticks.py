"""The common moments: few enough to save waking up, never too early, none lost to a stall."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from sse_gateway.ticks import TICK_SECONDS, every, sleep_until, tick_after

MS = 0.001


def off_grid(at: float) -> float:
    """Return how far a moment is behind a tick, in seconds; just before the next counts as 0."""
    behind = (at - tick_after(0) + 2 * MS) % TICK_SECONDS - 2 * MS
    return max(0.0, behind)


async def test_what_is_due_about_then_is_due_at_the_same_moment() -> None:
    """A tick comes no sooner than was asked, less than one tick later, and is one of a grid."""
    for hundredths in range(1, 60):
        seconds = hundredths / 97
        now = asyncio.get_running_loop().time()
        at = tick_after(seconds)
        later = asyncio.get_running_loop().time()
        # uvloop's timers may be early by a millisecond, and between the two looks some time may pass.
        assert now + seconds - 2 * MS - 1e-6 <= at <= later + max(seconds, 2 * MS) + TICK_SECONDS + 1e-6
        assert off_grid(at) < 1e-6


async def test_a_tick_never_comes_twice() -> None:
    """Who has been woken by a tick, though a little early, is given the next one."""
    seen = [tick_after(0)]
    for _ in range(10):
        await sleep_until(seen[-1] - MS)
        seen.append(tick_after(0))
    assert all(after - before > TICK_SECONDS / 2 for before, after in pairwise(seen))


async def test_what_is_repeated_is_repeated_at_ticks() -> None:
    """Each call is at a tick, whenever the first was asked for, and also after the loop stood still."""
    calls: list[float] = []
    loop = asyncio.get_running_loop()
    repeating = []
    for _ in range(3):
        repeating.append(asyncio.create_task(every(TICK_SECONDS, lambda _: calls.append(loop.time()))))
        await asyncio.sleep(0.3 * TICK_SECONDS)
    time.sleep(2.5 * TICK_SECONDS)
    # Those called out of the stall are late, at most one each.
    stalled = len(calls) + 3
    while len(calls) < stalled + 12:
        await asyncio.sleep(0.005)
    for task in repeating:
        task.cancel()
    late = sorted(map(off_grid, calls[stalled:]))
    assert late[len(late) * 2 // 3] < 0.15 * TICK_SECONDS


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
    assert passed / TICK_SECONDS - 3 <= sum(calls) <= passed / TICK_SECONDS + 1
