"""JSON bodies, and the middleware that makes every refusal one.

A body never holds internals, a stack trace or a token.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from sse_gateway.core.errors import AuthError, GatewayError
from sse_gateway.metrics import Metrics

logger = logging.getLogger(__name__)

METRICS = web.AppKey("metrics", Metrics)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_BY_STATUS = {
    400: ("bad_request", "The request is not valid HTTP for this server."),
    404: ("not_found", "There is nothing at this path; see README for the API."),
    405: ("method_not_allowed", "This path does not take this method."),
    413: ("payload_too_large", "The body is larger than this server takes."),
}


def success(data: Any, *, status: int = 200, message: str | None = None) -> web.Response:
    """Return `{"success": true, "data": …}`."""
    body: dict[str, Any] = {"success": True, "data": data}
    if message is not None:
        body["message"] = message
    return _json(body, status)


def failure(error: GatewayError) -> web.Response:
    """Return `{"success": false, "code", "message", …}` with the code's status."""
    body = {"success": False, "code": error.code, "message": error.message, **(error.data or {})}
    response = _json(body, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, AuthError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(body: Mapping[str, Any], status: int) -> web.Response:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(
        body=text.encode(errors="backslashreplace"),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers=_PRIVATE,
    )


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what was raised into its JSON answer; what nobody foresaw is logged and told as ours.

    Once a head was sent there is no answer left to give: a second one would stand in the first one's
    body. The connection is cut instead, which every client takes for what it is.
    """
    try:
        return await handler(request)
    except ConnectionResetError:
        # Who asked has left, which is nobody's fault. What is returned here reaches no one either.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=204)
    except Exception as error:
        if not request.writer.output_size:
            return _refusal(request, error)
        logger.exception("a response failed in its middle", extra={"fields": _named(request)})
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError from None


def _refusal(request: web.Request, error: Exception) -> web.StreamResponse:
    if isinstance(error, GatewayError):
        if error.status in (401, 403):
            request.app[METRICS].auth_failures.labels(error.code).inc()
        return failure(error)
    if isinstance(error, web.HTTPException):
        if error.status not in _BY_STATUS:
            raise error
        code, message = _BY_STATUS[error.status]
        response = failure(GatewayError(code, message))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    logger.error("a request failed", exc_info=error, extra={"fields": _named(request)})
    return failure(GatewayError("internal_error", "The gateway failed on this request; its log says why."))


def _named(request: web.Request) -> dict[str, str]:
    return {"method": request.method, "path": request.path}
