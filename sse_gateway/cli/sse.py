"""Parse a Server-Sent Events stream, fed in pieces of any size.

By the WHATWG specification, section "Interpreting an event stream". Knows nothing of HTTP or of our own
events.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One dispatched event; `id` is the last one seen up to it, "" when there was none."""

    event: str
    data: str
    id: str


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, {} when there is none: a foreign event must not end the command."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class EventParser:
    """Turn bytes into events; keeps `last_id` and `retry_ms` as a client has to remember them."""

    def __init__(self, *, last_id: str = "", max_line_chars: int = 4 * 1024 * 1024) -> None:
        """Start a connection; a line longer than the bound raises ValueError, as no gateway sends one."""
        self.last_id = last_id
        self.retry_ms: int | None = None
        self._max_line_chars = max_line_chars
        # The decoder drops a byte order mark at the start and replaces what is not UTF-8.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        # The beginning of a line whose end has not come yet.
        self._rest = ""
        # Whether the last character fed was CR: an LF that follows belongs to the same line end.
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id = last_id

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that are complete with this piece."""
        text = self._decoder.decode(chunk)
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
            self._after_cr = False
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        *lines, self._rest = (self._rest + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        if len(self._rest) > self._max_line_chars:
            raise ValueError("a line of the stream is far too long")
        events = [self._take(line) for line in lines]
        return [event for event in events if event is not None]

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, colon, value = line.partition(":")
        if colon and not field:
            return None
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_id = self._id
        event, data = self._event, self._data
        self._event, self._data = "", []
        if not data:
            return None
        return ServerEvent(event or "message", "\n".join(data), self.last_id)
