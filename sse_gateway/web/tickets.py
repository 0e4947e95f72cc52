"""`POST {base}/ticket/{session_id}`: a ticket for `?ticket=` on this session's stream."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import READ
from sse_gateway.gateway import TICKET_SECONDS
from sse_gateway.web.identity import require, session_of
from sse_gateway.web.keys import GATEWAY
from sse_gateway.web.replies import success


async def issue(request: web.Request) -> web.Response:
    """Return a one-use ticket with the rights and the expiry of the token that asks."""
    session_id = session_of(request)
    principal = await require(request, session_id, READ)
    ticket = await request.app[GATEWAY].tickets.issue(session_id, principal)
    return success({"ticket": ticket, "expires_in": TICKET_SECONDS})
