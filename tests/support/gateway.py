"""Real gateways: `sse-gateway serve`, each a process of its own on a port of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.support import started
from tests.support.plain import plain_client
from tests.support.ports import free_port
from tests.support.tokens import SECRET
from tests.support.wait import Hopeless, until

BASE_PATH = "/agent_backend/api/sse"
COMMAND = str(Path(sys.executable).with_name("sse-gateway"))

Wait = Literal["ready", "live", "none"]


class GatewayProcess:
    """One gateway. Settings go by their names in lower case: `heartbeat_seconds=1, cors_origins=[…]`."""

    def __init__(self, redis_url: str | None, **settings: Any) -> None:
        """Prepare a gateway; what is not given gets the default, but for port, Redis, key and log format."""
        self.port: int = settings.pop("port", None) or free_port()
        self.settings: dict[str, Any] = {
            "redis_url": redis_url,
            "host": "127.0.0.1",
            "port": self.port,
            "jwt_secret": SECRET,
            "log_format": "json",
            "log_level": "debug",
            "drain_seconds": 1,
            **settings,
        }
        self.folder = started.folder("gateway")
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base(self) -> str:
        """The address all API paths begin with."""
        return self.origin + str(self.settings.get("base_path", BASE_PATH))

    def events(self, session_id: str, query: str = "") -> str:
        """Return the address of a session's stream."""
        return f"{self.base}/events/{session_id}" + (f"?{query}" if query else "")

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None, "the gateway is not running"
        return self._process.pid

    def spawn(self) -> None:
        """Start the process and wait for nothing; its output is added to that of earlier starts."""
        assert self._process is None, "the gateway is running already"
        self.exit_code = None
        with self._output.open("ab") as output:
            self._process = started.start(
                f"gateway on port {self.port}",
                [COMMAND, "serve"],
                output=output,
                cwd=self.folder,
                env=environment(self.settings),
            )

    async def start(self, *, wait: Wait = "ready", seconds: float = 15.0) -> Self:
        """Start the process and wait until it is ready, or merely live (for a start without Redis)."""
        self.spawn()
        if wait != "none":
            await self.answers("/readyz" if wait == "ready" else "/healthz", seconds=seconds)
        return self

    async def answers(self, path: str, status: int = 200, *, seconds: float = 15.0) -> None:
        """Wait until the gateway answers this path of its root with this status."""
        admin = self.settings.get("admin_port")
        origin = f"http://127.0.0.1:{admin}" if admin else self.origin
        async with plain_client(base_url=origin, timeout=2) as client:

            async def asked() -> bool:
                if not self.running:
                    raise Hopeless(f"the gateway ended: {self.log_text()[-3000:]}")
                return (await client.get(path)).status_code == status

            await until(asked, f"{origin}{path} to answer {status}", seconds=seconds, every=0.05)

    def stop(self, *, seconds: float = 15.0) -> int:
        """Stop by SIGTERM and return the exit code."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """End by SIGKILL."""
        self._end(signal.SIGKILL, 5)

    async def restart(self, *, by: Literal["stop", "kill"] = "stop", wait: Wait = "ready") -> None:
        """End the gateway and start it on the same port."""
        # Not awaited: the old process must be gone before the new one binds the port.
        self.stop() if by == "stop" else self.kill()
        await self.start(wait=wait)

    def pause(self) -> None:
        """Stop the process in its tracks (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the gateway if it runs, and remove its folder."""
        self._end(signal.SIGTERM, 15)
        started.remove(self.folder)

    # What it says and what it uses

    def log_text(self) -> str:
        """Return everything it printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def logs(self, message: str = "") -> list[dict[str, Any]]:
        """Return its log lines whose message begins so."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if str(line.get("message", "")).startswith(message)]

    async def metrics(self) -> dict[str, float]:
        """Return its metrics by series: `sse_gateway_streams`, `sse_gateway_resets_total{reason="epoch"}`."""
        admin = self.settings.get("admin_port")
        async with plain_client() as client:
            response = await client.get(
                f"http://127.0.0.1:{admin}/metrics" if admin else f"{self.origin}/metrics"
            )
        response.raise_for_status()
        return {
            _series(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def rss_bytes(self) -> int:
        """Return its resident memory (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

    def descriptors(self, *, without_port: int | None = None) -> int:
        """Return how many files and sockets it has open (Linux), leaving out connections to one port."""
        left_out = {
            f"socket:[{line.split()[9]}]"
            for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
            if int(line.split()[2].rpartition(":")[2], 16) == without_port
        }
        return sum(str(entry.readlink()) not in left_out for entry in Path(f"/proc/{self.pid}/fd").iterdir())

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def _output(self) -> Path:
        return self.folder / "gateway.log"

    def _end(self, number: int, seconds: float) -> int:
        if self._process is not None:
            self.exit_code = started.end(self._process, number, seconds=seconds)
            self._process = None
        return self.exit_code if self.exit_code is not None else 0


@asynccontextmanager
async def running(*gateways: GatewayProcess) -> AsyncIterator[None]:
    """Start gateways side by side, and close them at the end."""
    try:
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        yield
    finally:
        for gateway in gateways:
            gateway.close()


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return this process's environment with the settings as `SSE_GATEWAY_*`, and none of its own.

    But for the stream transport: setting it runs all tests over that one.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SSE_GATEWAY_") or name == "SSE_GATEWAY_STREAM_TRANSPORT"
    }
    given = {
        f"SSE_GATEWAY_{name.upper()}": _text(value) for name, value in settings.items() if value is not None
    }
    return inherited | given


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(str(item) for item in value)
    return str(value)


def _series(name: str, labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name
