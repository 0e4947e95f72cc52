"""What a POST brings: its JSON body and its `Idempotency-Key`."""

from __future__ import annotations

import asyncio

from aiohttp import web

from sse_gateway.core.errors import GatewayError
from sse_gateway.web.replies import METRICS

MAX_IDEMPOTENCY_KEY = 128
BODY_SECONDS = 10.0
SLOWEST_BYTES_PER_SECOND = 32 * 1024


async def json_body(request: web.Request) -> bytes:
    """Return the body of a POST that says it is JSON, else raise `unsupported_media_type`."""
    if request.content_type != "application/json":
        raise GatewayError("unsupported_media_type", "Send JSON with 'Content-Type: application/json'.")
    transfer = request.headers.get("Transfer-Encoding", "chunked")
    if "Content-Encoding" in request.headers or transfer.lower() != "chunked":
        raise GatewayError("unsupported_media_type", "Send the body as it is, neither packed nor encoded.")
    try:
        async with asyncio.timeout(BODY_SECONDS + request.client_max_size / SLOWEST_BYTES_PER_SECOND):
            return await request.read()
    except TimeoutError:
        request.app[METRICS].connections_cut.labels("slow_body").inc()
        raise GatewayError("request_timeout", "The body took too long to arrive.") from None


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key` header, checked."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise GatewayError(
            "bad_parameter",
            f"'Idempotency-Key' must have 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters.",
        )
    return key
