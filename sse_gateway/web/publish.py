"""`POST {base}/publish/{session_id}`: publishing for backends without Redis."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import PUBLISH
from sse_gateway.core.events import loads_strict
from sse_gateway.web.bodies import idempotency_key, json_body
from sse_gateway.web.identity import require, session_of
from sse_gateway.web.keys import GATEWAY
from sse_gateway.web.replies import success


async def publish(request: web.Request) -> web.Response:
    """Publish one event durably; the answer holds its id, or what became of a permission request."""
    session_id = session_of(request)
    await require(request, session_id, PUBLISH)
    event = await json_body(request)
    # The script reads JSON too, but takes what not every reader can: other bytes than UTF-8, endless numbers.
    loads_strict(event)
    result = await request.app[GATEWAY].history.publish(
        session_id, event, idempotency_key=idempotency_key(request)
    )
    return success(result if isinstance(result, dict) else {"id": result})
