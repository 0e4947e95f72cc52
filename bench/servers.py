"""What is measured: the gateway over either transport, and its peers as their documentation recommends.

Each is started anew for a case, with a Redis of its own where it uses one: the server pinned to one core,
Redis to the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jwt
import redis

from bench import machine
from bench.programs import Line, Load
from bench.started import Started, free_port
from sse_gateway.store.embedded import server_binary
from sse_gateway.store.library import Library

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMPILED = BIN.parent / "compiled"
"""The package with its hot path compiled, which `make bench` puts here."""
SECRET = "a secret of this benchmark, 32 bytes or more"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
BASE = "/agent_backend/api/sse"


@dataclass
class Programs:
    """What all cases share."""

    started: Started
    paths: dict[str, Path]


class Server(ABC):
    """One server under load; `with Kind.running(programs) as server`."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """How it is published to: fcall, publish or http."""
    ready: ClassVar[str] = ""
    settle_seconds: ClassVar[float] = 0.0
    """How long after the head of the last answer until all subscriptions are there, where nothing tells."""

    def __init__(self, programs: Programs, *, cores: frozenset[int] = machine.SERVER_CORES) -> None:
        self.programs = programs
        self.cores = cores
        self.port = free_port()
        self.redis_port = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self._redis: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls, programs: Programs, **options: Any) -> Iterator[Any]:
        """Start a server, and end it and its Redis."""
        server = cls(programs, **options)
        try:
            server.start()
            yield server
        finally:
            server.stop()

    @abstractmethod
    def start(self) -> None:
        """Start whatever it consists of, and return once it listens."""

    @abstractmethod
    def line(self, stream: int, session: int) -> Line:
        """Return how the load client opens this stream and publishes to its session."""

    def stop(self) -> None:
        """End its processes and its Redis."""
        for process in [*self.processes, *([self._redis] if self._redis else [])]:
            self.programs.started.end(process)
        self.processes, self._redis = [], None

    @property
    def pids(self) -> list[int]:
        """The processes whose CPU and memory count."""
        return [pid for process in self.processes for pid in machine.children(process.pid)]

    @property
    def publish_port(self) -> int:
        return self.port if self.kind == "http" else self.redis_port

    def load(self, streams: int, *, sessions: int, kind: str | None = None, first: int = 0) -> Load:
        """Return a load client with this many streams spread over so many sessions."""
        lines = (self.line(stream, stream % sessions) for stream in range(first, first + streams))
        if first:
            lines = (
                Line(line.session - first, line.path, line.header, line.publish_to)
                for line in (self.line(stream, stream) for stream in range(first, first + streams))
            )
        return Load(
            self.programs.started,
            self.programs.paths["load"],
            lines,
            stream_port=self.port,
            publish_port=self.publish_port,
            kind=kind or self.kind,
            ready=self.ready,
        )

    def settle(self) -> None:
        """Wait until all streams that have their head are subscribed."""
        time.sleep(self.settle_seconds)

    def script_microseconds(self) -> float:
        """Return the time Redis has spent in publishing, in all."""
        if not self.redis_port:
            return 0.0
        stats = self.redis_client().info("commandstats")
        wanted = {"fcall": "fcall", "publish": "publish", "http": "evalsha"}[self.kind]
        return float(stats.get(f"cmdstat_{wanted}", {}).get("usec", 0.0))

    def redis_client(self) -> redis.Redis:
        """Return a client of its Redis."""
        return redis.Redis(port=self.redis_port)

    def _start_redis(self) -> None:
        self.redis_port = free_port()
        command = [server_binary(), "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        options = ["--save", "", "--appendonly", "no", "--maxclients", "15000"]
        self._redis = self.programs.started.start([*command, *options], cores=machine.OTHER_CORES)
        self.programs.started.wait_for_port(self._redis, self.redis_port)

    def _start(self, command: list[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        process = self.programs.started.start(command, cores=options.pop("cores", self.cores), **options)
        self.processes.append(process)
        return process


class Floor(Server):
    """The C floor: one write() a stream, and nothing else."""

    name = "C floor"
    kind = "http"

    def start(self) -> None:
        process = self._start([self.programs.paths["floor"], str(self.port)])
        self.programs.started.wait_for_port(process, self.port)

    def line(self, stream: int, session: int) -> Line:
        return Line(session, "/", "", f"/s{session}")


class FloorRedis(Floor):
    """The C floor behind Redis: it subscribes, and writes each message to the one stream of its session."""

    name = "C floor, Redis"
    kind = "fcall"
    settle_seconds = 1.0

    def start(self) -> None:
        self._start_redis()
        self.redis_client().execute_command("FUNCTION", "LOAD", Library().text)
        command = [*self._program(), str(self.port), str(self.redis_port)]
        process = self._start(command, env={"PYTHONPATH": str(ROOT)})
        self.programs.started.wait_for_port(process, self.port)

    def _program(self) -> list[str | Path]:
        return [self.programs.paths["floor"]]

    def line(self, stream: int, session: int) -> Line:
        return Line(session, f"/bench-{session}", "", f"bench-{session}")


class PythonFloor(FloorRedis):
    """The same in Python: uvloop, hiredis, a dict and one write."""

    name = "Python floor, Redis"

    def _program(self) -> list[str | Path]:
        return [sys.executable, "-m", "bench.peers.python_floor"]


class Gateway(Server):
    """The gateway itself, compiled: a token each, durable events, snapshot, metrics, a log at info."""

    name = "sse_gateway"
    kind = "fcall"
    ready = "event: ready"
    package: ClassVar[Path] = COMPILED
    transport: ClassVar[str] = "handover"

    def __init__(
        self,
        programs: Programs,
        *,
        processes: int = 1,
        settings: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(programs, **options)
        self._count = processes
        self._settings = settings or {}

    def start(self) -> None:
        self._start_redis()
        self.start_gateways()

    def start_gateways(self) -> None:
        """Start the gateway processes alone (Redis is there); they share the port."""
        environment = {
            "PYTHONPATH": str(self.package),
            "SSE_GATEWAY_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "SSE_GATEWAY_HOST": "127.0.0.1",
            "SSE_GATEWAY_PORT": str(self.port),
            "SSE_GATEWAY_JWT_SECRET": SECRET,
            "SSE_GATEWAY_STREAM_TRANSPORT": self.transport,
            "SSE_GATEWAY_DRAIN_SECONDS": "0",
            "SSE_GATEWAY_LOG_FORMAT": "json",
            **self._settings,
        }
        if self._count > 1:
            environment["SSE_GATEWAY_REUSE_PORT"] = "true"
        cores = sorted(machine.SERVER_CORES | machine.OTHER_CORES)
        for number in range(self._count):
            pinned = self.cores if self._count == 1 else frozenset(cores[number % len(cores) :][:1])
            log = f"gateway-{self.port}-{number}.log"
            process = self._start([BIN / "sse-gateway", "serve"], env=environment, cores=pinned, log=log)
            self.programs.started.wait_for_port(process, self.port, log)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the gateway did not get ready")

    def restart_gateways(self) -> None:
        """End the gateways and start new ones, which know nothing of before; Redis stays."""
        for process in self.processes:
            self.programs.started.end(process)
        self.processes = []
        self.start_gateways()

    def line(self, stream: int, session: int) -> Line:
        claims = {"sub": f"user-{stream}", "session_id": f"bench-{session}", "exp": int(time.time()) + 7200}
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        path = f"{BASE}/events/bench-{session}"
        return Line(session, path, f"Authorization: Bearer {token}", f"bench-{session}")


class GatewayPlain(Gateway):
    """The gateway, published to by plain PUBLISH."""

    name = "sse_gateway, plain PUBLISH"
    kind = "publish"

    def line(self, stream: int, session: int) -> Line:
        line = super().line(stream, session)
        return Line(line.session, line.path, line.header, f"sse_events:bench-{session}")


class GatewayNotCompiled(Gateway):
    """The gateway as an install without a compiler has it."""

    name = "sse_gateway, not compiled"
    package = ROOT


class GatewayInAiohttp(Gateway):
    """The gateway with streams that stay aiohttp responses."""

    name = "sse_gateway, in aiohttp"
    transport = "aiohttp"


class Nchan(Server):
    """nchan in nginx, messages in shared memory, published to by POST."""

    name = "nchan, memory"
    kind = "http"
    _store = ""
    _upstream = ""

    def start(self) -> None:
        self._start_nginx(self.port, self.cores, "nginx")

    def _start_nginx(self, port: int, cores: frozenset[int], name: str) -> subprocess.Popen[bytes]:
        folder = self.programs.started.folder / f"{name}-{port}"
        folder.mkdir()
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(f"""
load_module {NCHAN_MODULE};
{user} daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/pid;
events {{ worker_connections 19900; }}
http {{
  {temporary}
  access_log off; keepalive_requests 1000000000; tcp_nodelay on;
  nchan_shared_memory_size 1024M;
  {self._upstream.replace("$REDIS", str(self.redis_port))}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message newest; {self._store}
    }}
    location ~ ^/pub/(.+)$ {{
      nchan_publisher; nchan_channel_id $1;
      nchan_message_buffer_length 1000; nchan_message_timeout 10m; {self._store}
    }}
  }}
}}
""")
        command = ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        process = self.programs.started.start(command, cores=cores)
        if port == self.port:
            self.processes.append(process)
        self.programs.started.wait_for_port(process, port)
        return process

    def line(self, stream: int, session: int) -> Line:
        return Line(session, f"/sub/bench-{session}", "", f"/pub/bench-{session}")


class NchanRedis(Nchan):
    """nchan with Redis, published to through a second nginx, as backends on another machine would.

    So the measured nginx only delivers, as the gateway does.
    """

    name = "nchan, Redis"
    settle_seconds = 1.0
    _store = "nchan_redis_pass store;"
    _upstream = "upstream store { nchan_redis_server redis://127.0.0.1:$REDIS/; }"

    def start(self) -> None:
        self._start_redis()
        super().start()
        self._publisher_port = free_port()
        self._publisher = self._start_nginx(self._publisher_port, machine.OTHER_CORES, "publisher")
        time.sleep(0.5)

    def stop(self) -> None:
        super().stop()
        self.programs.started.end(self._publisher)

    @property
    def publish_port(self) -> int:
        return self._publisher_port


class NchanRedisAlone(NchanRedis):
    """nchan with Redis, published to through the same nginx that delivers."""

    name = "nchan, Redis, one nginx"

    @property
    def publish_port(self) -> int:
        return self.port


class AiohttpSse(Server):
    """aiohttp-sse with a queue per stream, fed by one redis-py subscription."""

    name = "aiohttp-sse + queue"
    kind = "publish"
    settle_seconds = 2.0

    def start(self) -> None:
        self._start_redis()
        module = "bench.peers.aiohttp_sse_queue"
        command: list[str | Path] = [sys.executable, "-m", module, str(self.port), str(self.redis_port)]
        process = self._start(command, env={"PYTHONPATH": str(ROOT)})
        self.programs.started.wait_for_port(process, self.port)

    def line(self, stream: int, session: int) -> Line:
        return Line(session, f"/events/bench-{session}", "", f"sse:bench-{session}")


class SseStarlette(AiohttpSse):
    """sse-starlette with a redis-py subscription per stream, run by uvicorn."""

    name = "sse-starlette + redis-py"
    settle_seconds = 4.0

    def start(self) -> None:
        self._start_redis()
        command: list[str | Path] = [BIN / "uvicorn", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--no-access-log", "--backlog", "4096", "bench.peers.sse_starlette_redis:app"]
        environment = {"PYTHONPATH": str(ROOT), "REDIS_PORT": str(self.redis_port)}
        process = self._start(command, env=environment)
        self.programs.started.wait_for_port(process, self.port)


class GatewayCold(Gateway):
    """The gateway, restarted before its streams return: it has seen none of their tokens."""

    name = "sse_gateway, just started"
