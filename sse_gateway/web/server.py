"""Run the gateway as a process: sockets, signals, descriptor limit, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from collections.abc import Callable

import uvloop
from aiohttp import web

from sse_gateway import __version__, compiled
from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings, derive_max_connections, derive_max_streams
from sse_gateway.gateway import Gateway
from sse_gateway.metrics import Metrics
from sse_gateway.web.app import make_admin_app, make_app
from sse_gateway.web.connections import CLOSE_SECONDS, CONNECTIONS, PARSER_LIMITS, serve_through
from sse_gateway.web.listening import listen

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 75.0
"""Longer than a proxy keeps an idle connection (nginx and ALB 60 s): it must not send an answer's POST on one
that is just being closed. Whoever holds many makes room when places run out (`Connections`)."""


def main(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT, on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings, ready=ready))


async def run(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called with the base URL once the socket listens.

    The order of the end: `/readyz` says no, the listening socket is closed so that proxies take the next
    gateway, streams are closed spread over DRAIN_SECONDS, requests under way are served to their end.
    """
    descriptors = _raise_descriptor_limit()
    max_streams = settings.max_streams or derive_max_streams(descriptors)
    metrics = Metrics()
    gateway = Gateway(settings, metrics=metrics, max_streams=max_streams)
    authenticator = Authenticator(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping, number)
    app = make_app(settings, gateway, authenticator, most_connections=derive_max_connections(descriptors))
    runner = _runner(app)
    admin = (
        _runner(make_admin_app(settings, gateway, authenticator)) if settings.admin_port is not None else None
    )
    servers: list[asyncio.Server] = []
    try:
        servers.append(await _listen(runner, settings.host, settings.port, reuse_port=settings.reuse_port))
        address = _address(servers[0])
        if admin is not None:
            assert settings.admin_port is not None
            servers.append(
                await _listen(admin, settings.host, settings.admin_port, reuse_port=settings.reuse_port)
            )
        logger.info(
            "listening",
            extra={
                "fields": {
                    "address": address,
                    "version": __version__,
                    "compiled": compiled(),
                    "gateway_id": gateway.gateway_id,
                    "max_streams": max_streams,
                }
            },
        )
        _collect_less_often()
        if ready is not None:
            ready(address)
        await stopping.wait()
        gateway.leave()
        servers[0].close()
        await gateway.hub.drain(settings.drain_seconds)
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        if admin is not None:
            await admin.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    logger.info("stopped")


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=False,
        keepalive_timeout=KEEPALIVE_SECONDS,
        # What is idle ends by that, what is not by TCP_USER_TIMEOUT.
        tcp_keepalive=False,
        shutdown_timeout=CLOSE_SECONDS,
        **PARSER_LIMITS,
    )


async def _listen(runner: web.AppRunner, host: str, port: int, *, reuse_port: bool) -> asyncio.Server:
    if runner.server is None:
        await runner.setup()
        serve_through(runner, runner.app[CONNECTIONS])
    return await listen(runner, host, port, reuse_port=reuse_port)


def _address(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop(stopping: asyncio.Event, number: signal.Signals) -> None:
    if stopping.is_set():
        # Asked a second time: do not wait for anybody.
        raise SystemExit(128 + number)
    logger.info("stopping", extra={"fields": {"signal": number.name}})
    stopping.set()


def _collect_less_often() -> None:
    """Spare the garbage collector what stays for ever, and looks at streams that have just come.

    By its defaults it goes through everything young at every 700 objects, which thousands of streams that
    return make in a moment.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 10)


def _raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, and return it; every stream needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if soft == resource.RLIM_INFINITY else soft
