"""Who is watching which session here, and telling it to Redis for all gateways to add up.

A beat is written at once (gathered for some tenths of a second) when a session's numbers change or Redis is
back, and again within every interval, so that a gateway that died is forgotten after three.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from sse_gateway.core.errors import GatewayError
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway.rounds import MOST_AT_ONCE, go_round
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.store.history import History
from sse_gateway.ticks import sleep_until, tick_after

BEAT_SECONDS = 10.0
GATHER_SECONDS = 0.25


class Presence:
    """Count streams and viewers by session, and keep Redis told."""

    def __init__(self, history: History, *, gateway_id: str) -> None:
        self._history = history
        self._gateway_id = gateway_id
        self._streams: Counter[str] = Counter()
        self._onlookers: Counter[str] = Counter()
        """Streams that may not answer, of the sessions that have any: there are few."""
        self._changed: set[str] = set()
        self._tasks = Tasks()

    def start(self) -> None:
        """Start beating."""
        self._tasks.spawn(self._write_changes(), name="presence changes")
        self._tasks.spawn(
            go_round(lambda: self._streams, self._beat_again, seconds=BEAT_SECONDS), name="presence beats"
        )

    async def stop(self) -> None:
        """Stop, having told Redis once more: a gateway that leaves takes its numbers with it."""
        await self._tasks.stop()
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(2):
                await self._flush()

    def opened(self, stream: Stream) -> None:
        """Count a stream in."""
        self._streams[stream.session_id] += 1
        if not stream.viewer:
            self._onlookers[stream.session_id] += 1
        self._changed.add(stream.session_id)

    def closed(self, stream: Stream) -> None:
        """Count a stream out."""
        session_id = stream.session_id
        self._streams[session_id] -= 1
        if not stream.viewer:
            self._onlookers[session_id] -= 1
        for counter in (self._streams, self._onlookers):
            if not counter[session_id]:
                del counter[session_id]
        self._changed.add(session_id)

    def restored(self) -> None:
        """Tell everything again at once: Redis was out of reach, and may have lost what it had been told."""
        self._changed.update(self._streams)

    def streams(self, session_id: str) -> int:
        """Return how many streams the session has at this gateway."""
        return self._streams[session_id]

    async def _write_changes(self) -> None:
        while True:
            await sleep_until(tick_after(GATHER_SECONDS))
            with contextlib.suppress(GatewayError):
                await self._flush()

    async def _flush(self) -> None:
        while self._changed:
            batch = [self._changed.pop() for _ in range(min(MOST_AT_ONCE, len(self._changed)))]
            try:
                await self._beat(batch)
            except GatewayError:
                self._changed.update(batch)
                raise

    async def _beat_again(self, sessions: list[str]) -> None:
        with contextlib.suppress(GatewayError):
            await self._beat(sessions)

    async def _beat(self, sessions: list[str]) -> None:
        counts = [
            (session, count := self._streams[session], count - self._onlookers[session])
            for session in sessions
        ]
        await self._history.beat(counts, self._gateway_id)
