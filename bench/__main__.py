"""Run the benchmark: `make bench`, `make bench FULL=1`, `make bench ARGS='--only fan-out --only storm'`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import machine, plots, report
from bench.plan import Case, plan
from bench.programs import Failed, compile_all
from bench.servers import COMPILED, NCHAN_MODULE, ROOT, Nchan, Programs, Server
from bench.started import Started
from bench.summary import Results
from sse_gateway import __version__
from sse_gateway.store.embedded import server_binary

FULL_OUTPUT = ROOT / "docs" / "performance"
QUICK_OUTPUT = ROOT / "build" / "bench"


def main() -> None:
    """Run what was asked for, show the table, and write table, numbers and plots."""
    asked = _arguments()
    if sys.platform != "linux":
        raise SystemExit("The benchmark reads /proc and pins to cores, so it needs Linux.")
    if not COMPILED.exists():
        raise SystemExit(
            f"There is no compiled gateway in {COMPILED}: start this by `make bench`, which puts it there."
        )
    output: Path = asked.output or (FULL_OUTPUT if asked.full else QUICK_OUTPUT)
    output.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, machine.OTHER_CORES)
    if len(machine.CORES) < 2:
        print("warning: with one core, servers and clients disturb each other", file=sys.stderr)
    results = header = _header(full=asked.full)
    if asked.add and (output / "results.json").exists():
        results = json.loads((output / "results.json").read_text())
    cases = [case for case in plan(full=asked.full) if not asked.only or case.key.split()[0] in asked.only]
    with Started() as started:
        programs = Programs(started, compile_all(started.folder))
        for number, case in enumerate(cases, 1):
            _say(f"[{number}/{len(cases)}] {case.title}")
            found = {"title": case.title, **_run(case, programs, asked.repeats)}
            if results is not header:
                found["later"] = {
                    "when": header["when"],
                    "commit": header["commit"],
                    "python": header["machine"]["python"],
                }
            results["cases"][case.key] = found
            _write(results, output)
    print((output / "results.md").read_text())
    _say(f"written to {output}")
    failed = [fault for case in results["cases"].values() for fault in case["failed"]]
    ours = [fault for fault in failed if fault.startswith("sse_gateway")]
    for fault in failed:
        print(f"not counted: {fault}", file=sys.stderr)
    sys.exit(1 if ours else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="all repetitions and sizes (takes about 45 minutes)"
    )
    parser.add_argument(
        "--only", action="append", help="one case by the first word of its key; may be repeated"
    )
    parser.add_argument("--add", action="store_true", help="add to the results that are there")
    parser.add_argument("--repeats", type=int, help="instead of the plan's number")
    parser.add_argument("--output", type=Path, help="folder for the results")
    return parser.parse_args()


def _run(case: Case, programs: Programs, repeats: int | None) -> dict[str, Any]:
    """Run a case for all its servers, round by round."""
    runs: dict[str, list[Any]] = {kind.name: [] for kind in case.runs}
    failed = []
    rounds = repeats or case.repeats
    for turn in range(rounds):
        for kind, run in case.runs.items():
            if _missing(kind):
                continue
            began = time.monotonic()
            try:
                runs[kind.name].append(run(kind, programs))
                outcome = _short(runs[kind.name][-1])
            except Failed as fault:
                outcome = f"FAILED: {fault}"
                failed.append(f"{kind.name}, {case.title}: {fault}")
            took = time.monotonic() - began
            _say(f"  {turn + 1}/{rounds}  {kind.name:28} {outcome}  ({took:.0f} s)")
    return {"runs": runs, "failed": failed}


def _missing(kind: type[Server]) -> bool:
    """Tell whether a peer is not installed on this machine."""
    return issubclass(kind, Nchan) and not (NCHAN_MODULE.exists() and shutil.which("nginx"))


def _short(result: Any) -> str:
    last = result[-1] if isinstance(result, list) else result
    names = ("rate", "on_time", "seconds", "cpu_us", "cpu_share", "redis_us", "bytes_per_stream", "live")
    shown = [f"{name} {_brief(last[name])}" for name in names if name in last]
    shown += [
        f"p99 {last[name]['p99_us'] / 1000:.2f} ms"
        for name in ("latency", "to_agent")
        if last.get(name, {}).get("count")
    ]
    return ", ".join(shown)


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _header(*, full: bool) -> Results:
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "full": full,
        "machine": machine.describe(),
        "load_before": machine.load_average(),
        "versions": {
            "sse_gateway": __version__,
            "server": _output(str(server_binary()), "--version").split("sha=")[0].strip(),
            "nginx": _output("nginx", "-v").rpartition("/")[2],
            **{
                name: version(name)
                for name in ("uvloop", "mypy", "aiohttp", "aiohttp-sse", "sse-starlette", "redis")
            },
        },
        "cases": {},
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return (done.stdout or done.stderr).strip()


def _write(results: Results, output: Path) -> None:
    _thin(results)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "results.md").write_text(report.text(results))
    plots.draw(results, output)


def _thin(results: Results) -> None:
    """Keep the histograms that are drawn, of one run each, and drop the others: they are long."""
    for key, case in results["cases"].items():
        for runs in case["runs"].values():
            for turn, run in enumerate(runs):
                for step in run if isinstance(run, list) else [run]:
                    keep = key == "routed" and step["rate"] == 3000 and turn == 0
                    for value in step.values():
                        if isinstance(value, dict) and not keep:
                            value.pop("buckets", None)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


if __name__ == "__main__":
    main()
