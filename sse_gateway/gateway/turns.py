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
from sse_gateway.gateway.complaints import Complaints
from sse_gateway.gateway.tasks import Tasks

logger = logging.getLogger(__name__)

MOST_WAITING = 5000
"""Of one session; what is published faster than Redis can be asked, or while it is away, ends somewhere."""
MOST_WAITING_BYTES = 4 * 1024 * 1024
"""Of one session, as its history."""
MOST_BYTES_IN_ALL = 64 * 1024 * 1024
_RETRY_SECONDS = (0.3, 0.8)


class Turns:
    """Run one call at a time for each session, each until Redis could be asked."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[Callable[[], Awaitable[None]], int]]] = {}
        """Session → calls, and how many bytes each holds; the first is under way."""
        self._bytes: dict[str, int] = {}
        """Session → bytes held."""
        self._bytes_in_all = 0
        self._complaints = Complaints()
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop what is under way, and drop what waits."""
        await self._tasks.stop()

    def take(self, session_id: str, call: Callable[[], Awaitable[None]], *, held_bytes: int) -> None:
        """Have `call` made once everything that was taken before it for this session is done.

        It is made again as long as it raises Unavailable, so it must come to the same when it is repeated.
        `held_bytes` is the size of the message that it holds meanwhile.
        """
        waiting = self._waiting.get(session_id, ())
        if (
            len(waiting) >= MOST_WAITING
            or (waiting and self._bytes[session_id] + held_bytes > MOST_WAITING_BYTES)
            or self._bytes_in_all + held_bytes > MOST_BYTES_IN_ALL
        ):
            if self._complaints.is_news(session_id):
                logger.warning(
                    "more was published than can be dealt with; the rest is dropped",
                    extra={"fields": {"session": session_id}},
                )
            return
        if session_id not in self._waiting:
            self._waiting[session_id] = deque()
            self._tasks.spawn(self._run(session_id), name=f"turns of {session_id}")
        self._waiting[session_id].append((call, held_bytes))
        self._bytes[session_id] = self._bytes.get(session_id, 0) + held_bytes
        self._bytes_in_all += held_bytes

    async def _run(self, session_id: str) -> None:
        waiting = self._waiting[session_id]
        try:
            while waiting:
                try:
                    await waiting[0][0]()
                except Unavailable:
                    await asyncio.sleep(random.uniform(*_RETRY_SECONDS))
                    continue
                except Exception:
                    # The next one is somebody else's message.
                    logger.exception("a published message could not be dealt with")
                _, held_bytes = waiting.popleft()
                self._bytes[session_id] -= held_bytes
                self._bytes_in_all -= held_bytes
        finally:
            del self._waiting[session_id]
            self._bytes_in_all -= self._bytes.pop(session_id)
