"""Live messages of all sessions that have streams here, and catching up when they are not whole.

Pub/sub is at most once, so its order is never trusted: an event is delivered only if it is exactly
the one that follows. Anything else makes the session's history be read, at most once a second; what
history does not continue ends in `stream_reset`, never in silence.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import PlainEvent, check_plain
from sse_gateway.core.keys import Keys
from sse_gateway.core.wire import Frame, encode_event
from sse_gateway.delivery.feed import Feed, Join
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway.positions import POSITION_CHECK_SECONDS, Positions
from sse_gateway.gateway.replay import make_replay
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import History, Reading

logger = logging.getLogger(__name__)

CATCH_UP_SECONDS = 1.0
"""A session's history is read for unexpected messages at most this often."""
CATCH_UP_BATCH = 100
"""Sessions caught up at a time after the push connection was restored."""
CATCH_UP_BATCH_SECONDS = 1.0
"""How long a batch may hold up the next one."""
LAG_SAMPLE = 64
"""One in so many events is asked how long it took."""
_RETRY_SECONDS = (0.3, 0.8)
_ENDED = b'{"control":"session_ended",'
_DURABLE = re.compile(rb'\{"id":"([0-9a-f]{10})-([0-9]{1,15})",')


class Live:
    """Hold the feeds of this process and keep each at its session's true position.

    `on_request` is called with a plain permission request (it must be asked, not shown), `on_permission`
    with every event that is about a permission, `on_ended` when somebody says that a session has ended
    (which proves nothing: ask Redis), `on_behind` with streams that did not take an event, the
    position they have reached, and how many transient events they missed, `on_other` with
    messages of channels that have no feed, `on_left` with a session that nobody is here for or on the way to
    any more. `ready` makes that frame.
    """

    def __init__(
        self,
        history: History,
        *,
        keys: Keys,
        max_event_bytes: int,
        metrics: Metrics,
        on_request: Callable[[str, PlainEvent], None],
        on_permission: Callable[[str, bytes], None],
        on_ended: Callable[[str], None],
        on_behind: Callable[[Feed, list[Stream], Cursor, int], None],
        on_other: Callable[[bytes, bytes], None],
        ready: Callable[[str, Cursor], Frame],
        on_left: Callable[[str], None] = lambda _session_id: None,
        position_check_seconds: float = POSITION_CHECK_SECONDS,
    ) -> None:
        self._history = history
        self._keys = keys
        self._max_event_bytes = max_event_bytes
        self._metrics = metrics
        self._on_request = on_request
        self._on_permission = on_permission
        self._on_ended = on_ended
        self._on_behind = on_behind
        self._on_other = on_other
        self._ready = ready
        self._on_left = on_left
        self._feeds: dict[bytes, Feed] = {}
        self._positions = Positions(
            history,
            feeds=self._feeds.values,
            on_stale=lambda feed: self._later(feed, "position"),
            seconds=position_check_seconds,
        )
        self._catching_up: dict[Feed, asyncio.Task[None]] = {}
        self._tasks = Tasks()
        self._claims: dict[Feed, list[Cursor]] = {}
        """Ids that live messages came with and the history has not been asked about yet."""
        self._complained: set[Feed] = set()
        """Feeds about whose refused events a line was logged."""

    def start(self) -> None:
        """Start checking positions."""
        self._tasks.spawn(self._positions.run(), name="positions")

    async def stop(self) -> None:
        """Stop all reading."""
        await self._tasks.stop()

    @property
    def sessions(self) -> int:
        """Return how many sessions have streams here."""
        return len(self._feeds)

    def join(self, session_id: str) -> Join:
        """Register a stream that is about to be opened."""
        channel = self._keys.events_channel(session_id).encode()
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(session_id, channel)
        return feed.join()

    def feed_of(self, session_id: str) -> Feed | None:
        """Return the session's feed, if it has streams here."""
        return self._feeds.get(self._keys.events_channel(session_id).encode())

    def leave(self, feed: Feed, *, join: Join | None = None, stream: Stream | None = None) -> None:
        """Take out a stream, live or on its way; the feed goes with its last one."""
        if join is not None:
            feed.leave(join)
        if stream is not None:
            feed.live.remove(stream)
        if feed.unused and self._feeds.get(feed.channel) is feed:
            del self._feeds[feed.channel]
            self._complained.discard(feed)
            self._claims.pop(feed, None)
            task = self._catching_up.pop(feed, None)
            if task is not None:
                task.cancel()
            self._on_left(feed.session_id)

    def placed(self, feed: Feed, reading: Reading) -> None:
        """Give a new feed its first position, and deliver what arrived while it was being read."""
        if feed.epoch == "":
            feed.place(Cursor(reading.epoch, reading.top))
            self._unpark(feed)

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Take one message from the push connection. The hot path, hence in one piece."""
        feed = self._feeds.get(channel)
        if feed is None:
            self._on_other(channel, payload)
            return
        if feed.parked is not None:
            feed.parked.append(payload)
            return
        behind = feed.deliver_next(payload)
        if behind is None:
            self._take_other(feed, payload)
            return
        count = self._metrics.durable_received = self._metrics.durable_received + 1
        if count % LAG_SAMPLE == 0:
            self._metrics.observe_lag(payload)
        if behind:
            self._on_behind(feed, behind, Cursor(feed.epoch, feed.last - 1), 0)
        if b'"permission_' in payload:
            self._on_permission(feed.session_id, payload)

    def restored(self) -> None:
        """Catch every session up: nobody knows what was published while the connection was down."""
        self._tasks.spawn(self._catch_up_all(), name="catch up all")

    async def catch_up(self, feed: Feed, reason: str) -> None:
        """Bring a feed to its history's top, or reset it; joins a run already under way.

        Returns when it is done, however long Redis takes: streams stay open meanwhile. Raises why it failed.
        """
        task = self._begin_catch_up(feed, reason)
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _take_other(self, feed: Feed, payload: bytes) -> None:
        if payload.startswith(b'{"id":"'):
            self._take_unexpected(feed, payload)
        elif payload.startswith(_ENDED):
            self._on_ended(feed.session_id)
        else:
            self._take_plain(feed, payload)

    def _take_unexpected(self, feed: Feed, payload: bytes) -> None:
        match = _DURABLE.match(payload)
        if match and match[1].decode() == feed.epoch and int(match[2]) <= feed.last:
            if feed.is_late(int(match[2])):
                self._metrics.durable_received += 1
            else:
                self._metrics.malformed_received += 1
                feed.doubt()
                self._later(feed, "repeated")
        elif match:
            self._claims.setdefault(feed, []).append(Cursor(match[1].decode(), int(match[2])))
            self._later(feed, "gap" if match[1].decode() == feed.epoch else "epoch")
        else:
            self._metrics.malformed_received += 1

    def _take_plain(self, feed: Feed, payload: bytes) -> None:
        try:
            event = check_plain(payload, feed.session_id, max_bytes=self._max_event_bytes)
        except GatewayError as error:
            self._metrics.malformed_received += 1
            if feed not in self._complained:
                self._complained.add(feed)
                logger.warning(
                    "dropped an event published without the script: %s",
                    error.message,
                    extra={"fields": {"session": feed.session_id, "code": error.code}},
                )
            return
        self._metrics.plain_received += 1
        if event.type == "permission_request":
            self._on_request(feed.session_id, event)
            return
        behind = feed.deliver_transient(Frame(encode_event(event.data)))
        if behind:
            self._on_behind(feed, behind, feed.position, 1)

    def _later(self, feed: Feed, reason: str) -> None:
        """Catch up as soon as the rate allows.

        If events are missing, what follows is unexpected too until then: it is dropped here and read
        from history. If somebody made the message up, nothing is held up by it.
        """
        wait = feed.caught_up_at + CATCH_UP_SECONDS - asyncio.get_running_loop().time()
        self._begin_catch_up(feed, reason, wait_seconds=wait)

    def _begin_catch_up(self, feed: Feed, reason: str, *, wait_seconds: float = 0.0) -> asyncio.Task[None]:
        task = self._catching_up.get(feed)
        if task is None:
            self._metrics.catchups.labels(reason).inc()
            task = self._tasks.spawn(self._catch_up(feed, wait_seconds), name=f"catch up {feed.session_id}")
            self._catching_up[feed] = task
        return task

    async def _catch_up(self, feed: Feed, wait_seconds: float) -> None:
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)
        feed.park()
        claims = self._claims.pop(feed, [])
        try:
            while (reading := await self._catch_up_page(feed)) is None:
                # A new stream's read may have given the feed its first position, and let messages in.
                feed.park()
        finally:
            feed.caught_up_at = asyncio.get_running_loop().time()
            # Over before the parked messages are looked at: they may show that another run is needed.
            self._catching_up.pop(feed, None)
            self._unpark(feed)
        if reading.ended:
            # The message that says so may have been lost like any other.
            self._on_ended(feed.session_id)
        self._metrics.malformed_received += sum(
            claim.epoch != feed.epoch or claim.seq > feed.last for claim in claims
        )

    async def _read(self, feed: Feed, cursor: str | None, *, mode: str = "snapshot") -> Reading:
        """Read the history, however long Redis is away: the streams stay open meanwhile."""
        while True:
            try:
                return await self._history.read(feed.session_id, cursor, mode=mode)
            except Unavailable:
                await asyncio.sleep(random.uniform(*_RETRY_SECONDS))

    async def _catch_up_page(self, feed: Feed) -> Reading | None:
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

    def _unpark(self, feed: Feed) -> None:
        parked, feed.parked = feed.parked, None
        if parked is not None:
            if parked.skipped:
                feed.skip(parked.skipped)
            for payload in parked.messages:
                self.receive(feed.channel, payload)
        feed.wake()

    async def _catch_up_all(self) -> None:
        feeds = list(self._feeds.values())
        random.shuffle(feeds)
        for start in range(0, len(feeds), CATCH_UP_BATCH):
            batch = [feed for feed in feeds[start : start + CATCH_UP_BATCH] if not feed.unused]
            running = [
                self._tasks.spawn(self._catch_up_anew(feed), name=f"catch up {feed.session_id}")
                for feed in batch
            ]
            if running:
                # Who takes longer goes on beside the next batch: its node of a Cluster may be down.
                await asyncio.wait(running, timeout=CATCH_UP_BATCH_SECONDS)

    async def _catch_up_anew(self, feed: Feed) -> None:
        """Catch up by a read that begins now: one under way may have seen less than was lost."""
        running = self._catching_up.get(feed)
        if running is not None:
            await asyncio.wait((running,))
        await asyncio.wait((self._begin_catch_up(feed, "reconnect"),))
