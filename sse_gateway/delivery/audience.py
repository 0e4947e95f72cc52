"""The live streams of one session: one frame written to all of them, with as little as possible for each.

A thousand streams on one session mean a thousand writes for each event, and beside the kernel's part every
look at one more object shows. So of a stream that flows (everything it was sent is on its way, and its
carrier will say when that ends) only the transport is touched, and what it is sent is counted here, once for
all. The others are asked one by one whether their reader keeps up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sse_gateway.core.wire import Frame
from sse_gateway.delivery.stream import Stream

_NOBODY: frozenset[Stream] = frozenset()


class Audience:
    """Hold live streams, and write to them."""

    __slots__ = ("_slow", "_transports", "frames", "sent_bytes")

    def __init__(self) -> None:
        self._transports: dict[Stream, asyncio.WriteTransport | None] = {}
        """All streams, in the order they came; None for the slow ones."""
        self._slow: set[Stream] | frozenset[Stream] = _NOBODY
        """Streams that do not flow. A set of its own only where there is one: few sessions need it."""
        self.frames = 0
        self.sent_bytes = 0
        """Written so far to a stream that flowed all the time."""

    def __len__(self) -> int:
        return len(self._transports)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._transports)

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

    def push(self, frame: Frame) -> list[Stream]:
        """Write a frame to every stream; return those whose reader is too far behind to get it."""
        # Before any write: what stalls or flows by it must not get the frame twice.
        slow = list(self._slow)
        chunk = frame.chunk
        self.frames += frame.events
        self.sent_bytes += len(chunk)
        for transport in self._transports.values():
            if transport is not None:
                try:
                    transport.write(chunk)
                except RuntimeError:
                    # uvloop says so of a connection that is gone; the stream's end is on its way.
                    pass
        return [stream for stream in slow if not stream.push(frame)]

    def _speed_up(self, stream: Stream) -> None:
        if not isinstance(self._slow, frozenset):
            self._slow.discard(stream)
            if not self._slow:
                self._slow = _NOBODY
