"""Put the application together: routes, what they share, and when it starts and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings
from sse_gateway.gateway import Gateway
from sse_gateway.web import console, cors, health, permissions, publish, streams, tickets
from sse_gateway.web.connections import CLOSE_SECONDS, CONNECTIONS, Connections
from sse_gateway.web.keys import AUTHENTICATOR, GATEWAY, SETTINGS
from sse_gateway.web.limiting import LIMITING, Limiting, limited
from sse_gateway.web.replies import METRICS, refusals
from sse_gateway.web.tracing import sign, tracing

BODY_OVERHEAD_BYTES = 64 * 1024
MOST_CONNECTIONS = 1_000_000
MOST_ADMIN_CONNECTIONS = 32
_SESSION = "{session_id:[^/]+}"
"""Wider than aiohttp's own pattern, which takes no braces: what is no session id is told so by a 400."""


def make_app(
    settings: Settings,
    gateway: Gateway,
    authenticator: Authenticator,
    *,
    most_connections: int = MOST_CONNECTIONS,
) -> web.Application:
    """Return the application; it starts the gateway and, when cleaned up, stops it."""
    app = web.Application(
        middlewares=[tracing, cors.allowing(settings.cors_origins), refusals],
        client_max_size=settings.max_event_bytes + BODY_OVERHEAD_BYTES,
    )
    _share(app, settings, gateway, authenticator)
    app[CONNECTIONS] = Connections(
        gateway.metrics, most=most_connections, streams_open=lambda: len(gateway.hub.streams)
    )
    app[LIMITING] = Limiting(settings)
    base = settings.base_path
    app.router.add_get(f"{base}/events/{_SESSION}", streams.events, allow_head=False)
    app.router.add_post(f"{base}/permission-response/{_SESSION}", limited(permissions.respond))
    app.router.add_get(f"{base}/permissions/{_SESSION}", limited(permissions.overview))
    one = f"{base}/permissions/{_SESSION}/{{request_id:[^/]+}}"
    app.router.add_get(one, limited(permissions.decision))
    app.router.add_post(f"{one}/claim", limited(permissions.claim))
    app.router.add_post(f"{one}/cancel", limited(permissions.cancel))
    app.router.add_get(f"{base}/health/{_SESSION}", limited(health.health))
    app.router.add_post(f"{base}/ticket/{_SESSION}", limited(tickets.issue))
    app.router.add_post(f"{base}/publish/{_SESSION}", limited(publish.publish))
    if settings.console:
        console.add_console(app, base)
    if settings.admin_port is None:
        _add_probes(app)
    app.cleanup_ctx.append(_run_gateway)
    return app


def make_admin_app(settings: Settings, gateway: Gateway, authenticator: Authenticator) -> web.Application:
    """Return the application for a port of its own: live, ready, metrics."""
    app = web.Application(middlewares=[tracing, refusals])
    _share(app, settings, gateway, authenticator)
    app[CONNECTIONS] = Connections(gateway.metrics, most=MOST_ADMIN_CONNECTIONS)
    _add_probes(app)
    return app


def _share(app: web.Application, settings: Settings, gateway: Gateway, authenticator: Authenticator) -> None:
    app[SETTINGS] = settings
    app[GATEWAY] = gateway
    app[AUTHENTICATOR] = authenticator
    app[METRICS] = gateway.metrics
    app.on_response_prepare.append(sign)


def _add_probes(app: web.Application) -> None:
    app.router.add_get("/healthz", health.healthz)
    app.router.add_get("/readyz", health.readyz)
    app.router.add_get("/metrics", health.metrics)


async def _run_gateway(app: web.Application) -> AsyncIterator[None]:
    await app[GATEWAY].start()
    yield
    await app[GATEWAY].stop()
    await app[CONNECTIONS].finished(CLOSE_SECONDS)
    await app[AUTHENTICATOR].close()
