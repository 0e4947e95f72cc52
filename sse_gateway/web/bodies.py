"""What a POST brings: its JSON body and its `Idempotency-Key`."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.core.errors import GatewayError

MAX_IDEMPOTENCY_KEY = 128


async def json_body(request: web.Request) -> bytes:
    """Return the body of a POST that says it is JSON, else raise `unsupported_media_type`."""
    if request.content_type != "application/json":
        raise GatewayError("unsupported_media_type", "Send JSON with 'Content-Type: application/json'.")
    return await request.read()


def idempotency_key(request: web.Request) -> str | None:
    """Return the `Idempotency-Key` header, checked."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise GatewayError(
            "bad_parameter",
            f"'Idempotency-Key' must have 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters.",
        )
    return key
