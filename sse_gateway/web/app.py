"""Put the application together: routes, what they share, and when it starts and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings
from sse_gateway.gateway import Gateway
from sse_gateway.web import console, cors, health, permissions, publish, streams, tickets
from sse_gateway.web.keys import AUTHENTICATOR, GATEWAY, SETTINGS
from sse_gateway.web.replies import METRICS, refusals

BODY_OVERHEAD_BYTES = 64 * 1024
_SESSION = "{session_id:[^/]+}"
"""Wider than aiohttp's own pattern, which takes no braces: what is no session id is told so by a 400."""


def make_app(settings: Settings, gateway: Gateway, authenticator: Authenticator) -> web.Application:
    """Return the application; it starts the gateway and, when cleaned up, stops it."""
    app = web.Application(
        middlewares=[cors.allowing(settings.cors_origins), refusals],
        client_max_size=settings.max_event_bytes + BODY_OVERHEAD_BYTES,
    )
    _share(app, settings, gateway, authenticator)
    base = settings.base_path
    app.router.add_get(f"{base}/events/{_SESSION}", streams.events, allow_head=False)
    app.router.add_post(f"{base}/permission-response/{_SESSION}", permissions.respond)
    app.router.add_get(f"{base}/permissions/{_SESSION}", permissions.overview)
    one = f"{base}/permissions/{_SESSION}/{{request_id:[^/]+}}"
    app.router.add_get(one, permissions.decision)
    app.router.add_post(f"{one}/claim", permissions.claim)
    app.router.add_get(f"{base}/health/{_SESSION}", health.health)
    app.router.add_post(f"{base}/ticket/{_SESSION}", tickets.issue)
    app.router.add_post(f"{base}/publish/{_SESSION}", publish.publish)
    if settings.console:
        console.add_console(app, base)
    if settings.admin_port is None:
        _add_probes(app)
    app.cleanup_ctx.append(_run_gateway)
    return app


def make_admin_app(settings: Settings, gateway: Gateway, authenticator: Authenticator) -> web.Application:
    """Return the application for a port of its own: live, ready, metrics."""
    app = web.Application(middlewares=[refusals])
    _share(app, settings, gateway, authenticator)
    _add_probes(app)
    return app


def _share(app: web.Application, settings: Settings, gateway: Gateway, authenticator: Authenticator) -> None:
    app[SETTINGS] = settings
    app[GATEWAY] = gateway
    app[AUTHENTICATOR] = authenticator
    app[METRICS] = gateway.metrics


def _add_probes(app: web.Application) -> None:
    app.router.add_get("/healthz", health.healthz)
    app.router.add_get("/readyz", health.readyz)
    app.router.add_get("/metrics", health.metrics)


async def _run_gateway(app: web.Application) -> AsyncIterator[None]:
    await app[GATEWAY].start()
    yield
    await app[GATEWAY].stop()
    await app[AUTHENTICATOR].close()
