"""One open SSE connection, seen as an outbox.

There is no queue object and no task for a stream: the transport's own write buffer is the outbox and
its size is the bound. A frame is encoded once and the same bytes are written to every stream from a
plain function.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from sse_gateway.core import notices
from sse_gateway.core.wire import Frame, bare

DRAINED_BYTES = 64 * 1024
"""A paused stream reads on from history once no more than this is unsent."""
CLOSE_GRACE_SECONDS = 5.0
"""How long a closed stream may take to get its last bytes out before it is aborted."""


class Audience(Protocol):
    """The streams that are written to together (`delivery.audience`), as far as one of them knows it."""

    @property
    def frames(self) -> int: ...

    @property
    def sent_bytes(self) -> int: ...

    def note(self, stream: Stream) -> None:
        """Note whether a stream flows."""


class Carrier(Protocol):
    """What holds a stream's connection."""

    def finish(self) -> None:
        """End the body properly, and close the connection once everything is sent."""


class Stream:
    """Write frames to one connection, and judge whether its reader keeps up.

    `on_ended` is called exactly once, when the stream is over for whichever reason.
    """

    __slots__ = (
        "_audience",
        "_carrier",
        "_chunked",
        "_counted_bytes",
        "_counted_frames",
        "_own_bytes",
        "_own_frames",
        "_queue_bytes",
        "_queue_events",
        "_unsent_events",
        "client_id",
        "due",
        "ended_because",
        "expires_at",
        "expiry_announced",
        "flowing",
        "http_request_id",
        "max_age_at",
        "on_ended",
        "opened_at",
        "session_id",
        "slice",
        "stalled_since",
        "taken_bytes",
        "transport",
        "user",
        "viewer",
    )

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        *,
        chunked: bool,
        carrier: Carrier,
        on_ended: Callable[[Stream], None],
        session_id: str,
        user: str,
        viewer: bool,
        client_id: str | None = None,
        http_request_id: str | None = None,
        expires_at: float = float("inf"),
        max_age_at: float = float("inf"),
        queue_events: int = 100,
        queue_bytes: int = 1024 * 1024,
    ) -> None:
        self.transport = transport
        self._chunked = chunked
        self._carrier = carrier
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._unsent_events = 0
        """Frames written since the buffer was last seen empty."""
        self.flowing = False
        """Everything is on its way, the connection takes chunks, and the carrier will say when that ends."""
        self._audience: Audience | None = None
        """The live streams of its session, while it is one of them."""
        self._own_frames = self._own_bytes = 0
        """What was written to it alone."""
        self._counted_frames = self._counted_bytes = 0
        """What its audience had counted when this stream began to flow there."""
        self.on_ended = on_ended
        self.session_id = session_id
        self.user = user
        self.viewer = viewer
        """Its token may answer permission requests."""
        self.client_id = client_id
        self.http_request_id = http_request_id
        """Of the request that opened it, for the line of its end."""
        self.opened_at = time.monotonic()
        self.expires_at = expires_at
        """When the token ends, in unix seconds."""
        self.expiry_announced = False
        self.max_age_at = max_age_at
        """When the stream is asked to reconnect, in unix seconds."""
        self.due = 0
        """The second at which the hub next looks at the two times above."""
        self.slice = 0
        """Which turn of the heartbeat it belongs to."""
        self.taken_bytes = 0
        """Bytes the kernel had taken at the last sweep."""
        self.stalled_since = 0.0
        """When a sweep first saw no progress, on the monotonic clock; 0 while there is some."""
        self.ended_because: str | None = None
        """Why the stream is over; None while it is open."""

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes the connection has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def events(self) -> int:
        """Return how many frames were handed to the transport."""
        shared = self._audience if self.flowing else None
        return self._own_frames + (shared.frames - self._counted_frames if shared is not None else 0)

    @property
    def sent_bytes(self) -> int:
        """Return how many bytes were handed to the transport."""
        shared = self._audience if self.flowing else None
        return self._own_bytes + (shared.sent_bytes - self._counted_bytes if shared is not None else 0)

    @property
    def gone(self) -> bool:
        """Tell whether the connection has ended under the stream."""
        return self.transport.is_closing()

    def push(self, chunk: bytes) -> bool:
        """Write an event, unless the reader is too far behind: then return False and write nothing.

        That is no verdict on the reader: at the peak of a burst a good one is behind too. The caller
        pauses the stream, which goes on from history.
        """
        transport = self.transport
        unsent = transport.get_write_buffer_size()
        if unsent == 0:
            self._unsent_events = 1
        else:
            self._unsent_events += 1
            if unsent > self._queue_bytes or self._unsent_events > self._queue_events:
                return False
        if self.ended_because is None and not transport.is_closing():
            data = chunk if self._chunked else bare(chunk)
            transport.write(data)
            self._own_frames += 1
            self._own_bytes += len(data)
        return True

    def write(self, *frames: Frame) -> None:
        """Write frames whatever is unsent: for hand-over and notices, whose caller bounds them.

        After the end nothing is written: `closing` is the last event, and behind the last chunk there is
        no body any more.
        """
        if self.ended_because is not None or self.transport.is_closing():
            return
        parts = [frame.chunk if self._chunked else frame.body for frame in frames]
        self.transport.writelines(parts)
        self._own_frames += sum([frame.events for frame in frames])
        self._own_bytes += sum(map(len, parts))

    def joined(self, audience: Audience) -> None:
        """Note that it is one of a session's live streams, which count what they are all sent."""
        self._audience = audience
        self._count_from_here()

    def left(self) -> None:
        """Note that it is live no more."""
        self._settle_counts()
        self._audience = None

    def flows(self) -> None:
        """Take from the carrier that everything is on its way; `stalls` must follow when it no longer is."""
        if not self.flowing and self._chunked and self.ended_because is None:
            self._count_from_here()
            self.flowing = True
            self._tell_audience()

    def stalls(self) -> None:
        """Take from the carrier that the connection has not taken everything."""
        if self.flowing:
            self._settle_counts()
            self._unsent_events = 1
            self.flowing = False
            self._tell_audience()

    def _tell_audience(self) -> None:
        if self._audience is not None:
            self._audience.note(self)

    def _count_from_here(self) -> None:
        if self._audience is not None:
            self._counted_frames = self._audience.frames
            self._counted_bytes = self._audience.sent_bytes

    def _settle_counts(self) -> None:
        self._own_frames, self._own_bytes = self.events, self.sent_bytes
        self._count_from_here()

    async def drained(self) -> bool:
        """Wait until little is unsent; return False when the stream is over instead.

        It polls, since a transport tells its drain only to the protocol that owns it, and that is
        aiohttp's as often as ours.
        """
        pause = 0.001
        while self.ended_because is None:
            if self.gone:
                self.end("client_gone")
            elif self.transport.get_write_buffer_size() <= DRAINED_BYTES:
                return True
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.05)
        return False

    def close(self, reason: str) -> None:
        """Say why in a `closing` event, end the body properly, and close; idempotent.

        `reason` is one of `notices.CLOSE_REASONS`. A reader that takes nothing is cut off after a while.
        """
        if self.ended_because is not None:
            return
        self.write(notices.closing(reason))
        self.end(reason)
        asyncio.get_running_loop().call_later(CLOSE_GRACE_SECONDS, self.transport.abort)

    def end(self, reason: str) -> None:
        """Note that the stream is over and release what it holds; idempotent."""
        if self.ended_because is not None:
            return
        self.ended_because = reason
        # From here on nothing may be written without asking.
        self.stalls()
        self._carrier.finish()
        self.on_ended(self)
