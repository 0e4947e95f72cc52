"""What concerns one session is done in the order it came; different sessions go side by side.

Pub/sub keeps an order, and what follows from a message needs a call of Redis: without a turn for each, the
second could be through before the first.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable

from sse_gateway.core.errors import Unavailable
from sse_gateway.gateway.tasks import Tasks

logger = logging.getLogger(__name__)

MOST_WAITING = 5000
"""Of one session; what is published faster than Redis can be asked, or while it is away, ends somewhere."""
_RETRY_SECONDS = (0.3, 0.8)


class Turns:
    """Run one call at a time for each session, each until Redis could be asked."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Callable[[], Awaitable[None]]]] = {}
        """Session → calls; the first is under way."""
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop what is under way, and drop what waits."""
        await self._tasks.stop()

    def take(self, session_id: str, call: Callable[[], Awaitable[None]]) -> None:
        """Have `call` made once everything that was taken before it for this session is done.

        It is made again as long as it raises Unavailable, so it must come to the same when it is repeated.
        """
        waiting = self._waiting.get(session_id)
        if waiting is None:
            self._waiting[session_id] = deque([call])
            self._tasks.spawn(self._run(session_id), name=f"turns of {session_id}")
        elif len(waiting) < MOST_WAITING:
            waiting.append(call)
        else:
            logger.warning(
                "more was published than can be dealt with; the rest is dropped",
                extra={"fields": {"session": session_id}},
            )

    async def _run(self, session_id: str) -> None:
        waiting = self._waiting[session_id]
        try:
            while waiting:
                try:
                    await waiting[0]()
                except Unavailable:
                    await asyncio.sleep(random.uniform(*_RETRY_SECONDS))
                    continue
                except Exception:
                    # The next one is somebody else's message.
                    logger.exception("a published message could not be dealt with")
                waiting.popleft()
        finally:
            del self._waiting[session_id]
