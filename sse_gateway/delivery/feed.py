"""One session's live events: the position all its live streams share, and how a stream joins them.

A stream joins gated: it is registered before the session's channel is subscribed and before the
history is read, so whatever is published from then on is either in what it reads or in the `tail`
recorded here. It is let in only when the two meet without a gap.

    live      every event is written to these streams as it arrives; all stand at `position`
    joining   those that are replaying; while there are any, live events are kept in the tail
    parked    messages that arrive while the feed itself is catching up from history

Knows nothing of Redis: who reads the history, and when, is the gateway's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from sse_gateway.core import notices
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.events import event_id
from sse_gateway.core.wire import Frame, durable_chunk
from sse_gateway.delivery.audience import FRAME, Audience
from sse_gateway.delivery.stream import Stream

TAIL_EVENTS = 2_000
TAIL_BYTES = 4 * 1024 * 1024
"""Bounds of what is kept for joining streams; one that needs more reads the history again."""


PARKED_MESSAGES = 10_000
PARKED_BYTES = 4 * 1024 * 1024
"""Bounds of what is kept while the history is read: what is dropped of it with an id, the history has."""


class Parked:
    """Messages that wait for a feed to know its position; the oldest are dropped where they are too many."""

    __slots__ = ("messages", "size", "skipped")

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.size = 0
        """Of all messages, in bytes."""
        self.skipped = 0
        """Messages without an id that were dropped."""

    def append(self, payload: bytes) -> None:
        self.messages.append(payload)
        self.size += len(payload)
        while self.size > PARKED_BYTES or len(self.messages) > PARKED_MESSAGES:
            dropped = self.messages.popleft()
            self.size -= len(dropped)
            self.skipped += not dropped.startswith(b'{"id":"')


class Join:
    """A stream on its way in, from before its subscription until it is live."""

    __slots__ = ("ended", "feed", "live_until", "skipped", "stream")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.stream: Stream | None = None
        """None until the response has begun."""
        self.skipped = 0
        """Transient events that passed while it was not live."""
        self.ended = False
        """The session seems to have ended since the stream read it: to be asked once it is live."""
        self.live_until = float("-inf")
        """When a stream that paused was last live, on the loop's clock."""


_NOBODY: frozenset[Join] = frozenset()


class Feed(Audience):
    """Fan one session's events out to its live streams."""

    __slots__ = (
        "_prefix",
        "_tail",
        "_tail_bytes",
        "_waiting",
        "caught_up_at",
        "caught_up_to",
        "channel",
        "doubted",
        "epoch",
        "joining",
        "last",
        "last_data",
        "late_from",
        "parked",
        "session_id",
    )

    def __init__(self, session_id: str, channel: bytes) -> None:
        super().__init__()
        self.session_id = session_id
        self.channel = channel
        self.epoch = ""
        """Empty until the first read of the history."""
        self.last = 0
        """The seq that all live streams have reached."""
        self.last_data = b""
        """The last event delivered, to tell a forged repetition from a history that was rewound."""
        self.doubted: tuple[int, bytes] | None = None
        """A seq and what was delivered under it, to be compared with the history."""
        self.caught_up_at = float("-inf")
        """When the history was last read for the whole feed, on the loop's clock."""
        self.late_from = 0
        self.caught_up_to = 0
        """Between these, messages may still arrive that the history told of first, until a later one has."""
        self.joining: set[Join] | frozenset[Join] = _NOBODY
        """A set of its own only while somebody joins, and so the tail: an empty deque alone takes more memory
        than the rest of an idle feed."""
        self.parked: Parked | None = Parked()
        """Not None while the feed does not know its position or is catching up."""
        self._tail: deque[tuple[int, bytes]] | None = None
        self._tail_bytes = 0
        self._prefix = b""
        """What a durable event of this epoch begins with, up to its seq."""
        self._waiting: asyncio.Future[None] | None = None

    @property
    def position(self) -> Cursor:
        """Return where the live streams stand."""
        return Cursor(self.epoch, self.last)

    @property
    def unused(self) -> bool:
        """Tell whether nobody is here or on the way."""
        return not self.live and not self.joining

    def place(self, position: Cursor) -> None:
        """Set the position outright: at the first read, and when the history is no longer continued."""
        self.epoch, self.last = position
        self.last_data = b""
        self.doubted = None
        self.late_from, self.caught_up_to = 0, position.seq
        self._forget_tail()
        self._renumber()

    def adopt_epoch(self, epoch: str) -> None:
        """Go on with the same numbers under another epoch, after a failover that lost nothing."""
        self.epoch = epoch
        self._renumber()

    def park(self) -> None:
        """Keep messages back while the history is read; idempotent."""
        if self.parked is None:
            self.parked = Parked()

    def caught_up(self, *, began_at: int) -> None:
        """Note that what follows `began_at` was read from history; its messages may come yet."""
        if self.caught_up_to != began_at:
            self.late_from = began_at
        self.caught_up_to = self.last

    def is_late(self, seq: int) -> bool:
        """Tell whether `seq` was read from history before its message came, and has come only now.

        Messages keep their order, so once one behind the history's top has come, nothing is late.
        """
        if self.late_from < seq <= self.caught_up_to == self.last:
            self.late_from = seq
            return True
        return False

    def doubt(self) -> None:
        """Have the last event delivered compared with the history, since its number was used again.

        The first doubt stands until then: what is delivered after it would compare well.
        """
        if self.doubted is None and self.last_data:
            self.doubted = (self.last, self.last_data)

    def deliver_next(self, payload: bytes) -> Sequence[Stream] | None:
        """Write a message to every live stream if it is exactly the durable event that follows `position`.

        Returns those now behind, or None when it is anything else. Nothing is parsed: the script begins each
        event with its id (REDIS.md).
        """
        seq = self.last + 1
        expected = b'%b%d",' % (self._prefix, seq)
        if not payload.startswith(expected):
            return None
        return self._deliver(seq, payload, durable_chunk(expected[7:-2], payload))

    def deliver_entry(self, seq: int, payload: bytes, *, settled: bool) -> Sequence[Stream]:
        """Write an event read from history, under the id it was published with.

        `settled` marks a permission request that is no longer open.
        """
        id = event_id(payload)
        if settled:
            return self._deliver(seq, payload, notices.settled_request(payload, id=id.decode()).chunk)
        return self._deliver(seq, payload, durable_chunk(id, payload))

    def deliver_transient(self, frame: Frame) -> Sequence[Stream]:
        """Write an event that has no place in history; who is not live is told the number later."""
        for join in self.joining:
            join.skipped += 1
        return self.push(frame.chunk)

    def skip(self, transient: int) -> None:
        """Tell every stream, live ones now and the others when they are, of events that nobody got."""
        self.broadcast((notices.skipped(transient),))
        for join in self.joining:
            join.skipped += transient

    def broadcast(self, frames: Sequence[Frame]) -> None:
        """Write the gateway's own notices to every live stream."""
        for stream in self.live:
            stream.write(*frames)

    def join(self) -> Join:
        """Register a stream that is about to read the history; the tail is kept from now on."""
        join = Join(self)
        if isinstance(self.joining, frozenset):
            self.joining = set()
        self.joining.add(join)
        return join

    def leave(self, join: Join) -> None:
        """Give up joining; idempotent."""
        if not isinstance(self.joining, frozenset):
            self.joining.discard(join)
            if not self.joining:
                self.joining = _NOBODY
                self._forget_tail()

    def admit(self, join: Join, stream: Stream, position: Cursor) -> Cursor | None:
        """Make a stream that has everything up to `position` live, if nothing is missing in between.

        Returns None when it is live now, else the position it has reached: the caller reads on from
        there. The stream must have room for the tail (`Stream.drained`).
        """
        if self.parked is not None or position.epoch != self.epoch or position.seq > self.last:
            return position
        if position.seq < self.last:
            following = [(seq, chunk) for seq, chunk in self._tail or () if seq > position.seq]
            if not following or following[0][0] != position.seq + 1:
                return position
            for seq, chunk in following:
                if not stream.push(chunk):
                    return Cursor(self.epoch, seq - 1)
        self.leave(join)
        self.add(stream)
        return None

    def admit_at_once(self, join: Join, stream: Stream, position: Cursor) -> bool:
        """Make a stream live that has been written nothing yet, if it stands where all others do."""
        if self.parked is not None or position != self.position:
            return False
        self.leave(join)
        self.add(stream)
        return True

    async def advance(self, seconds: float) -> None:
        """Wait until the position has moved, at most `seconds`."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._waiting,), timeout=seconds)

    def wake(self) -> None:
        """Release those who wait in `advance`."""
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None

    def _deliver(self, seq: int, payload: bytes, chunk: bytes) -> Sequence[Stream]:
        self.last = seq
        self.last_data = payload
        if self.joining:
            self._remember(seq, chunk)
        if self._waiting is not None:
            self.wake()
        sole = self._sole
        if sole is None:
            return self.push(chunk)
        # What `push` would do, without a call: nearly every event comes this way.
        self._written += FRAME + len(chunk)
        try:
            sole.write(chunk)
        except RuntimeError:
            pass
        return ()

    def _remember(self, seq: int, chunk: bytes) -> None:
        tail = self._tail
        if tail is None:
            tail = self._tail = deque()
        tail.append((seq, chunk))
        self._tail_bytes += len(chunk)
        while self._tail_bytes > TAIL_BYTES or len(tail) > TAIL_EVENTS:
            self._tail_bytes -= len(tail.popleft()[1])

    def _forget_tail(self) -> None:
        self._tail = None
        self._tail_bytes = 0

    def _renumber(self) -> None:
        self._prefix = b'{"id":"%b-' % self.epoch.encode()
        self.wake()
