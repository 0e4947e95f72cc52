"""Keep one embedded server for as long as the parent lives.

A program, run by its path, of the standard library only.

`embedded.py` starts it with a pipe as its standard input and never writes to it: the pipe's end is the one
notice of a parent's death that no parent can forget to give, SIGKILL included, on Linux and macOS alike. This
program makes the folder, so that a parent killed a moment too early leaves none behind; starts the server on
a free port; prints one JSON line, `{"port", "pid", "folder"}` or `{"error"}`; and when the pipe ends, or
SIGTERM comes, stops the server and removes the folder. It runs in a session of its own: Ctrl-C in a terminal
reaches the gateway, which still needs the server to drain, and not the server.

Arguments: the server's binary, then the port asked for (0: any), then options for the server.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

START_SECONDS = 10.0
STOP_SECONDS = 3.0
PORT_ATTEMPTS = 5
PR_SET_PDEATHSIG = 1


def main(binary: str, port: int, options: list[str]) -> int:
    """Run the server until the parent's end of the pipe closes, and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="sse-gateway-server-"))
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    server: subprocess.Popen[bytes] | None = None
    try:
        server, port = _start(binary, port, options, folder)
        _say({"port": port, "pid": server.pid, "folder": str(folder)})
        while server.poll() is None:
            ready, _, _ = select.select([0, wake_read], [], [])
            if 0 in ready:
                return 0
            if any(number != signal.SIGCHLD for number in os.read(wake_read, 64)):
                return 0
        return 1
    except (OSError, StartError) as error:
        _say({"error": str(error)})
        return 1
    finally:
        if server is not None:
            _stop(server)
        shutil.rmtree(folder, ignore_errors=True)


class StartError(Exception):
    """The server did not come up; the message carries the end of its log."""


def _start(binary: str, port: int, options: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and wait until it answers; another may take a free port before the server does."""
    log = folder / "server.log"
    die_with_parent = _die_with_parent()
    for attempt in range(1, PORT_ATTEMPTS + 1):
        chosen = port or _free_port()
        with log.open("wb") as output:
            server = subprocess.Popen(
                [binary, "--port", str(chosen), "--dir", str(folder), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                preexec_fn=die_with_parent,  # noqa: PLW1509 (this program has no threads)
            )
        if _answers(server, chosen):
            return server, chosen
        _stop(server)
        text = log.read_text(errors="replace")
        if port or "in use" not in text or attempt == PORT_ATTEMPTS:
            raise StartError(f"the embedded server did not start on port {chosen}: {text[-2000:].strip()}")
    raise AssertionError("the last attempt returns or raises")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Say whether this server answers in time; a stranger on the port does not count, as the pid tells."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\n")
                if f"process_id:{server.pid}\r\n".encode() in connection.recv(4096):
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """Let the kernel end the server should this program itself be killed: on Linux, the only one that can."""
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # pragma: no cover (a C library without prctl)
        return None
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(line: dict[str, object]) -> None:
    # A parent that has gone does not read it; the pipe on standard input then says so too.
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
