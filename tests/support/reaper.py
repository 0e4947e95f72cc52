"""End what the tests started, even when the test run itself is killed: run by its path, standard library
only.

Reads lines `+pid N`, `-pid N`, `+dir PATH`, `-dir PATH` from standard input. When that ends, whatever is
still listed is killed by its pid and removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main() -> None:
    """Keep the lists until the input ends, then act on them."""
    listed: dict[str, set[str]] = {"pid": set(), "dir": set()}
    for line in sys.stdin:
        verb, _, value = line.strip().partition(" ")
        (listed[verb[1:]].add if verb[0] == "+" else listed[verb[1:]].discard)(value)
    for pid in listed["pid"]:
        try:
            os.kill(int(pid), signal.SIGCONT)
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    for folder in listed["dir"]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
