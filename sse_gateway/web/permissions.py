"""Answering permission requests; and listing, awaiting, claiming and withdrawing them."""

from __future__ import annotations

from typing import Any

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
    gateway = request.app[GATEWAY]
    found = await gateway.permissions.pending(session_id)
    status = await gateway.history.status(session_id)
    return success(
        {
            "session_id": session_id,
            "viewers": status.viewers,
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
    principal = await require(request, session_id, PUBLISH)
    return success(
        await request.app[GATEWAY].waits.decision(
            session_id, _request_id(request), seconds=_wait_seconds(request), user=principal.user
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


async def cancel(request: web.Request) -> web.Response:
    """Withdraw an open request; the body is `{"reason": str?, "if_no_viewer": bool?}`.

    Returns how the request stands then, as `decision` does: what settled it earlier stays.
    """
    session_id = session_of(request)
    await require(request, session_id, PUBLISH)
    body = loads_strict(await json_body(request), unique_keys=True)
    reason, if_no_viewer = _withdrawal(body)
    return success(
        await request.app[GATEWAY].permissions.cancel(
            session_id, _request_id(request), reason=reason, if_no_viewer=if_no_viewer
        )
    )


def _withdrawal(body: Any) -> tuple[str | None, bool]:
    # A misspelt condition must not become a withdrawal without one.
    if not isinstance(body, dict) or body.keys() - {"reason", "if_no_viewer"}:
        raise GatewayError("bad_request", "The body is an object with 'reason' and 'if_no_viewer' at most.")
    reason, if_no_viewer = body.get("reason"), body.get("if_no_viewer", False)
    if not isinstance(reason, str | None) or not isinstance(if_no_viewer, bool):
        raise GatewayError("bad_request", "'reason' must be a string, 'if_no_viewer' true or false.")
    try:
        (reason or "").encode()
    except UnicodeEncodeError:
        raise GatewayError("bad_request", "'reason' has half of a surrogate pair.") from None
    return reason, if_no_viewer


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
