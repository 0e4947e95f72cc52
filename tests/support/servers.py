"""Real servers, each a process of its own on a port of its own and in a folder of its own.

`valkey` is the wheel's server and always there; `redis` is the machine's `redis-server`. All calls block (a
server answers within milliseconds), so they work in fixtures of any scope and outside an event loop.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from sse_gateway.store.embedded import server_binary
from tests.support import started
from tests.support.ports import free_port
from tests.support.wait import Hopeless, until_sync

Kind = Literal["valkey", "redis"]
KINDS: tuple[Kind, ...] = ("valkey", "redis")


def binary(kind: Kind) -> str | None:
    """Return the path of this kind's server, or None where the machine has none."""
    return str(server_binary()) if kind == "valkey" else shutil.which("redis-server")


class RedisProcess:
    """One server. `start()` after `kill()` restarts it on its port, from the dump of the last `save()`."""

    def __init__(self, kind: Kind = "valkey", *, options: Mapping[str, str] | None = None) -> None:
        """Prepare a server with further `options`, by their names in redis.conf."""
        self.kind = kind
        self.port = free_port()
        self.folder = started.folder(kind)
        self.options: dict[str, str] = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "enable-debug-command": "local",
            # Replication without the 5 s a primary waits for further replicas.
            "repl-diskless-sync-delay": "0",
            **(options or {}),
        }
        self.credentials: dict[str, Any] = {}
        """User name and password of the test's own looks, where the server asks for some."""
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    @property
    def url(self) -> str:
        """What a gateway is given."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def dump(self) -> Path:
        """The file `save()` writes and `start()` reads."""
        return self.folder / "dump.rdb"

    @property
    def client(self) -> Any:
        """A blocking `redis.Redis` for the test's own looks, with text replies (its stubs get in the way)."""
        if self._client is None:
            self._client = redis.Redis(
                host="127.0.0.1",
                port=self.port,
                decode_responses=True,
                socket_timeout=10,
                **self.credentials,
            )
        return self._client

    def connect(self, **options: Any) -> redis.asyncio.Redis:
        """Make an asyncio client; the caller closes it."""
        return redis.asyncio.Redis(host="127.0.0.1", port=self.port, **options)

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """Return what starts it."""
        path = binary(self.kind)
        assert path is not None, f"there is no {self.kind} server on this machine"
        return [path, *(text for name, value in self.options.items() for text in (f"--{name}", value))]

    def start(self) -> Self:
        """Start the server and return once it answers with its data loaded."""
        assert self._process is None, "the server is running already"
        with self._log.open("ab") as output:
            self._process = started.start(
                f"{self.kind} on port {self.port}", self.command(), output=output, cwd=self.folder
            )
        until_sync(self._ready, f"{self.kind} on port {self.port} to answer")
        return self

    def stop(self) -> None:
        """Stop the server by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server by SIGKILL: nothing is written, connections are reset."""
        self._end(signal.SIGKILL)

    def restart(self, *, empty: bool = False) -> None:
        """Kill and start; `empty` without the dump of an earlier `save()`."""
        self.kill()
        if empty:
            self.dump.unlink(missing_ok=True)
        self.start()

    def pause(self) -> None:
        """Stop the process in its tracks (SIGSTOP): connections stand, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def save(self) -> None:
        """Write the dump now; a later `kill()` and `start()` go back to this moment."""
        self.client.save()

    def flush(self) -> None:
        """Empty the server: data, functions, scripts."""
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.flushall()
            pipeline.function_flush()
            pipeline.script_flush()
            pipeline.execute()

    def log(self) -> str:
        """Return what the server printed."""
        return self._log.read_text(errors="replace")

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of INFO."""
        found: dict[str, Any] = self.client.info(section)
        return found

    def close(self) -> None:
        """End the server if it runs, by SIGKILL, as nobody waits for its last words; remove its folder."""
        self.kill()
        started.remove(self.folder)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            started.forget(self._process)
            self._process = None
            raise Hopeless(f"the server ended at its start: {self.log()[-2000:]}")
        # The pid proves that it is this process and not a stranger on the port. Who is refused asks again:
        # redis-py's own way of asking again waits for seconds.
        with redis.Redis(
            host="127.0.0.1", port=self.port, retry=Retry(NoBackoff(), 0), **self.credentials
        ) as client:
            info: Any = client.info()
        return bool(info["process_id"] == self._process.pid and info.get("loading", 0) == 0)

    def _end(self, number: int) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            started.end(self._process, number)
            self._process = None
