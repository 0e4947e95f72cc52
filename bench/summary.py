"""Medians over the runs of a results file."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

Results = dict[str, Any]
"""As results.json has them: machine, settings, cases → server → runs."""
OURS = "sse_gateway"
SUSTAINED_MS = 10
"""A rate is sustained where a run keeps up and its 99th percentile stays below this: what we are asked,
asked of everybody. A server whose queue grows through the whole run sustains nothing."""


class Summary:
    """Medians over the runs of one results file."""

    def __init__(self, results: Results) -> None:
        self._cases = results["cases"]

    def runs(self, case: str, server: str) -> list[Any]:
        """Return the runs that were good."""
        found: list[Any] = self._cases.get(case, {}).get("runs", {}).get(server, [])
        return found

    def servers(self, case: str) -> list[str]:
        """Return who has at least one good run."""
        return [name for name, runs in self._cases.get(case, {}).get("runs", {}).items() if runs]

    def median(self, case: str, server: str, value: Callable[[Any], float | None]) -> float | None:
        """Return the median of a value over the runs, None where no run has it."""
        values = [found for run in self.runs(case, server) if (found := value(run)) is not None]
        return statistics.median(values) if values else None

    def at_rate(self, server: str, rate: float, value: Callable[[Any], float]) -> float | None:
        """Return the median at one rate of the routed case, of runs that kept up."""

        def find(steps: list[Any]) -> float | None:
            return next((value(step) for step in steps if step["rate"] == rate and step["on_time"]), None)

        runs = self.runs("routed", server)
        kept_up = [found for run in runs if (found := find(run)) is not None]
        # Of a rate that half of the runs or more did not keep up with, nothing is said.
        return statistics.median(kept_up) if len(kept_up) * 2 > len(runs) else None

    def highest_rate(self, server: str) -> float | None:
        """Return the highest rate that is sustained."""
        rates = {step["rate"] for run in self.runs("routed", server) for step in run}
        late = {rate: self.at_rate(server, rate, p99_ms) for rate in rates}
        return max((rate for rate, ms in late.items() if ms is not None and ms < SUSTAINED_MS), default=None)


def cpu_us(run: Any) -> float:
    return float(run["cpu_us"])


def p99_ms(run: Any) -> float:
    return float(run["latency"]["p99_us"]) / 1000


def p50_ms(run: Any) -> float:
    return float(run["latency"]["p50_us"]) / 1000
