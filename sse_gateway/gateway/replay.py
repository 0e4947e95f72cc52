"""Turn what was read from a session's history into the frames one stream gets.

Pure, and made once for all streams that share a read: a thousand streams that resume from the same
cursor get the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sse_gateway.core import notices
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.events import event_id
from sse_gateway.core.wire import Frame, encode_durable, encode_event
from sse_gateway.store.history import Reading


@dataclass(frozen=True, slots=True)
class Replay:
    """Frames that bring a stream to `position`."""

    parts: Sequence[Frame]
    """What to write: one frame that holds all of them in a row, or nothing."""
    position: Cursor
    replayed: int
    """How many durable events are among them."""
    reset: bool
    """They begin with a `stream_reset`: what the stream had before is not continued."""
    more: bool
    """The history goes on behind `position`."""


class Gap(Exception):
    """The entries read do not follow each other, so the history cannot be continued from."""


def make_replay(reading: Reading, requested: str | None, *, resumed: bool) -> Replay:
    """Return what to write for a read with the cursor `requested` (None: without one).

    `resumed` says that the stream has had its open requests before, on this connection, so that only
    what is new is written. Raises Gap when contiguity cannot be proven.
    """
    latest = Cursor(reading.epoch, reading.top)
    parts: list[bytes] = []
    reset = reading.verdict not in ("ok", "none")
    if reset:
        oldest = Cursor(reading.epoch, reading.oldest) if 0 < reading.oldest <= reading.top else None
        frame = notices.stream_reset(reading.verdict, requested=requested, oldest=oldest, latest=latest)
        parts.append(frame.body)
    if reset or not resumed:
        # What the replay contains comes in it, on a later page perhaps.
        replayed_requests = {entry.request_id for entry in reading.entries}
        page_end = reading.entries[-1].seq if reading.more else reading.top
        parts.extend(
            encode_event(pending.data)
            for pending in reading.pending
            if pending.request_id not in replayed_requests and not page_end < pending.seq <= reading.top
        )
        parts.extend(encode_event(data) for data in reading.state)
    parts.extend(_entries(reading, requested))
    position = Cursor(reading.epoch, reading.entries[-1].seq) if reading.entries else latest
    return Replay(
        parts=(Frame(b"".join(parts), len(parts)),) if parts else (),
        position=position,
        replayed=len(reading.entries),
        reset=reset,
        more=bool(reading.more),
    )


def _entries(reading: Reading, requested: str | None) -> list[bytes]:
    """Return the frames of the entries, having proven that none is missing between cursor and top."""
    after = Cursor.parse(requested) if requested and reading.verdict == "ok" else None
    last = after.seq if after else None
    still_open = {pending.request_id for pending in reading.pending}
    frames = []
    for entry in reading.entries:
        if last is not None and entry.seq != last + 1:
            raise Gap
        last = entry.seq
        id = event_id(entry.data)
        if entry.request_id and entry.request_id not in still_open:
            frames.append(notices.settled_request(entry.data, id=id.decode()).body)
        else:
            frames.append(encode_durable(id, entry.data))
    if last is not None and last != reading.top and not reading.more:
        raise Gap
    return frames
