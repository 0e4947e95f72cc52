"""The live streams of one session: one event written to all of them, with as little as possible for each.

A thousand streams on one session mean a thousand writes for each event, and beside the kernel's part every
look at one more object shows. So of a stream that flows (everything it was sent is on its way, and its
carrier will say when that ends) only the transport is touched, and what it is sent is counted here, once for
all. The others are asked one by one whether their reader keeps up.
"""

from __future__ import annotations

import asyncio
from collections.abc import KeysView, Sequence

from sse_gateway.delivery.stream import Stream

_NOBODY: frozenset[Stream] = frozenset()
FRAME = 1 << 50


class Audience:
    """Hold live streams, and write to them."""

    __slots__ = ("_slow", "_sole", "_transports", "_written")

    def __init__(self) -> None:
        self._transports: dict[Stream, asyncio.WriteTransport | None] = {}
        """All streams, in the order they came; None for the slow ones."""
        self._sole: asyncio.WriteTransport | None = None
        """The transport of the only stream, if it flows: for the feed, which writes to it itself."""
        self._slow: set[Stream] | frozenset[Stream] = _NOBODY
        """Streams that do not flow. A set of its own only where there is one: few sessions need it."""
        self._written = 0
        """To a stream that flowed all the time: how many frames, times `FRAME`, and bytes. In one number,
        since each is an object to be fetched from afar and replaced with every event."""

    @property
    def frames(self) -> int:
        """Return how many frames were written so far to a stream that flowed all the time."""
        return self._written // FRAME

    @property
    def sent_bytes(self) -> int:
        """Return how many bytes they had."""
        return self._written % FRAME

    @property
    def live(self) -> KeysView[Stream]:
        """Return the streams, in the order they came."""
        return self._transports.keys()

    def add(self, stream: Stream) -> None:
        """Take a stream in."""
        self._transports[stream] = None
        stream.joined(self)
        self.note(stream)

    def remove(self, stream: Stream) -> bool:
        """Let a stream go; return whether it was here."""
        if stream not in self._transports:
            return False
        stream.left()
        del self._transports[stream]
        if stream in self._slow:
            self._speed_up(stream)
        self._look_for_sole()
        return True

    def note(self, stream: Stream) -> None:
        """Note whether a stream flows."""
        if stream.flowing:
            self._transports[stream] = stream.transport
            self._speed_up(stream)
        else:
            self._transports[stream] = None
            if isinstance(self._slow, frozenset):
                self._slow = set()
            self._slow.add(stream)
        self._look_for_sole()

    def push(self, chunk: bytes) -> Sequence[Stream]:
        """Write an event to every stream; return those whose reader is too far behind to get it."""
        self._written += FRAME + len(chunk)
        # Before any write: what stalls or flows by it must not get the event twice.
        slow = list(self._slow)
        for transport in self._transports.values():
            if transport is not None:
                # uvloop raises this for a connection that is gone; the stream's end is on its way then.
                try:
                    transport.write(chunk)
                except RuntimeError:
                    pass
        return [stream for stream in slow if not stream.push(chunk)]

    def _look_for_sole(self) -> None:
        self._sole = next(iter(self._transports.values())) if len(self._transports) == 1 else None

    def _speed_up(self, stream: Stream) -> None:
        if not isinstance(self._slow, frozenset):
            self._slow.discard(stream)
            if not self._slow:
                self._slow = _NOBODY
