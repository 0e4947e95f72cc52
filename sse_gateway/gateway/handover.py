"""Bringing a stream from its cursor to live without a gap: the one routine for all who are not live.

    new stream      gated → channel acknowledged → history read → response begun → replay → live
    paused stream   gated → what it has not taken has drained → history read → replay → live

What a joining stream must not miss is in what it reads or in its feed's tail; `Feed.admit` lets it in
only when the two are proven to meet (see `delivery.feed`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from sse_gateway.core import notices
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import Unavailable
from sse_gateway.core.wire import Frame, encode_retry
from sse_gateway.delivery.feed import Feed, Join
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway.live import Live
from sse_gateway.gateway.replay import Gap, Replay, make_replay
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import History, Reading
from sse_gateway.store.push import Push

logger = logging.getLogger(__name__)

LIVE_LAG_SECONDS = 0.25
"""How long a live message may trail the history before it counts as lost."""
_RETRY_SECONDS = (0.3, 0.8)


@contextmanager
def _closing_on_failure(stream: Stream) -> Iterator[None]:
    """Close a stream that cannot be brought any further: if it stayed open it would be silent for ever."""
    try:
        yield
    except Exception:
        logger.exception("a stream could not go on")
        stream.close("unavailable")


class Handover:
    """Bring streams to live, and paused ones back.

    `on_live` is called with each that is live, and its join.
    """

    def __init__(
        self,
        *,
        live: Live,
        push: Push,
        history: History,
        metrics: Metrics,
        gateway_id: str,
        heartbeat_seconds: float,
        on_live: Callable[[Stream, Join], None] = lambda _stream, _join: None,
    ) -> None:
        self._live = live
        self._push = push
        self._history = history
        self._metrics = metrics
        self._gateway_id = gateway_id
        self._heartbeat_seconds = heartbeat_seconds
        self._on_live = on_live
        self._reads: dict[tuple[Feed, str | None, str], list[asyncio.Future[Reading]]] = {}
        """Reads under way, and which streams of the session wait for the same."""
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop bringing paused streams back."""
        await self._tasks.stop()

    @asynccontextmanager
    async def gate(self, session_id: str) -> AsyncIterator[Join]:
        """Register a stream that wants in and hold its session's channel; raises Unavailable.

        On the way out both are released, unless the stream was begun: then its end releases them.
        """
        join = self._live.join(session_id)
        feed = join.feed
        try:
            await self._push.acquire(feed.channel)
            try:
                yield join
            finally:
                if join.stream is None:
                    self._push.release(feed.channel)
        finally:
            if join.stream is None:
                self._live.leave(feed, join=join)

    def released(self, stream: Stream) -> None:
        """Let go of what an ended stream held."""
        feed = self._live.feed_of(stream.session_id)
        if feed is None:
            return
        for join in [join for join in feed.joining if join.stream is stream]:
            feed.leave(join)
        self._push.release(feed.channel)
        self._live.leave(feed, stream=stream)

    async def read(self, join: Join, cursor: str | None, *, mode: str = "snapshot") -> Reading:
        """Read owner, position, entries, open requests and state in one round trip; raises Unavailable."""
        key = (join.feed, cursor, mode)
        waiting = self._reads.get(key)
        if waiting is None:
            waiting = self._reads[key] = []
            asked = asyncio.ensure_future(self._history.read(join.feed.session_id, cursor, mode=mode))
            asked.add_done_callback(functools.partial(self._was_read, key))
        # One of its own for each who waits: it may be cancelled without the others.
        mine: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        reading = await mine
        self._live.placed(join.feed, reading)
        return reading

    def _was_read(self, key: tuple[Feed, str | None, str], asked: asyncio.Future[Reading]) -> None:
        # Asked for in any case: it may be that nobody waits any more.
        error = None if asked.cancelled() else asked.exception()
        for waiting in self._reads.pop(key):
            if waiting.done():
                continue
            if asked.cancelled():
                waiting.cancel()
            elif error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(asked.result())

    async def bring_live(
        self, join: Join, stream: Stream, reading: Reading, *, cursor: str | None, shown: Sequence[bytes] = ()
    ) -> None:
        """Begin a new stream with replay or snapshot, then `ready`; return when it is live or over.

        `shown` are frames that belong to the snapshot without being in the reading.
        """
        join.stream = stream
        with _closing_on_failure(stream):
            replay = await self._replay(join, stream, cursor, reading=reading)
            if replay is None or stream.ended_because is not None:
                return
            opening = [Frame(encode_retry(notices.first_retry_ms()), 0), *replay.parts]
            if shown:
                opening.append(Frame(b"".join(shown), len(shown)))
            if not replay.more and join.feed.admit_at_once(join, stream, replay.position):
                # Nearly always. All in one call: each would be a packet of its own.
                stream.write(*opening, *self._arrival(join, replay.replayed, complete=not replay.reset))
                self._on_live(stream, join)
            else:
                stream.write(*opening)
                await self._follow(join, stream, replay)

    def resume_behind(self, feed: Feed, streams: Sequence[Stream], position: Cursor, transient: int) -> None:
        """Pause live streams whose readers are behind; they go on from history as they read."""
        for stream in streams:
            if feed.remove(stream):
                join = feed.join()
                join.stream = stream
                join.skipped = transient
                join.live_until = asyncio.get_running_loop().time()
                self._tasks.spawn(self._resume(join, stream, position), name="resume")

    def ready(self, session_id: str, position: Cursor, *, replayed: int = 0, complete: bool = False) -> Frame:
        """Return the frame that tells a stream its position."""
        return notices.ready(
            session_id,
            position,
            gateway_id=self._gateway_id,
            heartbeat_seconds=self._heartbeat_seconds,
            replayed=replayed,
            complete=complete,
        )

    async def _resume(self, join: Join, stream: Stream, position: Cursor) -> None:
        with _closing_on_failure(stream):
            if await stream.drained():
                replay = await self._replay(join, stream, str(position))
                if replay is not None:
                    stream.write(*replay.parts)
                    await self._follow(join, stream, replay, silent=True)

    async def _follow(self, join: Join, stream: Stream, first: Replay, *, silent: bool = False) -> None:
        """Go on from a first page until the stream is live or over.

        A stream that only paused is told nothing (`silent`) unless it was reset on the way.
        """
        replayed, reset, more = first.replayed, first.reset, first.more
        position: Cursor | None = first.position
        while position is not None:
            position, replay = await self._step(join, stream, position, more=more)
            if stream.ended_because is not None:
                return
            if replay is not None:
                replayed += replay.replayed
                reset = reset or replay.reset
                more = replay.more
        if reset or not silent:
            stream.write(*self._arrival(join, replayed, complete=not reset))
        elif join.skipped:
            stream.write(notices.skipped(join.skipped))
        self._on_live(stream, join)

    def _arrival(self, join: Join, replayed: int, *, complete: bool) -> list[Frame]:
        """Return what tells a stream that it is live."""
        feed = join.feed
        ready = self.ready(feed.session_id, feed.position, replayed=replayed, complete=complete)
        return [notices.skipped(join.skipped), ready] if join.skipped else [ready]

    async def _step(
        self, join: Join, stream: Stream, position: Cursor, *, more: bool
    ) -> tuple[Cursor | None, Replay | None]:
        """Take a stream one step on from `position`: let it in (None), wait, or replay a page."""
        feed = join.feed
        if not await stream.drained():
            return position, None
        if not more:
            reached = feed.admit(join, stream, position)
            if reached is None:
                return None, None
            position = reached
            if feed.parked is not None:
                await feed.advance(1.0)
                return position, None
            if position.epoch == feed.epoch and position.seq > feed.last:
                await self._wait_for_live(feed, position)
                return position, None
            if position.epoch != feed.epoch:
                await self._live.catching_up.now(feed, "epoch")
        replay = await self._replay(join, stream, str(position))
        if replay is None:
            return position, None
        stream.write(*replay.parts)
        return replay.position, replay

    async def _wait_for_live(self, feed: Feed, position: Cursor) -> None:
        """Wait until the feed has reached `position`; what does not come in time is read."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LIVE_LAG_SECONDS
        while feed.last < position.seq and feed.epoch == position.epoch and feed.parked is None:
            left = until - loop.time()
            if left <= 0:
                await self._live.catching_up.now(feed, "lagging")
                return
            await feed.advance(left)

    async def _read_on(self, join: Join, stream: Stream, cursor: str | None) -> Reading | None:
        """Read for an open stream, which outlives an outage; None when it has ended meanwhile."""
        while stream.ended_because is None:
            try:
                return await self.read(join, cursor)
            except Unavailable:
                await asyncio.sleep(random.uniform(*_RETRY_SECONDS))
        return None

    async def _replay(
        self, join: Join, stream: Stream, cursor: str | None, *, reading: Reading | None = None
    ) -> Replay | None:
        """Make what follows `cursor`, from a first `reading` or a new one; None when the stream is over."""
        resumed = reading is None
        if reading is None and (reading := await self._read_on(join, stream, cursor)) is None:
            return None
        try:
            replay = make_replay(reading, cursor, resumed=resumed)
        except Gap:
            # Contiguity cannot be proven, so this is a reset, with the snapshot of a fresh read.
            fresh = await self._read_on(join, stream, None)
            if fresh is None:
                return None
            reading = fresh._replace(verdict="trimmed")
            replay = make_replay(reading, cursor, resumed=resumed)
        if replay.reset:
            self._metrics.resets.labels(reading.verdict).inc()
        return replay
