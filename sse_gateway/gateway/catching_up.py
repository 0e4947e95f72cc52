"""Catching sessions up from their history, when live messages are not whole.

A session's history is read at most once a second for unexpected messages; what it does not continue ends in
`stream_reset`, never in silence.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import Unavailable
from sse_gateway.core.wire import Frame
from sse_gateway.delivery.feed import Feed
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway.replay import make_replay
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import History, Reading

CATCH_UP_SECONDS = 1.0
"""A session's history is read for unexpected messages at most this often."""
CATCH_UP_BATCH = 100
"""Sessions caught up at a time after the push connection was restored."""
CATCH_UP_BATCH_SECONDS = 1.0
"""How long a batch may hold up the next one."""
_RETRY_SECONDS = (0.3, 0.8)


class CatchingUp:
    """Bring feeds to the top of their histories, one run at a time for each.

    `on_done` is called with a feed whose messages need no longer wait; the others as `Live` has them.
    """

    def __init__(
        self,
        history: History,
        *,
        metrics: Metrics,
        on_done: Callable[[Feed], None],
        on_permission: Callable[[str, bytes], None],
        on_ended: Callable[[str], None],
        on_behind: Callable[[Feed, Sequence[Stream], Cursor, int], None],
        ready: Callable[[str, Cursor], Frame],
    ) -> None:
        self._history = history
        self._metrics = metrics
        self._on_done = on_done
        self._on_permission = on_permission
        self._on_ended = on_ended
        self._on_behind = on_behind
        self._ready = ready
        self._running: dict[Feed, asyncio.Task[None]] = {}
        self._claims: dict[Feed, list[Cursor]] = {}
        """Ids that live messages came with and the history has not been asked about yet."""
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop all reading."""
        await self._tasks.stop()

    def forget(self, feed: Feed) -> None:
        """Give up on a feed that nobody is left of."""
        self._claims.pop(feed, None)
        task = self._running.pop(feed, None)
        if task is not None:
            task.cancel()

    async def now(self, feed: Feed, reason: str) -> None:
        """Bring a feed to its history's top, or reset it; joins a run already under way.

        Returns when it is done, however long Redis takes: streams stay open meanwhile. Raises why it failed.
        """
        task = self._begin(feed, reason)
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def later(self, feed: Feed, reason: str, *, claim: Cursor | None = None) -> None:
        """Catch up as soon as the rate allows; `claim` is the id that a message came with.

        If events are missing, what follows is unexpected too until then: it is dropped here and read
        from history. If somebody made the message up, nothing is held up by it.
        """
        if claim is not None:
            self._claims.setdefault(feed, []).append(claim)
        wait = feed.caught_up_at + CATCH_UP_SECONDS - asyncio.get_running_loop().time()
        self._begin(feed, reason, wait_seconds=wait)

    def all(self, feeds: Iterable[Feed]) -> None:
        """Catch every session up, batch by batch, by reads that begin after this call."""
        shuffled = list(feeds)
        random.shuffle(shuffled)
        self._tasks.spawn(self._all(shuffled), name="catch up all")

    async def _all(self, feeds: list[Feed]) -> None:
        for start in range(0, len(feeds), CATCH_UP_BATCH):
            batch = [feed for feed in feeds[start : start + CATCH_UP_BATCH] if not feed.unused]
            running = [
                self._tasks.spawn(self._anew(feed), name=f"catch up {feed.session_id}") for feed in batch
            ]
            if running:
                # Who takes longer goes on beside the next batch: its node of a Cluster may be down.
                await asyncio.wait(running, timeout=CATCH_UP_BATCH_SECONDS)

    async def _anew(self, feed: Feed) -> None:
        """Catch up by a read that begins now: one under way may have seen less than was lost."""
        running = self._running.get(feed)
        if running is not None:
            await asyncio.wait((running,))
        await asyncio.wait((self._begin(feed, "reconnect"),))

    def _begin(self, feed: Feed, reason: str, *, wait_seconds: float = 0.0) -> asyncio.Task[None]:
        task = self._running.get(feed)
        if task is None:
            self._metrics.catchups.labels(reason).inc()
            task = self._tasks.spawn(self._run(feed, wait_seconds), name=f"catch up {feed.session_id}")
            self._running[feed] = task
        return task

    async def _run(self, feed: Feed, wait_seconds: float) -> None:
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
        feed.park()
        claims = self._claims.pop(feed, [])
        try:
            while (reading := await self._page(feed)) is None:
                # A new stream's read may have given the feed its first position, and let messages in.
                feed.park()
        finally:
            feed.caught_up_at = asyncio.get_running_loop().time()
            # Over before the parked messages are looked at: they may show that another run is needed.
            self._running.pop(feed, None)
            self._on_done(feed)
        if reading.ended:
            # The message that says so may have been lost like any other.
            self._on_ended(feed.session_id)
        self._metrics.malformed_received += sum(
            claim.epoch != feed.epoch or claim.seq > feed.last for claim in claims
        )

    async def _page(self, feed: Feed) -> Reading | None:
        """Deliver one page of what the feed has missed; return it if that was all."""
        if feed.epoch == "":
            return await self._find_position(feed)
        doubted, feed.doubted = feed.doubted, None
        cursor = Cursor(feed.epoch, doubted[0] - 1 if doubted else feed.last)
        reading = await self._read(feed, str(cursor))
        if doubted and reading.verdict == "trimmed":
            return None
        if doubted and reading.verdict == "ok":
            if not reading.entries or reading.entries[0].data != doubted[1]:
                return await self._reset(feed, "rolled_back")
            reading.entries[:] = [entry for entry in reading.entries if entry.seq > feed.last]
        if reading.verdict != "ok":
            self._show_reset(feed, reading, str(cursor))
            return reading
        began_at = feed.last
        still_open = {pending.request_id for pending in reading.pending}
        for entry in reading.entries:
            if entry.seq != feed.last + 1:
                return await self._reset(feed, "trimmed")
            settled = entry.request_id is not None and entry.request_id not in still_open
            behind = feed.deliver_entry(entry.seq, entry.data, settled=settled)
            if behind:
                self._on_behind(feed, behind, Cursor(feed.epoch, entry.seq - 1), 0)
            if entry.request_id or b'"permission_' in entry.data:
                self._on_permission(feed.session_id, entry.data)
        if feed.last < reading.top and not reading.more:
            return await self._reset(feed, "trimmed")
        if reading.epoch != feed.epoch:
            feed.adopt_epoch(reading.epoch)
        feed.caught_up(began_at=began_at)
        return None if reading.more else reading

    async def _find_position(self, feed: Feed) -> Reading | None:
        """Give a feed its first position, unless a new stream's read has done so meanwhile."""
        reading = await self._read(feed, None, mode="none")
        if feed.epoch != "":
            return None
        feed.place(Cursor(reading.epoch, reading.top))
        return reading

    async def _read(self, feed: Feed, cursor: str | None, *, mode: str = "snapshot") -> Reading:
        """Read the history, however long Redis is away: the streams stay open meanwhile."""
        while True:
            try:
                return await self._history.read(feed.session_id, cursor, mode=mode)
            except Unavailable:
                await asyncio.sleep(random.uniform(*_RETRY_SECONDS))

    async def _reset(self, feed: Feed, reason: str) -> Reading:
        """Start the live streams anew from a snapshot, because history does not continue them."""
        requested = str(feed.position)
        reading = await self._read(feed, None)
        self._show_reset(feed, reading._replace(verdict=reason), requested)
        return reading

    def _show_reset(self, feed: Feed, reading: Reading, requested: str) -> None:
        self._metrics.resets.labels(reading.verdict).inc()
        replay = make_replay(reading, requested, resumed=True)
        feed.place(replay.position)
        feed.broadcast((*replay.parts, self._ready(feed.session_id, replay.position)))
        for pending in reading.pending:
            self._on_permission(feed.session_id, pending.data)
