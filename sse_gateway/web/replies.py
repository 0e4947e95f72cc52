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

from sse_gateway.core.errors import AuthError, GatewayError, Refused, Unavailable
from sse_gateway.metrics import Metrics

logger = logging.getLogger(__name__)

METRICS = web.AppKey("metrics", Metrics)
SERVER = "sse_gateway"
"""All that a response tells about who serves it: versions are what attackers collect."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": SERVER,
}
_BY_STATUS = {
    400: ("bad_request", "The request is not valid HTTP for this server."),
    404: ("not_found", "There is nothing at this path; see README for the API."),
    405: ("method_not_allowed", "This path does not take this method."),
    413: ("payload_too_large", "The body is larger than this server takes."),
    417: ("expectation_failed", "This server knows no expectation but '100-continue'."),
}
_RETRY_AFTER = {429: 5.0, 503: 2.0}
"""Seconds, where nobody knows better."""
_CLOSING = frozenset({408, 413})
"""After these the rest of the body is still to come, and nobody wants it."""
_ENCODER = json.JSONEncoder(ensure_ascii=False)


class Written(str):
    """JSON as somebody else wrote it, to be told in the very same characters.

    Read and written again, numbers change: what a human approves is what the agent has sent.
    """

    __slots__ = ()

    def __new__(cls, text: bytes) -> Written:
        """Take JSON out of Redis; what is not UTF-8 becomes replacement characters."""
        return super().__new__(cls, text.decode("utf-8", "replace"))


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
    retry_after = error.retry_after or _RETRY_AFTER.get(error.status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    if isinstance(error, AuthError):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status in _CLOSING:
        response.force_close()
    return response


def _json(body: Mapping[str, Any], status: int) -> web.Response:
    return web.Response(
        body=_text(body).encode(errors="backslashreplace"),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers=_PRIVATE,
    )


def _text(value: Any) -> str:
    """Return a value as compact JSON."""
    if isinstance(value, Written):
        return str(value)
    if isinstance(value, Mapping):
        return (
            "{" + ",".join(f"{_ENCODER.encode(name)}:{_text(inner)}" for name, inner in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return _ENCODER.encode(value)


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
    told = _told(request, error)
    metrics = request.app[METRICS]
    metrics.requests_refused.labels(told.code).inc()
    if told.status in (401, 403):
        metrics.auth_failures.labels(told.code).inc()
    response = failure(told)
    if isinstance(error, web.HTTPException) and "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def refusal_of(error: web.HTTPException) -> GatewayError:
    """Return the refusal that stands for one of aiohttp's; raises what is no refusal."""
    if error.status not in _BY_STATUS:
        raise error
    return GatewayError(*_BY_STATUS[error.status])


def _told(request: web.Request, error: Exception) -> GatewayError:
    """Return what a caller is told; what is our own fault is told to the log alone."""
    if isinstance(error, web.HTTPException):
        return refusal_of(error)
    if isinstance(error, Refused):
        return Unavailable()
    if isinstance(error, GatewayError) and error.status != 500:
        return error
    logger.error("a request failed", exc_info=error, extra={"fields": _named(request)})
    return GatewayError("internal_error", "The gateway failed on this request; its log says why.")


def _named(request: web.Request) -> dict[str, str]:
    return {"method": request.method, "path": request.path}
