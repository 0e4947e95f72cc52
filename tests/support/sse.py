"""A strict, independent reader of event streams: the parsing rules of the HTML standard, and nothing of ours.

`EventParser` follows "Interpreting an event stream" (HTML standard, 9.2.6) line by line; what a lenient
client would pass over in silence (an unknown field, a bad `retry`, bytes that are not UTF-8) it also lists in
`complaints`.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event."""

    type: str
    """The event's name; "message" when the stream named none."""
    data: str
    last_event_id: str
    """What `event.lastEventId` is in a browser: the last `id:` of the stream so far."""
    id: str | None
    """The `id:` of this very event, None if it had none."""

    @property
    def json(self) -> Any:
        """The data, as the JSON it should be."""
        return json.loads(self.data)


class EventParser:
    """Feed bytes as they come; get the events they complete."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        """The reconnection time last set, in milliseconds."""
        self.comments: list[str] = []
        self.complaints: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._started = False
        self._after_cr = False
        self._type = ""
        self._data: list[str] = []
        self._id_buffer = ""
        self._own_id: str | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes, return the events they complete."""
        text = self._decoder.decode(data)
        if "\ufffd" in text:
            self.complaints.append("bytes that are not UTF-8 (or a replacement character)")
        if text and not self._started:
            self._started = True
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            # The CR ended the line already; its LF may come in the next chunk.
            text = text.removeprefix("\n")
            self._after_cr = False
        text = self._rest + text
        events = []
        begin = 0
        while True:
            end = self._line_end(text, begin)
            if end < 0:
                break
            event = self._line(text[begin:end])
            if event is not None:
                events.append(event)
            if text[end] == "\r":
                if end + 1 == len(text):
                    self._after_cr = True
                elif text[end + 1] == "\n":
                    end += 1
            begin = end + 1
        self._rest = text[begin:]
        return events

    @property
    def unfinished(self) -> bool:
        """Whether an event was begun and not ended; at the end of a stream it is lost."""
        return bool(self._rest or self._data or self._type or self._own_id is not None)

    @staticmethod
    def _line_end(text: str, begin: int) -> int:
        ends = [place for place in (text.find("\r", begin), text.find("\n", begin)) if place >= 0]
        return min(ends, default=-1)

    def _line(self, line: str) -> Event | None:
        if line == "":
            return self._dispatch()
        if line.startswith(":"):
            self.comments.append(line[1:])
            return None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id":
                if "\0" in value:
                    self.complaints.append("an id with NUL")
                else:
                    self._id_buffer = self._own_id = value
            case "retry":
                if value.isascii() and value.isdigit():
                    self.retry = int(value)
                else:
                    self.complaints.append(f"a retry that is no number: {value!r}")
            case _:
                self.complaints.append(f"an unknown field: {field!r}")
        return None

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id_buffer
        name, data, own_id = self._type, self._data, self._own_id
        self._type, self._data, self._own_id = "", [], None
        if not data:
            return None
        return Event(name or "message", "\n".join(data), self.last_event_id, own_id)
