"""Say of each goal whether it was reached, from the results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.summary import OURS, Summary, cpu_us, p99_ms

Judgement = tuple[str, str, bool | None]
"""The goal, what was measured, and whether that reaches it (None: this machine cannot tell)."""
MOST_STREAM_BYTES = 4096
MOST_STORM_SECONDS = 4.0


def judged(summary: Summary) -> Iterator[Judgement]:
    """Yield every goal that the results have numbers for."""
    for goal in (_fan_out, _routed, _memory, _storm, _heartbeat, _answers, _processes, _idle):
        yield from goal(summary)


def _judge(goal: str, measured: float | None, limit: float | None, form: str) -> Judgement:
    """Compare; a rate that was not kept up with has no value, and does not reach its goal."""
    if measured is None:
        return goal, "not kept up", False
    if limit is None:
        return goal, "nothing to compare with", None
    return goal, form.format(measured, limit), measured <= limit


def _fan_out(summary: Summary) -> Iterator[Judgement]:
    ours, floor = (summary.median("fan-out", name, cpu_us) for name in (OURS, "C floor"))
    if ours is None:
        return
    ratio = ours / floor if floor else None
    yield _judge("1. fan-out: at most 1.25 × the C floor's CPU an event", ratio, 1.25, "{0:.2f} ×")
    for peer in ("nchan, memory", "nchan, Redis"):
        theirs = summary.median("fan-out", peer, cpu_us)
        yield _judge(f"1. fan-out: less than {peer}", ours, theirs, "{0:.1f} against {1:.1f} µs")


def _routed(summary: Summary) -> Iterator[Judgement]:
    if not summary.runs("routed", OURS):
        return
    late = summary.at_rate(OURS, 25_000, p99_ms)
    yield _judge("2. routed, durable, 25,000/s: p99 below 10 ms", late, 10, "{0:.2f} ms")
    yield from _against_nchan(summary)
    plain = summary.highest_rate("sse_gateway, plain PUBLISH") or 0
    yield "2. plain PUBLISH: 40,000 events/s", f"{plain:,.0f}/s sustained", plain >= 40_000


def _against_nchan(summary: Summary) -> Iterator[Judgement]:
    """Compare with nchan as its documentation sets it up: the nginx that delivers is published to.

    Its highest rate is the highest of those it sustains, at a latency that the goals ask of the gateway.
    """
    peer = "nchan, Redis, one nginx"
    if peer not in summary.servers("routed"):
        return
    top = summary.highest_rate(peer)
    cost = summary.at_rate(peer, top, cpu_us) if top else None
    yield _judge(
        "2. routed: CPU an event at 20,000/s at most a quarter of nchan's at the highest rate it sustains, "
        f"{top or 0:,.0f}/s",
        summary.at_rate(OURS, 20_000, cpu_us),
        cost / 4 if cost else None,
        "{0:.1f} µs; a quarter is {1:.1f} µs" + _floor(summary, "Python floor, Redis", 20_000, cpu_us, "µs"),
    )
    late = summary.at_rate(peer, 3000, p99_ms)
    yield _judge(
        "2. routed: p99 at 3,000/s at most half of nchan's",
        summary.at_rate(OURS, 3000, p99_ms),
        late / 2 if late else None,
        "{0:.2f} ms; half is {1:.2f} ms" + _floor(summary, "C floor, Redis", 3000, p99_ms, "ms"),
    )


def _floor(summary: Summary, name: str, rate: float, value: Callable[[Any], float], unit: str) -> str:
    """Say what the same costs a program that does nothing but pass events on."""
    least = summary.at_rate(name, rate, value)
    return f"; the {name.partition(',')[0]} has {least:.{2 if unit == 'ms' else 1}f} {unit}" if least else ""


def _memory(summary: Summary) -> Iterator[Judgement]:
    slope = summary.median("memory", OURS, lambda run: run["bytes_per_stream"])
    if slope is not None:
        yield _judge("3. idle memory: at most 4 kB a stream", slope, MOST_STREAM_BYTES, "{0:,.0f} bytes")


def _storm(summary: Summary) -> Iterator[Judgement]:
    if summary.median("storm", OURS, lambda run: run["live"]) == 10_000:
        seconds = summary.median("storm", OURS, lambda run: run["seconds"])
        yield _judge("4. 10,000 streams return in at most 4 s", seconds, MOST_STORM_SECONDS, "{0:.2f} s")


def _heartbeat(summary: Summary) -> Iterator[Judgement]:
    late = summary.median("heartbeat", OURS, p99_ms)
    if late is not None:
        goal = "5. p99 of events during the heartbeats of 19,000 streams below 20 ms"
        yield _judge(goal, late, 20, "{0:.2f} ms")


def _answers(summary: Summary) -> Iterator[Judgement]:
    kept = [run["on_time"] for run in summary.runs("answers 2000", OURS)]
    if kept:
        yield "6. 2,000 permission answers/s", f"{sum(kept)} of {len(kept)} runs", sum(kept) * 2 > len(kept)
    late = summary.median("answers 500", OURS, lambda run: run["to_agent"]["p99_us"] / 1000)
    if late is not None:
        yield _judge("6. POST → agent at 500/s: p99 below 20 ms", late, 20, "{0:.2f} ms")


def _processes(summary: Summary) -> Iterator[Judgement]:
    one, two = (summary.median(f"processes {count}", OURS, cpu_us) for count in (1, 2))
    if one and two:
        yield (
            "7. two processes: at least 1.7 × the routed throughput of one where cores allow it",
            f"{2 * one / two:.2f} × by the CPU an event costs; these cores do not allow to show it",
            None,
        )


def _idle(summary: Summary) -> Iterator[Judgement]:
    for run in summary.runs("idle", OURS):
        yield (
            "8. as many idle streams as descriptors allow, none dropped",
            f"{run['live']:,} of {run['streams']:,} after {run['seconds']:.0f} s",
            run["live"] == run["streams"],
        )
