"""Turn results into tables with ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from bench.goals import judged
from bench.summary import OURS, Results, Summary, cpu_us, p50_ms, p99_ms

MILLION = 1_000_000


def text(results: Results) -> str:
    """Return everything as Markdown."""
    summary = Summary(results)
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    virtual = " (virtual)" if machine["virtual"] else ""
    parts = [
        "# Results\n",
        "Written by `make bench FULL=1`; nothing here is edited by hand.\n"
        if results["full"]
        else "Written by `make bench`, a quick pass.\n",
        f"{results['when']}, commit {results['commit']}. "
        f"{machine['cpu']}, {machine['cores']} cores{virtual}, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}. {versions}. "
        f"Load before the run: {results['load_before']:.2f}. The measured server has one core to itself; "
        "Redis, publisher, clients and the harness share the other. sse_gateway runs with its hot path "
        "compiled unless a row says otherwise. Medians; in brackets how many runs were good.\n",
    ]
    parts += [
        f"Measured later, {later['when']}, commit {later['commit']}, Python {later['python']}: "
        f"{case['title']}.\n"
        for case in results["cases"].values()
        if (later := case.get("later"))
    ]
    for section in (_goals, _fan_out, _routed, _memory, _connecting, _storm, _rest, _million):
        rows = list(section(summary))
        if len(rows) > 3:
            parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(*cells: object) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return str(value)


def _head(title: str, *columns: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield _row(*columns)
    yield _row(*("---" for _ in columns))


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f} ×" if one is not None and other else "-"


def _fan_out(summary: Summary) -> Iterator[str]:
    yield from _head(
        "Fan-out: 1,000 streams on one session",
        "server", "CPU per event, µs", "to the floor", "core used", "p50, ms", "p99, ms",
    )  # fmt: skip
    floor = summary.median("fan-out", "C floor", cpu_us)
    for name in summary.servers("fan-out"):
        cpu = summary.median("fan-out", name, cpu_us)
        share = summary.median("fan-out", name, lambda run: run["cpu_share"])
        rate = summary.median("fan-out", name, lambda run: run["rate"])
        yield _row(
            f"{name} ({len(summary.runs('fan-out', name))})"
            + (f", at {rate:.0f} events/s" if rate != 50 else ""),
            cpu,
            _ratio(cpu, floor),
            f"{share:.0%}" if share is not None else None,
            summary.median("fan-out", name, p50_ms),
            summary.median("fan-out", name, p99_ms),
        )


def _routed(summary: Summary) -> Iterator[str]:
    yield from _head(
        "Routed: 1,000 sessions of one stream each",
        "server", "events/s", "kept up", "CPU per event, µs", "core used", "in Redis, µs", "p50, ms",
        "p99, ms",
    )  # fmt: skip
    for name in summary.servers("routed"):
        runs = summary.runs("routed", name)
        for rate in sorted({step["rate"] for run in runs for step in run}):
            steps = [step for run in runs for step in run if step["rate"] == rate]
            good = sum(step["on_time"] for step in steps)

            def middle(value: Callable[[Any], float], steps: list[Any] = steps) -> float:
                return statistics.median(value(step) for step in steps)

            yield _row(
                name, f"{rate:,}", f"{good} of {len(runs)}", middle(cpu_us),
                f"{middle(lambda step: step['cpu_share']):.0%}",
                middle(lambda step: step["redis_us"]) or None,
                middle(p50_ms), middle(p99_ms),
            )  # fmt: skip


def _memory(summary: Summary) -> Iterator[str]:
    yield from _head("Idle memory: a session each", "server", "bytes per stream (slope)", "to sse_gateway")
    ours = summary.median("memory", OURS, lambda run: run["bytes_per_stream"])
    for name in summary.servers("memory"):
        slope = summary.median("memory", name, lambda run: run["bytes_per_stream"])
        yield _row(f"{name} ({len(summary.runs('memory', name))})", slope, _ratio(slope, ours))


def _connecting(summary: Summary) -> Iterator[str]:
    yield from _head("9,000 streams connecting", "server", "seconds", "CPU per stream, µs", "p99 of one, ms")
    for name in summary.servers("connecting"):
        yield _row(
            f"{name} ({len(summary.runs('connecting', name))})",
            summary.median("connecting", name, lambda run: run["seconds"]),
            summary.median("connecting", name, cpu_us),
            summary.median("connecting", name, lambda run: run["connecting"]["p99_us"] / 1000),
        )


def _storm(summary: Summary) -> Iterator[str]:
    yield from _head(
        "Reconnect storm: authenticated streams, 5 missed events each",
        "server", "streams", "seconds", "CPU per stream, µs", "script calls per stream",
    )  # fmt: skip
    for name in summary.servers("storm"):
        yield _row(
            f"{name} ({len(summary.runs('storm', name))})",
            summary.median("storm", name, lambda run: run["live"]),
            summary.median("storm", name, lambda run: run["seconds"]),
            summary.median("storm", name, cpu_us),
            summary.median("storm", name, lambda run: run["redis_calls_per_stream"]),
        )


def _rest(summary: Summary) -> Iterator[str]:
    yield from _head("The rest", "what", "runs", "result")
    beats = summary.runs("heartbeat", OURS)
    if beats:
        yield _row(
            f"events at {beats[0]['rate']:,}/s while {beats[0]['live']:,} streams get their heartbeat",
            len(beats),
            f"p50 {summary.median('heartbeat', OURS, p50_ms):.2f} ms, "
            f"p99 {summary.median('heartbeat', OURS, p99_ms):.2f} ms, "
            f"{summary.median('heartbeat', OURS, lambda run: run['heartbeats']):,.0f} heartbeats, "
            f"core used {summary.median('heartbeat', OURS, lambda run: run['cpu_share']):.0%}",
        )
    for rate in (500, 2000):
        runs = summary.runs(f"answers {rate}", OURS)
        if runs:
            key = f"answers {rate}"
            p50 = summary.median(key, OURS, lambda run: run["to_agent"]["p50_us"] / 1000)
            p99 = summary.median(key, OURS, lambda run: run["to_agent"]["p99_us"] / 1000)
            yield _row(
                f"permission answers at {rate:,}/s",
                len(runs),
                f"POST → agent p50 {p50:.2f} ms, p99 {p99:.2f} ms; "
                f"{sum(run['on_time'] for run in runs)} of {len(runs)} runs kept up; "
                f"{summary.median(key, OURS, cpu_us):.0f} µs CPU per answer",
            )
    for count in (1, 2):
        runs = summary.runs(f"processes {count}", OURS)
        if runs:
            yield _row(
                f"routed at 20,000/s through {count} process{'es on one port' if count > 1 else ''}",
                len(runs),
                f"{summary.median(f'processes {count}', OURS, cpu_us):.1f} µs CPU per event in all, p99 "
                f"{summary.median(f'processes {count}', OURS, p99_ms):.2f} ms",
            )
    for run in summary.runs("idle", OURS):
        yield _row(
            f"{run['streams']:,} idle streams on {run['processes']} processes for {run['seconds']:.0f} s",
            1,
            f"{run['live']:,} still open, {run['heartbeats']:,} heartbeats; resident "
            f"{run['rss_bytes'] / 2**20:.0f} MiB (empty {run['empty_rss_bytes'] / 2**20:.0f}), kernel "
            f"{run['kernel_bytes'] / 2**20:.0f} MiB for both ends, {run['cpu_share']:.1%} of a core",
        )


def _million(summary: Summary) -> Iterator[str]:
    """Extrapolate from the slopes that were measured; nobody here has held a million."""
    slope = summary.median("memory", OURS, lambda run: run["bytes_per_stream"])
    storm = summary.median("storm", OURS, cpu_us)
    idle = summary.runs("idle", OURS)
    if slope is None or storm is None or not idle:
        return
    run = idle[0]
    each = run["streams"] / run["processes"]
    processes = math.ceil(MILLION / each)
    empty = run["empty_rss_bytes"] / run["processes"]
    yield from _head(
        "What 1,000,000 idle streams need, from these slopes", "what", "how it comes about", "in all"
    )
    yield _row("processes", f"{each:,.0f} streams each, as here", str(processes))
    yield _row(
        "resident memory",
        f"{slope:,.0f} bytes a stream, {empty / 2**20:.0f} MiB a process",
        f"{(MILLION * slope + processes * empty) / 2**30:.1f} GiB",
    )
    kernel = run["kernel_bytes"] / run["streams"] / 2
    yield _row(
        "the kernel's memory",
        f"{kernel:,.0f} bytes a stream: half of what both ends took here",
        f"{MILLION * kernel / 2**30:.1f} GiB",
    )
    cores = run["cpu_share"] * MILLION / run["streams"]
    yield _row(
        "heartbeats and upkeep",
        f"{run['cpu_share']:.1%} of a core for {run['streams']:,}",
        f"{cores:.1f} cores",
    )
    yield _row(
        "all of them returning, 5 missed events each",
        f"{storm:.0f} µs a stream",
        f"{MILLION * storm / 1e6:,.0f} s of one core",
    )


def _goals(summary: Summary) -> Iterator[str]:
    yield from _head("Goals", "goal", "measured", "reached")
    for goal, measured, reached in judged(summary):
        yield _row(goal, measured, "-" if reached is None else "yes" if reached else "**no**")
