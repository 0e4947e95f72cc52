"""Let a test that measures time or memory have the machine to itself, beside the suite's parallel workers.

A readers-and-writer lock over two files that all workers share: ordinary tests hold `turn` shared, a test
marked `alone` holds it exclusively. `gate` keeps it fair: everyone passes it, and who waits for exclusive use
stands in it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the suite's lock for one test, exclusively if it is `alone`."""
    with (folder / "gate.lock").open("w") as gate, (folder / "turn.lock").open("w") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
