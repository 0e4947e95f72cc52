"""Who is asking: the token out of a request, and whether it reaches the session in the path."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import Principal
from sse_gateway.core.errors import AuthError
from sse_gateway.core.keys import check_session_id
from sse_gateway.web.keys import AUTHENTICATOR, GATEWAY
from sse_gateway.web.limiting import LIMITING


def session_of(request: web.Request) -> str:
    """Return the session id in the path, or raise `bad_session_id`."""
    return check_session_id(request.match_info["session_id"])


def token_of(request: web.Request, *, in_query: bool = False) -> str:
    """Return the bearer token; `in_query` also takes `?token=`, since an EventSource has no headers."""
    headers = request.headers.getall("Authorization", [])
    if len(headers) > 1 or (in_query and len(request.query.getall("token", [])) > 1):
        # A proxy that looks at tokens may have looked at the other one.
        raise AuthError("token_invalid", "Send one token, once.")
    if headers:
        scheme, _, token = headers[0].partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AuthError("token_missing", "The Authorization header must be 'Bearer <token>'.")
        return token.strip()
    token = request.query.get("token", "") if in_query else ""
    if not token:
        where = "'Authorization: Bearer <token>'" + (" or ?token=" if in_query else "")
        raise AuthError("token_missing", f"Send a token as {where}.")
    return token


async def require(request: web.Request, session_id: str, scope: str) -> Principal:
    """Return who is asking if they may do `scope` with the session, else raise 401 or 403."""
    principal = await request.app[AUTHENTICATOR].verify(token_of(request))
    request.app[LIMITING].check_user(principal.user)
    await require_reach(request, principal, session_id, scope)
    return principal


async def require_reach(request: web.Request, principal: Principal, session_id: str, scope: str) -> None:
    """Raise 403 unless a principal may do `scope` with the session.

    Redis is asked only for the owner, and only when no claim names the session: a caller without any
    right learns nothing about what exists.
    """
    authenticator = request.app[AUTHENTICATOR]
    authenticator.require_scope(principal, scope)
    if not principal.names(session_id):
        owner = (await request.app[GATEWAY].history.status(session_id)).owner
        authenticator.require_session(principal, session_id, owner)
