"""Draw the pictures of docs/performance/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.summary import Results, Summary

STYLE = {
    "sse_gateway": ("#0b7285", "o"),
    "sse_gateway, not compiled": ("#15aabf", "."),
    "sse_gateway, in aiohttp": ("#66c2cd", "o"),
    "sse_gateway, plain PUBLISH": ("#1c7ed6", "^"),
    "nchan, memory": ("#e8590c", "s"),
    "nchan, Redis": ("#c92a2a", "s"),
    "nchan, Redis, one nginx": ("#f08c8c", "s"),
    "aiohttp-sse + queue": ("#868e96", "v"),
    "sse-starlette + redis-py": ("#5c940d", "v"),
    "C floor": ("#212529", "x"),
    "C floor, Redis": ("#212529", "x"),
    "Python floor, Redis": ("#74c0fc", "x"),
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the plots that the results have numbers for."""
    import matplotlib as mpl  # noqa: PLC0415  (only a run that draws needs it)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"figure.figsize": (8, 4.5), "figure.dpi": 110, "axes.grid": True, "grid.alpha": 0.3})
    summary = Summary(results)
    written = []
    for name, draw_one in (("throughput", _throughput), ("memory", _memory), ("latency", _latency)):
        figure, axes = plt.subplots()
        if draw_one(summary, axes):
            axes.legend(fontsize=8)
            figure.tight_layout()
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1])
        plt.close(figure)
    return written


def _throughput(summary: Summary, axes: Any) -> bool:
    for name in summary.servers("routed"):
        rates = sorted({step["rate"] for run in summary.runs("routed", name) for step in run})
        points = [
            (rate, p99)
            for rate in rates
            if (p99 := summary.at_rate(name, rate, lambda step: step["latency"]["p99_us"] / 1000)) is not None
        ]
        if points:
            colour, marker = STYLE[name]
            axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=name)
    axes.set(xlabel="events per second, as far as kept up with", ylabel="p99, ms", xscale="log", yscale="log")
    axes.set_title("Routed through Redis: 1,000 sessions of one stream")
    return bool(summary.servers("routed"))


def _memory(summary: Summary, axes: Any) -> bool:
    for name in summary.servers("memory"):
        points = summary.runs("memory", name)[0]["points"]
        colour, marker = STYLE[name]
        axes.plot(
            [count for count, _ in points],
            [size / 2**20 for _, size in points],
            marker=marker,
            color=colour,
            label=name,
        )
    axes.set(xlabel="idle streams", ylabel="resident memory, MiB", ylim=(0, None))
    axes.set_title("Memory of idle streams, a session each")
    return bool(summary.servers("memory"))


def _latency(summary: Summary, axes: Any) -> bool:
    drawn = False
    for name in summary.servers("routed"):
        steps = [step for run in summary.runs("routed", name) for step in run if step["rate"] == 3000]
        steps = [step for step in steps if step["on_time"] and "buckets" in step["latency"]]
        if not steps:
            continue
        count: dict[float, int] = {}
        for step in steps:
            for edge, number in step["latency"]["buckets"]:
                count[edge] = count.get(edge, 0) + number
        total, seen, xs, ys = sum(count.values()), 0, [], []
        for edge, number in sorted(count.items()):
            seen += number
            xs.append(edge / 1000)
            ys.append(max(1 - seen / total, 0.5 / total))
        colour, _ = STYLE[name]
        axes.plot(xs, ys, color=colour, label=name)
        drawn = True
    axes.set(xlabel="latency, ms", ylabel="share of events that took longer", xscale="log", yscale="log")
    axes.set_title("Latency of routed events at 3,000/s")
    return drawn
