"""Run the server from a command: the loop, and errors of starting told in words."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.config import Settings
from sse_gateway.config.forms import redis_database_in

Result = TypeVar("Result")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PORTS_TRIED = 100


def run_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on uvloop, or on asyncio where uvloop does not exist."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Run the gateway until it is told to stop; raises Refusal when it cannot start."""
    from sse_gateway.auth import KeySettingError  # noqa: PLC0415
    from sse_gateway.web.server import run  # noqa: PLC0415

    try:
        await run(settings, ready=ready)
    except KeySettingError as error:
        raise Misuse(str(error)) from None
    except OSError as error:
        raise _cannot_listen(error, settings) from None


def _cannot_listen(error: OSError, settings: Settings) -> Refusal:
    place = f"{settings.host}:{settings.port}"
    if settings.admin_port is not None:
        place += f" and {settings.admin_port} (ADMIN_PORT)"
    if error.errno == errno.EADDRINUSE:
        return Refusal(
            f"Cannot listen on {place}: the port is taken.", hint=f"--port {free_port(settings.port)} is free"
        )
    if error.errno == errno.EACCES:
        return Refusal(
            f"Cannot listen on {place}: not permitted.",
            hint="ports below 1024 belong to root; try --port 8000",
        )
    return Refusal(
        f"Cannot listen on {place}: {error.strerror or error}.", hint="--host is an address of this machine"
    )


def free_port(first: int, *, host: str = "127.0.0.1") -> int:
    """Return the first port from `first` on that nobody listens on, 0 if all that were tried are taken."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except OSError:
                continue
            return port
    return 0


def database_warning(settings: Settings) -> str:
    """Return why a database number does not separate two deployments, or "" where none is used."""
    if settings.redis_url is None or settings.namespace:
        return ""
    number = redis_database_in(settings.redis_url.get_secret_value())
    if not number:
        return ""
    return (
        f"REDIS_URL names database {number}, which separates keys but not channels: "
        "set NAMESPACE if another deployment shares this server"
    )
