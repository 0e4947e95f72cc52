r"""Encode one Server-Sent Event (WHATWG HTML, section 9.2).

Knows nothing of sessions, Redis or HTTP. A frame is encoded once and its bytes are written to every
stream, so both forms a connection may need are kept with it: bare (HTTP/1.0: the body ends with the
connection) and as one chunk of a chunked body (HTTP/1.1).

Line ends: the parser of an EventSource ends a line at \r\n, \r or \n alike and joins `data` lines
with \n, so each of the three starts a new `data` line here and arrives as \n.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")
_NOT_IN_ID = re.compile(r"[\r\n\0]")
_NOT_IN_NAME = re.compile(r"[\r\n]")

LAST_CHUNK = b"0\r\n\r\n"
"""What ends a chunked body properly; without it a proxy reports a broken upstream."""


def encode_event(
    data: bytes, *, id: str | None = None, event: str | None = None, retry: int | None = None
) -> bytes:
    """Return the frame of one event; `retry` is in milliseconds.

    Raises ValueError where the standard has no way to carry a value: a line end or NUL in `id`, a line
    end in `event`, a negative `retry`.
    """
    lines = []
    if event is not None:
        if _NOT_IN_NAME.search(event):
            raise ValueError("an event name cannot contain a line end")
        lines.append(b"event: " + event.encode())
    if id is not None:
        if _NOT_IN_ID.search(id):
            raise ValueError("an event id cannot contain a line end or NUL")
        lines.append(b"id: " + id.encode())
    if retry is not None:
        if retry < 0:
            raise ValueError("retry cannot be negative")
        lines.append(b"retry: %d" % retry)
    if b"\n" in data or b"\r" in data:
        lines.extend(b"data: " + line for line in _LINE_END.split(data))
    else:
        lines.append(b"data: " + data)
    lines.append(b"\n")
    return b"\n".join(lines)


def encode_retry(retry: int) -> bytes:
    """Return a `retry:` line of its own, in milliseconds: it sets the delay and dispatches nothing."""
    return b"retry: %d\n\n" % retry


class Frame:
    """Hold one event, or several in a row, as one chunk of a chunked HTTP/1.1 body.

    That is what nearly every connection writes. The bare body is cut out of it where one is wanted.
    """

    __slots__ = ("chunk", "events")

    def __init__(self, body: bytes, events: int = 1) -> None:
        self.chunk = b"%x\r\n%b\r\n" % (len(body), body)
        self.events = events

    @property
    def body(self) -> bytes:
        """Return the bytes of the event stream itself."""
        return bare(self.chunk)


def bare(chunk: bytes) -> bytes:
    """Return the bytes that a chunk holds."""
    return chunk[chunk.index(b"\n") + 1 : -2]


def durable_chunk(id: bytes, data: bytes) -> bytes:
    """Return the chunk of a durable event, whose id and single-line JSON are known to be clean.

    The hot path: one formatting, no search.
    """
    return b"%x\r\nid: %b\ndata: %b\n\n\r\n" % (_DURABLE_BYTES + len(id) + len(data), id, data)


_DURABLE_BYTES = len(b"id: \ndata: \n\n")


def encode_durable(id: bytes, data: bytes) -> bytes:
    """Return the bytes of a durable event, to stand in a row with others."""
    return b"id: %b\ndata: %b\n\n" % (id, data)
