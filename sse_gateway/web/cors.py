"""Pages of other origins: only those that are named may call the API."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from sse_gateway.web.replies import Handler

_ALLOW_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
_ALLOW_METHODS = "GET, POST"
_ORIGIN = web.RequestKey("cors_origin", str)


def allowing(origins: Collection[str]):  # type: ignore[no-untyped-def]
    """Return the middleware that answers preflights and marks responses for these origins."""

    @web.middleware
    async def cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or not (origin in origins or "*" in origins):
            return await handler(request)
        request[_ORIGIN] = origin
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: web.StreamResponse = web.Response(
                status=204,
                headers={
                    "Access-Control-Allow-Methods": _ALLOW_METHODS,
                    "Access-Control-Allow-Headers": _ALLOW_HEADERS,
                    "Access-Control-Max-Age": "600",
                },
            )
        else:
            response = await handler(request)
        if not response.prepared:
            mark(request, response)
        return response

    return cors


def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Allow the page that asked to read this response; called for a stream before its head is sent."""
    origin = request.get(_ORIGIN)
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        response.headers["Vary"] = "Origin"
