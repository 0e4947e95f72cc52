"""Lines and counts that outlive what they are about: streams opened and closed, requests settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from sse_gateway.core.cursor import Cursor
from sse_gateway.delivery.stream import Stream
from sse_gateway.metrics import Metrics

logger = logging.getLogger(__name__)

OUTCOMES = ("approved", "denied", "expired", "cancelled")
SOURCES = ("human", "timeout", "cancel")
_AUDITED = ("request_id", "outcome", "decided_by", "source", "reason", "option_id", "decided_at")


def record_opened(stream: Stream, *, position: Cursor, streams: int, metrics: Metrics) -> None:
    """Note that a stream has begun; `streams` are now open."""
    metrics.streams_opened.inc()
    logger.info(
        "SSE stream opened",
        extra={
            "fields": {
                "session": stream.session_id,
                "user": stream.user,
                "streams": streams,
                "cursor": str(position),
                "http_request_id": stream.http_request_id,
            }
        },
    )


def record_closed(stream: Stream, metrics: Metrics) -> None:
    """Note that a stream is over, and why."""
    seconds = time.monotonic() - stream.opened_at
    metrics.ended_stream_frames += stream.events
    metrics.ended_stream_bytes += stream.sent_bytes
    metrics.streams_closed.labels(stream.ended_because).inc()
    metrics.stream_seconds.observe(seconds)
    logger.info(
        "SSE stream closed",
        extra={
            "fields": {
                "session": stream.session_id,
                "user": stream.user,
                "reason": stream.ended_because,
                "seconds": round(seconds, 3),
                "events": stream.events,
                "bytes": stream.sent_bytes,
                "http_request_id": stream.http_request_id,
            }
        },
    )


def record_decision(session_id: str, decision: Mapping[str, Any], metrics: Metrics) -> None:
    """Write the audit line of a settled request: who decided what, never the parameters."""
    outcome, source = decision.get("outcome"), decision.get("source")
    if outcome not in OUTCOMES or source not in SOURCES:
        # Nobody but a forger says so, and labels are made of what is said here.
        return
    metrics.permission_decisions.labels(outcome, source).inc()
    logger.info(
        "permission_decided",
        extra={"fields": {"session": session_id, **{name: decision.get(name) for name in _AUDITED}}},
    )
