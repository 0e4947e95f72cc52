"""What the gateway counts, under the names of DESIGN section 5.

What changes with every event is a plain integer, read when Prometheus asks; a labelled counter would
cost more than writing the event. No label ever holds a session or a user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sse_gateway import __version__

_PREFIX = "sse_gateway_"
_DURATIONS = (1, 10, 60, 300, 900, 3600, 14400, 86400)
_LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_MOST_READ_BYTES = 64 * 1024
_DECISIONS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 3600)


class Metrics:
    """Hold one gateway's metrics in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.durable_received = 0
        self.plain_received = 0
        self.malformed_received = 0
        self.ended_stream_frames = 0
        """Frames and bytes of streams that are over; open ones are asked when read."""
        self.ended_stream_bytes = 0

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self.registry)

        self.streams_opened = counter("streams_opened", "Streams opened")
        self.streams_rejected = counter("streams_rejected", "Streams refused, by error code", "reason")
        self.streams_closed = counter("streams_closed", "Streams closed, by reason", "reason")
        self.stream_seconds = histogram("stream_duration_seconds", "How long streams were open", _DURATIONS)
        self.delivery_lag = histogram(
            "delivery_lag_seconds",
            "From publication in Redis to the write to the streams, sampled",
            _LATENCIES,
        )
        self.catchups = counter("catchups", "Sessions caught up from history, by reason", "reason")
        self.resets = counter("resets", "Streams that could not be continued, by reason", "reason")
        self.redis_seconds = histogram(
            "redis_command_duration_seconds", "Round trips to Redis, by command", _LATENCIES, "command"
        )
        self.permission_requests = counter("permission_requests", "Permission requests seen")
        self.permission_decisions = counter(
            "permission_decisions", "Permission requests settled", "outcome", "source"
        )
        self.permission_seconds = histogram(
            "permission_decision_seconds", "From the question to a human's decision", _DECISIONS
        )
        self.auth_failures = counter("auth_failures", "Callers refused, by error code", "code")
        self.requests_refused = counter("requests_refused", "Requests refused, by error code", "code")
        self.connections_cut = counter("connections_cut", "Connections cut for their conduct", "reason")

    def observe(self, collect: Callable[[], Iterator[tuple[str, str, float]]]) -> None:
        """Add gauges read at each scrape: `collect` yields name without prefix, help and value."""
        self.registry.register(_Collected(self, collect))

    def observe_command(self, command: str, seconds: float) -> None:
        """Record one round trip to Redis."""
        self.redis_seconds.labels(command).observe(seconds)

    def observe_decision(self, asked_ms: int, decided_at: str) -> None:
        """Record how long a human took; both times are Redis's own."""
        self.permission_seconds.observe(
            max(0.0, datetime.fromisoformat(decided_at).timestamp() - asked_ms / 1000)
        )

    def observe_lag(self, payload: bytes) -> None:
        """Record how long ago an event says it was published; clocks that disagree count as nothing.

        One that is long to read is not asked.
        """
        if len(payload) > _MOST_READ_BYTES:
            return
        try:
            published = datetime.fromisoformat(json.loads(payload)["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        self.delivery_lag.observe(max(0.0, time.time() - published))

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Collected(Collector):
    """Read, at each scrape, what is not counted event by event."""

    def __init__(self, metrics: Metrics, collect: Callable[[], Iterator[tuple[str, str, float]]]) -> None:
        self._metrics = metrics
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        received = CounterMetricFamily(
            _PREFIX + "events_received", "Messages from the push connection", labels=["kind"]
        )
        received.add_metric(["durable"], self._metrics.durable_received)
        received.add_metric(["plain"], self._metrics.plain_received)
        received.add_metric(["malformed"], self._metrics.malformed_received)
        yield received
        build = GaugeMetricFamily(_PREFIX + "build_info", "The running version", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        for name, text, value in self._collect():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(_PREFIX + name, text, value=value)
