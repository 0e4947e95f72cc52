"""All open streams of this process, and what has to happen to each of them with time.

One timer serves them all: heartbeats go out in slices over the interval, since thousands at once
would stall the events; expiry sits in buckets by the second instead of a timer a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Iterator

from sse_gateway.core import notices
from sse_gateway.core.events import iso_ms
from sse_gateway.delivery.stream import Stream
from sse_gateway.ticks import TICK_SECONDS, every

SWEEP_SECONDS = 1.0
SLOW_SECONDS = 5.0
"""A stream that takes no byte of what is unsent for this long is closed as `slow_client`."""
EXPIRY_NOTICE_SECONDS = 60


class Hub:
    """Hold every open stream and keep its times."""

    def __init__(self, *, heartbeat_seconds: float = 30.0) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.streams: set[Stream] = set()
        self._slices: list[set[Stream]] = [
            set() for _ in range(max(1, round(heartbeat_seconds / TICK_SECONDS)))
        ]
        self._turn = 0
        """The slice whose heartbeat comes next."""
        self._due: dict[int, set[Stream]] = {}
        """Unix second → streams to look at then."""
        self._seen_second = int(time.time())
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the timers."""
        self._tasks = [
            asyncio.create_task(every(TICK_SECONDS, self._beat_slices), name="heartbeats"),
            asyncio.create_task(every(SWEEP_SECONDS, self._sweep), name="sweep"),
        ]

    async def stop(self) -> None:
        """Stop the timers; the streams are the caller's to close first."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def add(self, stream: Stream) -> None:
        """Take a stream in; its first heartbeat comes after 80 to 100 % of the interval.

        The spread keeps the streams of one reconnect storm from beating as one for ever.
        """
        self.streams.add(stream)
        count = len(self._slices)
        stream.slice = (self._turn - 1 - int(random.random() * (1 + count // 5))) % count
        self._slices[stream.slice].add(stream)
        self._schedule(stream)

    def remove(self, stream: Stream) -> None:
        """Let a stream go; idempotent."""
        self.streams.discard(stream)
        self._slices[stream.slice].discard(stream)
        bucket = self._due.get(stream.due)
        if bucket is not None:
            bucket.discard(stream)

    async def drain(self, seconds: float) -> None:
        """Close every stream with `shutdown`, spread over `seconds`, so that they return spread too."""
        streams = list(self.streams)
        random.shuffle(streams)
        batch = max(1, math.ceil(len(streams) * TICK_SECONDS / seconds)) if seconds > 0 else len(streams)
        for start in range(0, len(streams), batch or 1):
            for stream in streams[start : start + batch]:
                stream.close("shutdown")
            await asyncio.sleep(TICK_SECONDS)

    def _schedule(self, stream: Stream) -> None:
        """Put a stream into the bucket of its next due time, if it has one."""
        announce_at = stream.expires_at - EXPIRY_NOTICE_SECONDS
        next_at = min(stream.expires_at if stream.expiry_announced else announce_at, stream.max_age_at)
        if next_at == float("inf"):
            return
        stream.due = max(self._seen_second + 1, math.ceil(next_at))
        self._due.setdefault(stream.due, set()).add(stream)

    def _beat_slices(self, ticks: int) -> None:
        for _ in range(min(ticks, len(self._slices))):
            beating = self._slices[self._turn]
            self._turn = (self._turn + 1) % len(self._slices)
            if beating:
                chunk = notices.heartbeat().chunk
                for stream in beating:
                    # One that is behind has more than a heartbeat coming.
                    stream.push(chunk)

    def _sweep(self, _ticks: int) -> None:
        now = time.monotonic()
        for stream in list(self.streams):
            if stream.flowing:
                # Nothing is unsent, and its carrier says when that or the connection ends.
                continue
            if stream.gone:
                stream.end("client_gone")
                continue
            unsent = stream.buffered_bytes
            if not unsent:
                stream.stalled_since = 0.0
                continue
            taken = stream.sent_bytes - unsent
            if taken != stream.taken_bytes or not stream.stalled_since:
                stream.taken_bytes = taken
                stream.stalled_since = now
            elif now - stream.stalled_since >= SLOW_SECONDS:
                stream.close("slow_client")
        self._look_at_due(time.time())

    def _look_at_due(self, now: float) -> None:
        for second in self._seconds_until(int(now)):
            for stream in list(self._due.pop(second, ())):
                if now >= stream.expires_at:
                    stream.close("token_expired")
                elif now >= stream.max_age_at:
                    stream.close("max_age")
                else:
                    if not stream.expiry_announced and now >= stream.expires_at - EXPIRY_NOTICE_SECONDS:
                        stream.expiry_announced = True
                        stream.write(notices.token_expiring(iso_ms(int(stream.expires_at * 1000))))
                    self._schedule(stream)

    def _seconds_until(self, now: int) -> Iterator[int]:
        """Yield the seconds not looked at yet; after a jump of the clock, all that are due."""
        if now - self._seen_second > 60:
            seconds = sorted(second for second in self._due if second <= now)
        else:
            seconds = list(range(self._seen_second + 1, now + 1))
        self._seen_second = max(self._seen_second, now)
        yield from seconds
