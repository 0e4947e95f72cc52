"""What the gateway itself says to a stream (DESIGN section 2): named events and the heartbeat.

An `onmessage` client never sees a named event, so all of these can be added to without breaking one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.events import dumps, now_iso
from sse_gateway.core.wire import Frame, encode_event

_SOON_MS = (500, 2_000)
_LATER_MS = (5_000, 15_000)
_USUAL_MS = (2_500, 4_500)

CLOSE_REASONS: Mapping[str, tuple[bool, tuple[int, int]]] = {
    "shutdown": (True, _SOON_MS),
    "max_age": (True, _SOON_MS),
    "slow_client": (True, _USUAL_MS),
    "unavailable": (True, _LATER_MS),
    "overloaded": (True, _LATER_MS),
    "token_expired": (False, _LATER_MS),
    "superseded": (False, _LATER_MS),
    "session_ended": (False, _USUAL_MS),
}
"""Reason → whether to reconnect, and the range of the jittered delay in milliseconds.

A native `EventSource` obeys the delay alone and always reconnects; what stops it then is the next
answer: 401 for the expired token, 204 for the ended session, 429 for pages that replace each other.
"""


def first_retry_ms() -> int:
    """Return the delay a stream starts with, jittered so that a fleet does not return as one."""
    return random.randint(*_USUAL_MS)


def closing(reason: str) -> Frame:
    """Return the last frame of a stream."""
    reconnect, (low, high) = CLOSE_REASONS[reason]
    retry_ms = random.randint(low, high)
    data = {"reason": reason, "reconnect": reconnect, "retry_ms": retry_ms}
    return Frame(encode_event(dumps(data), event="closing", retry=retry_ms))


def ready(
    session_id: str,
    cursor: Cursor,
    *,
    gateway_id: str,
    heartbeat_seconds: float,
    replayed: int,
    complete: bool,
) -> Frame:
    """Return the frame that says: you are live, and this is the position you have reached.

    It carries `id:`, so that a client has something to resume from before the first event.
    `complete` is false when a `stream_reset` was needed to get here.
    """
    data = {
        "session_id": session_id,
        "gateway_id": gateway_id,
        "cursor": str(cursor),
        "heartbeat_seconds": heartbeat_seconds,
        "replayed": replayed,
        "complete": complete,
        "server_time": now_iso(),
    }
    return Frame(encode_event(dumps(data), event="ready", id=str(cursor)))


def stream_reset(reason: str, *, requested: str | None, oldest: Cursor | None, latest: Cursor) -> Frame:
    """Return the frame that says: what you have is not continued by what follows."""
    data = {
        "reason": reason,
        "requested": requested,
        "oldest": str(oldest) if oldest else None,
        "latest": str(latest),
    }
    return Frame(encode_event(dumps(data), event="stream_reset"))


def settled_request(data: bytes, *, id: str) -> Frame:
    """Return a replayed request that is no longer open: same place, same id, never a dialog."""
    return Frame(encode_event(data, event="settled_request", id=id))


def skipped(transient: int) -> Frame:
    """Tell how many events without an id the stream did not get while it was behind."""
    return Frame(encode_event(dumps({"transient": transient}), event="skipped"))


def token_expiring(expires_at: str) -> Frame:
    """Warn that the stream will be closed at `expires_at`."""
    return Frame(encode_event(dumps({"expires_at": expires_at}), event="token_expiring"))


def permission_expiring(request_id: str, expires_at: str) -> Frame:
    """Warn that an open request is about to expire."""
    data: dict[str, Any] = {"request_id": request_id, "expires_at": expires_at}
    return Frame(encode_event(dumps(data), event="permission_expiring"))


def heartbeat() -> Frame:
    """Return the heartbeat, an event on the default `message` with neither id nor session."""
    return Frame(encode_event(dumps({"type": "heartbeat", "data": {}, "timestamp": now_iso()})))
