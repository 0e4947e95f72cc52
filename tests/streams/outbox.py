"""A stream on a transport that is only a buffer, so that a test decides what its reader takes."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from sse_gateway.core.events import dumps
from sse_gateway.delivery.stream import Stream

EPOCH = "0123456789"
OTHER_EPOCH = "abcdef0123"


class Buffer:
    """The part of `asyncio.WriteTransport` that a stream uses; takes nothing until `take`."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.closing = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))
        self.unsent += len(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = self.aborted = True

    def take(self, count: int | None = None) -> None:
        """Let the reader take bytes, all of them by default."""
        self.unsent = 0 if count is None else max(0, self.unsent - count)


class Outbox:
    """A stream, its buffer, and what became of it."""

    def __init__(self, *, reads: bool = True, chunked: bool = False, **options: Any) -> None:
        self.buffer = _Eager() if reads else Buffer()
        self.finished = 0
        self.ended: list[str | None] = []
        self.stream = Stream(
            cast(asyncio.WriteTransport, self.buffer),
            chunked=chunked,
            carrier=self,
            on_ended=lambda stream: self.ended.append(stream.ended_because),
            session_id="s",
            user="u",
            viewer=True,
            **options,
        )

    def finish(self) -> None:
        self.finished += 1

    @property
    def text(self) -> bytes:
        return b"".join(self.buffer.written)

    @property
    def seqs(self) -> list[int]:
        """The numbers of the durable events written, in the order written."""
        return [int(seq) for seq in re.findall(rb"^id: [0-9a-f]{10}-([0-9]+)$", self.text, re.MULTILINE)]

    @property
    def names(self) -> list[str]:
        """The names of the named events written."""
        return [name.decode() for name in re.findall(rb"^event: (.+)$", self.text, re.MULTILINE)]


class _Eager(Buffer):
    """A reader that takes everything at once."""

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))


def event(seq: int, *, epoch: str = EPOCH, kind: str = "note", **data: Any) -> bytes:
    """Return a durable event as the script publishes it."""
    return dumps({"id": f"{epoch}-{seq}", "session_id": "s", "type": kind, "data": data})
