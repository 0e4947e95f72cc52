"""Give each request an id that stands in its answer and in every log line written on its behalf."""

from __future__ import annotations

import logging
import random
import re
import time

from aiohttp import web

from sse_gateway.logs import HTTP_REQUEST_ID
from sse_gateway.web.replies import SERVER, Handler

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"
_TRACE = web.RequestKey("http_request_id", str)
# Long enough for UUIDs and proxies' own ids, too short for a token somebody puts here by mistake.
_SANE = re.compile(r"[A-Za-z0-9._:=-]{1,64}")


@web.middleware
async def tracing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the caller's `X-Request-ID` where it is one, else make one."""
    given = request.headers.get(HEADER, "")
    trace = given if _SANE.fullmatch(given) else f"{random.getrandbits(64):016x}"
    request[_TRACE] = trace
    # Each request has a task of its own, so nothing has to be put back.
    HTTP_REQUEST_ID.set(trace)
    if not logger.isEnabledFor(logging.DEBUG):
        return await handler(request)
    began_at = time.monotonic()
    response = await handler(request)
    resource = request.match_info.route.resource
    logger.debug(
        "answered",
        extra={
            "fields": {
                "method": request.method,
                # The pattern, not the path: that may hold anything.
                "route": resource.canonical if resource is not None else None,
                "status": response.status,
                "seconds": round(time.monotonic() - began_at, 4),
            }
        },
    )
    return response


def trace_of(request: web.Request) -> str:
    """Return the request's id."""
    trace: str = request[_TRACE]
    return trace


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id into a response's head, and who serves it: no versions, an attacker collects them.

    For `on_response_prepare`, so that streams have it too.
    """
    response.headers["Server"] = SERVER
    if _TRACE in request:
        response.headers[HEADER] = request[_TRACE]
