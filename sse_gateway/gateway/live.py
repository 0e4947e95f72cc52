"""Live messages of all sessions that have streams here: which are delivered, and what becomes of the others.

Pub/sub is at most once, so its order is never trusted: an event is delivered only if it is exactly
the one that follows. Anything else makes the session be caught up from its history.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import PlainEvent, check_plain
from sse_gateway.core.keys import Keys
from sse_gateway.core.wire import Frame, encode_event
from sse_gateway.delivery.feed import Feed, Join
from sse_gateway.delivery.stream import Stream
from sse_gateway.gateway.catching_up import CatchingUp
from sse_gateway.gateway.positions import POSITION_CHECK_SECONDS, Positions
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import History, Reading
from sse_gateway.ticks import TICK_SECONDS, every

logger = logging.getLogger(__name__)

LAG_EVENTS = 8
"""One event a tick is asked how long it took, chosen by chance from at least so many: the first of a burst
waited for none before it, and asking costs twice as much as delivering."""
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
        on_behind: Callable[[Feed, Sequence[Stream], Cursor, int], None],
        on_other: Callable[[bytes, bytes], None],
        ready: Callable[[str, Cursor], Frame],
        on_left: Callable[[str], None] = lambda _session_id: None,
        position_check_seconds: float = POSITION_CHECK_SECONDS,
    ) -> None:
        self._keys = keys
        self._max_event_bytes = max_event_bytes
        self._metrics = metrics
        self._on_request = on_request
        self._on_permission = on_permission
        self._on_ended = on_ended
        self._on_behind = on_behind
        self._on_other = on_other
        self._on_left = on_left
        self._feeds: dict[bytes, Feed] = {}
        self.catching_up = CatchingUp(
            history,
            metrics=metrics,
            on_done=self._unpark,
            on_permission=on_permission,
            on_ended=on_ended,
            on_behind=on_behind,
            ready=ready,
        )
        self._positions = Positions(
            history,
            feeds=self._feeds.values,
            on_stale=lambda feed: self.catching_up.later(feed, "position"),
            seconds=position_check_seconds,
        )
        self._tasks = Tasks()
        self._lag_at = 1
        """How many events there will have been when one is asked how long it took."""
        self._received_by_tick = 0
        """How many there had been by the last tick."""
        self._complained: set[Feed] = set()
        """Feeds about whose refused events a line was logged."""

    def start(self) -> None:
        """Start checking positions, and measuring."""
        self._tasks.spawn(self._positions.run(), name="positions")
        self._tasks.spawn(every(TICK_SECONDS, self._choose_for_lag), name="lag")

    async def stop(self) -> None:
        """Stop all reading."""
        await self._tasks.stop()
        await self.catching_up.stop()

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
            feed.remove(stream)
        if feed.unused and self._feeds.get(feed.channel) is feed:
            del self._feeds[feed.channel]
            self._complained.discard(feed)
            self.catching_up.forget(feed)
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
        if behind:
            self._on_behind(feed, behind, Cursor(feed.epoch, feed.last - 1), 0)
        # Half the time that `in` takes.
        if payload.find(b'"permission_') >= 0:
            self._on_permission(feed.session_id, payload)
        if count == self._lag_at:
            self._metrics.observe_lag(payload)

    def restored(self) -> None:
        """Catch every session up: nobody knows what was published while the connection was down."""
        self.catching_up.all(self._feeds.values())

    def _choose_for_lag(self, _ticks: int) -> None:
        """Choose the event to be asked, among as many as came since the last tick, unless one is due."""
        count = self._metrics.durable_received
        most = max(LAG_EVENTS, count - self._received_by_tick)
        self._received_by_tick = count
        if not count < self._lag_at <= count + most:
            self._lag_at = count + random.randint(1, most)

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
                self.catching_up.later(feed, "repeated")
        elif match:
            claim = Cursor(match[1].decode(), int(match[2]))
            reason = "gap" if claim.epoch == feed.epoch else "epoch"
            self.catching_up.later(feed, reason, claim=claim)
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

    def _unpark(self, feed: Feed) -> None:
        parked, feed.parked = feed.parked, None
        # A feed that was left may have a successor, which has its own messages.
        if parked is not None and self._feeds.get(feed.channel) is feed:
            if parked.skipped:
                feed.skip(parked.skipped)
            for payload in parked.messages:
                self.receive(feed.channel, payload)
        feed.wake()
