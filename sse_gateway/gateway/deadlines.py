"""The open permission requests of sessions with streams here, and what is due for each.

A viewer is warned before a deadline, and at the deadline the request is settled by a script, so that
a dialog closes even if the agent is gone. Redis's clock decides, and Redis is asked whether there is
anything to warn of or to settle; ours only says when to ask.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_kept
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

WARNING_SECONDS = 30.0
SHORTEST_WARNING_SECONDS = 1.0
"""With less than this left there is nothing to warn of any more."""
MOST_WATCHED = 200
"""Requests of one session; the scripts allow half as many, so further ones are somebody's invention."""
LONGEST_SECONDS = 24 * 3600
"""The scripts allow an hour less."""
_SETTLE_AFTER_SECONDS = (0.02, 0.1)
_RETRY_SECONDS = 0.5


@dataclass(slots=True)
class _Watched:
    """One open request."""

    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    warned_of: str | None = None
    """The deadline that the session's streams were warned of, once they were."""
    warned_at: float = 0.0
    """When that was, on the loop's clock."""


class Deadlines:
    """Watch open requests; `warn` tells a session's streams that one is about to expire.

    `settled` is called with a session and each of its decisions that its streams are told of.
    """

    def __init__(
        self,
        permissions: Permissions,
        *,
        metrics: Metrics,
        warn: Callable[[str, str, str], None],
        settled: Callable[[str, object], None],
    ) -> None:
        self._permissions = permissions
        self._metrics = metrics
        self._warn = warn
        self._settled = settled
        self._watched: dict[str, dict[str, _Watched]] = {}
        """Session → request → what is kept of it."""
        self._ahead_seconds = 0.0
        """By how much Redis's clock is ahead of ours."""
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Forget everything."""
        for session_id in list(self._watched):
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
            expires_ms = _milliseconds(data.get("expires_at"))
            if expires_ms is not None:
                self.watch(session_id, str(request_id), expires_ms)
        elif event.get("type") == "permission_cleared":
            self._cancel(session_id, str(request_id))
            self._settled(session_id, data)

    def learn_clock(self, redis_ms: int) -> None:
        """Take in what time it is, or was a moment ago, on Redis's clock."""
        self._ahead_seconds = redis_ms / 1000 - time.time()

    def watch(self, session_id: str, request_id: str, expires_ms: int) -> None:
        """Set the timers of an open request; idempotent."""
        requests = self._watched.get(session_id, {})
        seconds_left = expires_ms / 1000 - time.time() - self._ahead_seconds
        if request_id in requests or len(requests) >= MOST_WATCHED or seconds_left > LONGEST_SECONDS:
            return
        watched = self._watched.setdefault(session_id, {})[request_id] = _Watched()
        loop = asyncio.get_running_loop()
        settle_in = max(0.0, seconds_left) + random.uniform(*_SETTLE_AFTER_SECONDS)
        watched.timers.append(loop.call_later(settle_in, self._begin_settling, session_id, request_id))
        if seconds_left > SHORTEST_WARNING_SECONDS:
            warn_in = max(0.0, seconds_left - WARNING_SECONDS)
            watched.timers.append(loop.call_later(warn_in, self._begin_warning, session_id, request_id))

    def warnings(self, session_id: str, *, since: float = float("-inf")) -> list[tuple[str, str]]:
        """Return request and deadline of each warning given since then, on the loop's clock."""
        requests = self._watched.get(session_id, {})
        return [
            (name, watched.warned_of)
            for name, watched in requests.items()
            if watched.warned_of and watched.warned_at >= since
        ]

    def forget(self, session_id: str) -> None:
        """Drop a session that has no streams here any more."""
        for request_id in list(self._watched.get(session_id, ())):
            self._cancel(session_id, request_id)

    def _cancel(self, session_id: str, request_id: str) -> None:
        requests = self._watched.get(session_id, {})
        watched = requests.pop(request_id, None)
        for timer in watched.timers if watched is not None else ():
            timer.cancel()
        if not requests:
            self._watched.pop(session_id, None)

    def _begin_warning(self, session_id: str, request_id: str) -> None:
        self._tasks.spawn(self._give_warning(session_id, request_id), name="warn")

    async def _give_warning(self, session_id: str, request_id: str) -> None:
        """Warn of a request if it is still open: Redis may have lost it, or settled it unheard by us."""
        while (watched := self._watched.get(session_id, {}).get(request_id)) is not None:
            try:
                standing = await self._permissions.decision(session_id, request_id)
            except GatewayError as error:
                if error.status < 500:
                    return
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if (
                watched is self._watched.get(session_id, {}).get(request_id)
                and standing["status"] == "pending"
            ):
                watched.warned_of = standing["expires_at"]
                watched.warned_at = asyncio.get_running_loop().time()
                self._warn(session_id, request_id, standing["expires_at"])
            return

    def _begin_settling(self, session_id: str, request_id: str) -> None:
        self._tasks.spawn(self._settle(session_id, request_id), name="settle")

    async def _settle(self, session_id: str, request_id: str) -> None:
        """Have the script settle a due request; its `permission_cleared` arrives like any event."""
        while request_id in self._watched.get(session_id, {}):
            try:
                answer: Any = await self._permissions.decision(session_id, request_id)
                if answer["status"] != "pending":
                    break
            except GatewayError as error:
                if error.status < 500:
                    break
            await asyncio.sleep(_RETRY_SECONDS)
        self._cancel(session_id, request_id)


def _milliseconds(expires_at: object) -> int | None:
    """Return unix milliseconds of an ISO-8601 time, or None where it is none."""
    try:
        return round(datetime.fromisoformat(str(expires_at)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
