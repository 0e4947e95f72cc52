"""The open permission requests of sessions with streams here, and what is due for each.

A viewer is warned before a deadline, and at the deadline the request is settled by a script, so that
a dialog closes even if the agent is gone. Redis's clock decides; ours only says when to ask.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import iso_ms, loads_kept
from sse_gateway.gateway.records import record_decision
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

WARNING_SECONDS = 30.0
MOST_WATCHED = 200
"""Requests of one session; the scripts allow half as many, so further ones are somebody's invention."""
LONGEST_SECONDS = 24 * 3600
"""The scripts allow an hour less."""
_SETTLE_AFTER_SECONDS = (0.02, 0.1)
_RETRY_SECONDS = 0.5


class Deadlines:
    """Watch open requests; `warn` tells a session's streams that one is about to expire."""

    def __init__(
        self, permissions: Permissions, *, metrics: Metrics, warn: Callable[[str, str, str], None]
    ) -> None:
        self._permissions = permissions
        self._metrics = metrics
        self._warn = warn
        self._timers: dict[str, dict[str, list[asyncio.TimerHandle]]] = {}
        """Session → request → its timers."""
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Forget everything."""
        for session_id in list(self._timers):
            self.forget(session_id)
        await self._tasks.stop()

    def note(self, session_id: str, payload: bytes) -> None:
        """Take in an event that is about a permission, as it stands on the wire."""
        try:
            event = loads_kept(payload)
        except ValueError:
            # Published by somebody who pretends to be the script; the history will tell.
            return
        data = event.get("data") if isinstance(event, dict) else None
        if not isinstance(data, dict):
            return
        request_id = data.get("request_id")
        if event.get("type") == "permission_request":
            self._metrics.permission_requests.inc()
            left = _seconds_until(data.get("expires_at"))
            if left is not None:
                self.watch(session_id, str(request_id), left)
        elif event.get("type") == "permission_cleared":
            self._cancel(session_id, str(request_id))
            if data.get("source") != "human":
                # An answer is recorded by the gateway that took it; this by whoever has a stream.
                record_decision(session_id, data, self._metrics)

    def watch(self, session_id: str, request_id: str, seconds_left: float) -> None:
        """Set the timers of an open request; idempotent."""
        requests = self._timers.setdefault(session_id, {})
        if request_id in requests or len(requests) >= MOST_WATCHED or seconds_left > LONGEST_SECONDS:
            return
        loop = asyncio.get_running_loop()
        settle_in = max(0.0, seconds_left) + random.uniform(*_SETTLE_AFTER_SECONDS)
        timers = [loop.call_later(settle_in, self._begin_settling, session_id, request_id)]
        if seconds_left > 1:
            expires_at = iso_ms(int((time.time() + seconds_left) * 1000))
            warn_in = max(0.0, seconds_left - WARNING_SECONDS)
            timers.append(loop.call_later(warn_in, self._warn, session_id, request_id, expires_at))
        requests[request_id] = timers

    def forget(self, session_id: str) -> None:
        """Drop a session that has no streams here any more."""
        for request_id in list(self._timers.get(session_id, ())):
            self._cancel(session_id, request_id)

    def _cancel(self, session_id: str, request_id: str) -> None:
        requests = self._timers.get(session_id, {})
        for timer in requests.pop(request_id, ()):
            timer.cancel()
        if not requests:
            self._timers.pop(session_id, None)

    def _begin_settling(self, session_id: str, request_id: str) -> None:
        self._tasks.spawn(self._settle(session_id, request_id), name="settle")

    async def _settle(self, session_id: str, request_id: str) -> None:
        """Have the script settle a due request; its `permission_cleared` arrives like any event."""
        while request_id in self._timers.get(session_id, {}):
            try:
                answer: Any = await self._permissions.decision(session_id, request_id)
                if answer["status"] != "pending":
                    break
            except GatewayError as error:
                if error.status < 500:
                    break
            await asyncio.sleep(_RETRY_SECONDS)
        self._cancel(session_id, request_id)


def _seconds_until(expires_at: object) -> float | None:
    try:
        return datetime.fromisoformat(str(expires_at)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
