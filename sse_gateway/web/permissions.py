"""Answering permission requests, and listing, awaiting and claiming decisions."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import RESPOND
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.permissions import Answer
from sse_gateway.web.identity import require, session_of
from sse_gateway.web.keys import GATEWAY
from sse_gateway.web.replies import success

MAX_IDEMPOTENCY_KEY = 128


async def respond(request: web.Request) -> web.Response:
    """Take a human's answer; the body is `core.permissions.Answer`."""
    session_id = session_of(request)
    principal = await require(request, session_id, RESPOND)
    body = await json_body(request)
    settled = await request.app[GATEWAY].answers.answer(
        session_id,
        Answer.parse(body),
        decided_by=principal.user,
        idempotency_key=idempotency_key(request),
    )
    return success(
        {
            "session_id": session_id,
            "request_id": settled.decision["request_id"],
            "outcome": settled.decision["outcome"],
            "replayed": settled.replayed,
            "decision": settled.decision,
        },
        message=f"Permission {settled.decision['outcome']}.",
    )


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
