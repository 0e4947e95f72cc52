"""Health of one session, and of the process: live, ready, metrics."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from sse_gateway.auth import READ
from sse_gateway.core.errors import GatewayError
from sse_gateway.web.identity import require, session_of
from sse_gateway.web.keys import GATEWAY
from sse_gateway.web.replies import METRICS, success

REDIS_CHECK_SECONDS = 1.0


async def health(request: web.Request) -> web.Response:
    """Tell how a session stands, over all gateways; answers without Redis too, then `degraded`."""
    session_id = session_of(request)
    principal = await require(request, session_id, READ)
    gateway = request.app[GATEWAY]
    status = None
    with contextlib.suppress(GatewayError):
        status = await gateway.history.status(session_id)
    local = gateway.presence.streams(session_id)
    total = max(local, status.streams) if status is not None else local
    return success(
        {
            "session_id": session_id,
            "chat_session_id": session_id,
            "user_id": principal.user,
            "connected": total > 0,
            "subscriber_count": total,
            "local_subscriber_count": local,
            "manager_status": "degraded" if status is None else gateway.state,
            "pending_permissions": status.pending if status is not None else None,
            "cursor": str(status.cursor) if status is not None and status.cursor else None,
            "redis": "connected" if status is not None else "unreachable",
        }
    )


async def healthz(_request: web.Request) -> web.Response:
    """Live: the event loop turns. Never looks at Redis, or an outage would restart every gateway."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """Ready: Redis answers, the push path is proven, not draining.

    `?exclude=redis` leaves out what depends on Redis; `?verbose` prints a line a check.
    """
    gateway = request.app[GATEWAY]
    excluded = set(",".join(request.query.getall("exclude", [])).split(","))
    faults = gateway.not_ready()
    checks = {"draining": faults.get("draining")}
    if "redis" not in excluded:
        checks["redis"] = None if await _redis_answers(request) else "Redis does not answer"
        checks["push"] = faults.get("push")
        checks["library"] = faults.get("library")
    ready = not any(checks.values())
    lines = [f"[{'-' if fault else '+'}] {name}: {fault or 'ok'}" for name, fault in checks.items()]
    if "verbose" not in request.query:
        lines = [line for line in lines if line.startswith("[-]")]
    lines.append("ready" if ready else "not ready")
    return web.Response(text="\n".join(lines) + "\n", status=200 if ready else 503)


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics in Prometheus' text format."""
    return web.Response(
        body=request.app[METRICS].exposition(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def _redis_answers(request: web.Request) -> bool:
    try:
        async with asyncio.timeout(REDIS_CHECK_SECONDS):
            return await request.app[GATEWAY].redis_answers()
    except TimeoutError:
        return False
