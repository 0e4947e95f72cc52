"""End work that is under way, for certain.

One cancellation is not enough: redis-py awaits `asyncio.wait_for`, which before Python 3.12 loses a
cancellation that arrives as the work inside completes. The task then goes on as if nothing had been said, and
without any time limit. So a time limit here is kept by whoever waits, and a cancellation is repeated until it
has worked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_AGAIN_SECONDS = 0.1


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; when it takes too long raise TimeoutError, and end it in the background."""
    task = asyncio.create_task(work, name="sse agent call")
    try:
        await asyncio.wait((task,), timeout=max(0.0, seconds))
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.add_done_callback(_seen)
            _insist(task)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return when they have ended; their own failures are nobody's concern any more."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_AGAIN_SECONDS)
    for task in tasks:
        _seen(task)


def _insist(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_later(_AGAIN_SECONDS, _insist, task)


def _seen(task: asyncio.Task[Any]) -> None:
    """Mark a failure as seen, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
