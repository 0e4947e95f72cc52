"""Tell which machine this is, which core does what, and what a process has used (Linux's /proc)."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = frozenset(CORES[:1])
"""Where the measured process runs, alone."""
OTHER_CORES = frozenset(CORES[1:] or CORES)
"""Where everything else runs: Redis, publisher, clients, this harness."""
_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict[str, object]:
    """Return what a reader needs to judge the numbers."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "?")
    hypervisor = any("hypervisor" in line for line in cpuinfo if line.startswith("flags"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(CORES),
        "virtual": hypervisor,
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        # How an interpreter was built is a fifth of its own part; a distribution's is what most people have.
        "python": platform.python_version() + (" (the distribution's)" if sys.base_prefix == "/usr" else ""),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    }


def load_average() -> float:
    """Return how many processes wanted to run in the last minute, before we begin."""
    return os.getloadavg()[0]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time, user and system, of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of these processes."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total * 1024


def children(pid: int) -> list[int]:
    """Return the process and those it has started (nginx: master and worker)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in found)]


def slab_bytes() -> int:
    """Return what the kernel holds in small objects: the sockets of both ends, descriptors, epoll entries."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:")) * 1024
