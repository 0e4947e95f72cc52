"""Waiting for one decision on behalf of a backend without Redis (long-polling).

The decision's channel wakes the wait; a look at Redis every few seconds makes up for what pub/sub loses.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sse_gateway.core.keys import Keys
from sse_gateway.store.permissions import Permissions
from sse_gateway.store.push import Push

LOOK_SECONDS = 5.0


class Waits:
    """Wait for decisions of any number of requests."""

    def __init__(self, permissions: Permissions, *, push: Push, keys: Keys) -> None:
        self._permissions = permissions
        self._push = push
        self._keys = keys
        self._waiting: dict[bytes, set[asyncio.Event]] = {}

    def receive(self, channel: bytes, _payload: bytes) -> None:
        """Wake those who wait for a decision of this session."""
        for event in self._waiting.get(channel, ()):
            event.set()

    async def decision(self, session_id: str, request_id: str, *, seconds: float) -> dict[str, Any]:
        """Return how the request stands once it is settled, or after `seconds` if it still is not.

        Raises `unknown_request`, and Unavailable when Redis cannot be asked.
        """
        standing = await self._permissions.decision(session_id, request_id)
        if standing["status"] != "pending" or seconds <= 0:
            return standing
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        channel = self._keys.answers_channel(session_id).encode()
        event = asyncio.Event()
        self._waiting.setdefault(channel, set()).add(event)
        try:
            await self._push.acquire(channel)
            try:
                # The first look may have come before the channel was live.
                standing = await self._permissions.decision(session_id, request_id)
                while standing["status"] == "pending" and (left := until - loop.time()) > 0:
                    await _wait(event, min(left, LOOK_SECONDS))
                    standing = await self._permissions.decision(session_id, request_id)
            finally:
                self._push.release(channel)
        finally:
            waiting = self._waiting[channel]
            waiting.discard(event)
            if not waiting:
                del self._waiting[channel]
        return standing


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
