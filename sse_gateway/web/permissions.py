"""Answering permission requests; and listing, awaiting and claiming decisions."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import PUBLISH, READ, RESPOND
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import iso_ms, loads_strict
from sse_gateway.core.permissions import Answer, check_request_id
from sse_gateway.web.bodies import idempotency_key, json_body
from sse_gateway.web.identity import require, session_of
from sse_gateway.web.keys import GATEWAY
from sse_gateway.web.replies import Written, success

MAX_WAIT_SECONDS = 60.0


async def respond(request: web.Request) -> web.Response:
    """Take a human's answer; the body is `core.permissions.Answer`."""
    session_id = session_of(request)
    principal = await require(request, session_id, RESPOND)
    settled = await request.app[GATEWAY].answers.answer(
        session_id,
        Answer.parse(await json_body(request)),
        decided_by=principal.user,
        idempotency_key=idempotency_key(request),
    )
    return success(
        {
            "session_id": session_id,
            "request_id": settled.decision["request_id"],
            "outcome": settled.decision["outcome"],
            "replayed": settled.replayed,
            "decision": Written(settled.text),
        },
        message=f"Permission {settled.decision['outcome']}.",
    )


async def overview(request: web.Request) -> web.Response:
    """List the open requests in the order asked, and the recent decisions, the newest first."""
    session_id = session_of(request)
    await require(request, session_id, READ)
    found = await request.app[GATEWAY].permissions.pending(session_id)
    return success(
        {
            "session_id": session_id,
            "pending": [Written(item.request) for item in found.pending],
            "recent": [
                {"request_id": item.request_id, "state": item.state, "decision": Written(item.decision)}
                for item in found.recent
            ],
            "server_time": iso_ms(found.now_ms),
        }
    )


async def decision(request: web.Request) -> web.Response:
    """Return one request's standing, waiting up to `?wait=` seconds for its decision."""
    session_id = session_of(request)
    await require(request, session_id, PUBLISH)
    return success(
        await request.app[GATEWAY].waits.decision(
            session_id, _request_id(request), seconds=_wait_seconds(request)
        )
    )


async def claim(request: web.Request) -> web.Response:
    """Take a decision for one worker; the body is `{"worker_id": str}`."""
    session_id = session_of(request)
    await require(request, session_id, PUBLISH)
    body = loads_strict(await json_body(request), unique_keys=True)
    worker_id = body.get("worker_id") if isinstance(body, dict) else None
    if not isinstance(worker_id, str) or not 0 < len(worker_id.encode(errors="replace")) <= 256:
        raise GatewayError("bad_request", "'worker_id' must be a string of 1 to 256 bytes.")
    if not worker_id.isprintable():
        raise GatewayError("bad_request", "'worker_id' must have printable characters only.")
    claimed = await request.app[GATEWAY].permissions.claim(session_id, _request_id(request), worker_id)
    return success({"claimed": claimed})


def _request_id(request: web.Request) -> str:
    return check_request_id(request.match_info["request_id"])


def _wait_seconds(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise GatewayError(
            "bad_parameter", f"'wait' must be a number from 0 to {MAX_WAIT_SECONDS:g} seconds."
        )
    return seconds
