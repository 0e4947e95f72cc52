"""Processes and folders that belong to the tests, and are gone when they are.

Every process a test starts goes through `start()`: it gets a session of its own (Ctrl-C goes to pytest, which
then tears down in order), is known to the reaper until `end()`, and is named when a test forgets it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.support import leaks

_reaper: subprocess.Popen[str] | None = None
running: dict[int, str] = {}
"""pid → what it is: the processes started and not ended yet."""


def _tell(line: str) -> None:
    global _reaper  # noqa: PLW0603 (one for the whole run)
    if _reaper is None:
        _reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py"))],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(_end_reaper, _reaper)
    assert _reaper.stdin is not None
    _reaper.stdin.write(line + "\n")
    _reaper.stdin.flush()


def _end_reaper(reaper: subprocess.Popen[str]) -> None:
    assert reaper.stdin is not None
    reaper.stdin.close()
    reaper.wait()


def start(
    what: str,
    command: Sequence[str],
    *,
    output: IO[bytes],
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process whose two outputs go to `output`; it reads nothing unless `stdin` is given."""
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    running[process.pid] = what
    _tell(f"+pid {process.pid}")
    return process


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, *, seconds: float = 10.0) -> int:
    """Send the signal, wait, kill what did not obey, and return the exit code."""
    if process.poll() is None:
        # A stopped process takes no SIGTERM.
        os.kill(process.pid, signal.SIGCONT)
        os.kill(process.pid, number)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    forget(process)
    return code


def forget(process: subprocess.Popen[bytes]) -> None:
    """Strike a process that was seen to have ended off the list."""
    if running.pop(process.pid, None) is not None:
        _tell(f"-pid {process.pid}")


def folder(prefix: str) -> Path:
    """Make a folder that ends with the run; pytest's `tmp_path` outlives it and is too long for sockets."""
    path = Path(tempfile.mkdtemp(prefix=f"sse-test-{prefix}-"))
    _tell(f"+dir {path}")
    return path


def remove(path: Path) -> None:
    """Remove a folder made by `folder()`, having searched the logs in it for tokens."""
    leaks.search(path)
    shutil.rmtree(path, ignore_errors=True)
    _tell(f"-dir {path}")
