"""The processes of a run: started on their cores, and ended by their pid whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

START_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Started:
    """Hold what a run has started and the folder it works in; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sse-bench-"))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            self.end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        cores: Iterable[int],
        env: Mapping[str, str] | None = None,
        piped: bool = False,
        log: str = "output.log",
    ) -> subprocess.Popen[bytes]:
        """Start a process on these cores; what it says goes to a file, or its two pipes to the caller."""

        def prepare() -> None:
            os.sched_setaffinity(0, cores)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                env={**os.environ, **(env or {})},
                cwd=self.folder,
                preexec_fn=prepare,
            )
        self._processes.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End one process: SIGTERM, and SIGKILL if that is not obeyed."""
        if process in self._processes:
            self._processes.remove(process)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def wait_for_port(self, process: subprocess.Popen[bytes], port: int, log: str = "output.log") -> None:
        """Return once the process listens on its port."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise SystemExit(f"{process.args!r} did not start: {(self.folder / log).read_text()[-2000:]}")
