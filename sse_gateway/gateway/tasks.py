"""Background tasks that are held, ended with their owner, and never fail in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 0.2


class Tasks:
    """Hold the running tasks of one owner."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that is held until it ends; a failure is logged, since nobody awaits it."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def join(self, *, seconds: float) -> None:
        """Wait until all that runs now has ended, at most so long."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def stop(self) -> None:
        """Cancel what still runs, and wait for it."""
        while running := [task for task in self._running if not task.done()]:
            for task in running:
                task.cancel()
            # Again and again: redis-py can swallow a cancellation that arrives together with a reply.
            await asyncio.wait(running, timeout=CANCEL_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)
