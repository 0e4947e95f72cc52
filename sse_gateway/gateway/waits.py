"""Waiting for one decision on behalf of a backend without Redis (long-polling).

The decisions' channel wakes the wait; a look at Redis every few seconds, and at the deadline, makes up for
what pub/sub loses and settles what nobody else does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from datetime import datetime
from typing import Any

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.store.history import History
from sse_gateway.store.permissions import Permissions

LOOK_SECONDS = 5.0
MOST_WAITS = 5000
"""In a process, whatever descriptors it has: each looks at Redis every few seconds."""
_TRY_AGAIN_SECONDS = 5.0
_AFTER_DEADLINE_SECONDS = (0.01, 0.05)
_RETRY_SECONDS = (0.3, 0.8)


class Waits:
    """Wait for decisions of any number of requests.

    At most `most` wait at once, and half as many of one user: each holds a connection for up to a minute.
    """

    def __init__(self, permissions: Permissions, *, history: History, most: int) -> None:
        self._permissions = permissions
        self._most = min(max(most, 2), MOST_WAITS)
        self._users: Counter[str] = Counter()
        """User → how many wait in his name."""
        self._history = history
        self._waiting: dict[str, set[asyncio.Event]] = {}
        """Session → who waits for a decision of it."""
        self._over = False

    def wake(self, session_id: str) -> None:
        """Have those look who wait for a decision of this session."""
        for event in self._waiting.get(session_id, ()):
            event.set()

    def wake_all(self) -> None:
        """Have everybody look: what was decided while the push connection was down woke nobody."""
        for session_id in self._waiting:
            self.wake(session_id)

    def end(self) -> None:
        """Wait no longer, and have nobody wait any more: who asks again shall ask another gateway."""
        self._over = True
        self.wake_all()

    async def decision(
        self, session_id: str, request_id: str, *, seconds: float, user: str
    ) -> dict[str, Any]:
        """Return how the request stands once it is settled, or after `seconds` (or `end`) if it still is not.

        Raises `unknown_request`, `too_many_waits`, and Unavailable when Redis cannot be asked at the
        beginning or at the end; in between it may come and go.
        """
        if seconds:
            self._check(user)
        event = asyncio.Event()
        self._waiting.setdefault(session_id, set()).add(event)
        self._users[user] += 1
        try:
            return await self._decision(event, session_id, request_id, seconds)
        finally:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user]
            waiting = self._waiting[session_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[session_id]

    def _check(self, user: str) -> None:
        full = self._users.total() >= self._most
        if full or self._users[user] >= self._most // 2:
            raise GatewayError(
                "too_many_waits",
                f"Too many wait for decisions {'here' if full else 'in the name of this user'}; ask without "
                "'wait', or in a few seconds.",
                retry_after=_TRY_AGAIN_SECONDS,
            )

    async def _decision(
        self, event: asyncio.Event, session_id: str, request_id: str, seconds: float
    ) -> dict[str, Any]:
        until = time.monotonic() + seconds
        standing: dict[str, Any] | None = await self._permissions.decision(session_id, request_id)
        due: float | None = None
        while standing is None or standing["status"] == "pending":
            left = until - time.monotonic()
            if left <= 0 or self._over:
                if standing is None:
                    raise Unavailable
                return standing
            pause = LOOK_SECONDS
            try:
                if standing is None:
                    pause = random.uniform(*_RETRY_SECONDS)
                else:
                    if due is None:
                        due = await self._due(session_id, standing["expires_at"])
                    pause = max(0.0, min(pause, due - time.monotonic()))
                    pause += random.uniform(*_AFTER_DEADLINE_SECONDS)
                await _wait(event, min(left, pause))
                standing = await self._permissions.decision(session_id, request_id)
            except Unavailable:
                standing = None
        return standing

    async def _due(self, session_id: str, expires_at: str) -> float:
        """Return when the request expires, on our monotonic clock: Redis's decides, so it is asked for it."""
        now_ms = (await self._history.status(session_id)).now_ms
        seconds_left = datetime.fromisoformat(expires_at).timestamp() - now_ms / 1000
        return time.monotonic() + seconds_left


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
