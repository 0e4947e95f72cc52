"""What is asked rather than counted when Prometheus reads the metrics."""

from __future__ import annotations

from collections.abc import Iterator

from sse_gateway.delivery.hub import Hub
from sse_gateway.metrics import Metrics
from sse_gateway.store.push import Push


def gauges(hub: Hub, push: Push, metrics: Metrics) -> Iterator[tuple[str, str, float]]:
    """Yield name, help and value of each."""
    frames, sent, buffered = metrics.ended_stream_frames, metrics.ended_stream_bytes, 0
    for stream in hub.streams:
        frames += stream.events
        sent += stream.sent_bytes
        buffered += stream.buffered_bytes
    yield "streams", "Streams open now", len(hub.streams)
    yield "frames_sent_total", "Frames written to streams", frames
    yield "sent_bytes_total", "Bytes written to streams", sent
    yield "buffered_bytes", "Bytes the streams' readers have not taken yet", buffered
    yield "push_connected", "Whether the push connection is up and proven", float(push.proven)
    yield "push_reconnects_total", "Push connections lost", push.reconnects
    yield "push_last_message_timestamp_seconds", "When anything last arrived", push.last_message_at
    yield "push_probe_failures_total", "Probes that did not come back", push.probe_failures
    yield "subscriptions", "Channels subscribed", push.subscriptions
