"""Run `sse-gateway` as a person does: in a pipe, or in a terminal that tests can read and type into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Any, Self

from sse_gateway.cli.answering import MIN_SHOWN_SECONDS
from tests.support import leaks, started
from tests.support.gateway import COMMAND, environment
from tests.support.wait import until

READ_SECONDS = MIN_SHOWN_SECONDS + 0.1
"""How long a person reads before he types: a sooner answer does not count, and nothing shows from when on."""
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


def sse_gateway(
    *words: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 30,
    **settings: Any,
) -> Done:
    """Run a command to its end, with `settings` (lower case) as variables."""
    done = subprocess.run(
        [COMMAND, *words],
        input=stdin,
        capture_output=True,
        env=environment(settings) | dict(env or {}),
        cwd=cwd,
        timeout=seconds,
        check=False,
        start_new_session=True,
    )
    _look(words, (done.stdout + done.stderr).decode(errors="replace"))
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def _look(words: tuple[str, ...], text: str) -> None:
    """Have what a command printed searched for tokens, unless it is there to print one."""
    mints = words[:1] == ("token",) and "--explain" not in words
    if not (mints or words[:1] == ("demo",) or "--dev" in words):
        leaks.look(" ".join(words[:1]), text)


class Terminal:
    """A command that runs in a terminal of its own; `text` is all it has written, colours taken away."""

    def __init__(
        self,
        *words: str,
        width: int = 100,
        height: int = 40,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Start the command."""
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._slave = os.fdopen(slave, "r+b", buffering=0)
        self._written = b""
        self._words = words
        self._process = started.start(
            f"sse-gateway {words[0]}",
            [COMMAND, *words],
            output=self._slave,
            stdin=self._slave,
            env=environment(settings) | {"TERM": "xterm-256color", "COLUMNS": str(width)} | dict(env or {}),
        )
        asyncio.get_running_loop().add_reader(self._master, self._read)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        started.end(self._process, signal.SIGKILL)
        self._slave.close()
        _look(self._words, self.text)
        os.close(self._master)

    @property
    def raw(self) -> str:
        return self._written.decode(errors="replace")

    @property
    def text(self) -> str:
        return _COLOURS.sub("", self.raw).replace("\r\n", "\n")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def shows(self, text: str, *, times: int = 1, seconds: float = 15) -> None:
        """Wait until `text` has been written."""
        await until(
            lambda: self.text.count(text) >= times, f"{text!r} in the terminal:\n{self.text}", seconds=seconds
        )

    def type(self, keys: str | bytes) -> None:
        os.write(self._master, keys if isinstance(keys, bytes) else keys.encode())

    async def ends(self, number: int | None = None, *, seconds: float = 15) -> int:
        """Send a signal if one is given, wait for the end and return the exit code."""
        if number is not None:
            os.kill(self._process.pid, number)
        await until(lambda: self._process.poll() is not None, "the command to end", seconds=seconds)
        code: int = self._process.returncode
        return code

    def settings(self) -> list[Any]:
        """Return the terminal's settings (echo, line mode and so on)."""
        return termios.tcgetattr(self._slave.fileno())

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._written += os.read(self._master, 65536)


@contextlib.contextmanager
def occupied(port: int) -> Iterator[None]:
    """Have somebody else listen on a port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield
