"""`GET {base}/events/{session_id}`: the stream.

Order: token, claims, scope, limits → channel subscribed and acknowledged → one script reads owner,
position, entries, open requests and state → status line. A native `EventSource` gives up for ever on
any status but 200, so what a retry can cure is answered 200, `retry:`, `closing`, and a proper end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from sse_gateway.auth import READ, Principal
from sse_gateway.core import notices
from sse_gateway.core.errors import GatewayError
from sse_gateway.web.connections import CONNECTIONS
from sse_gateway.web.cors import mark
from sse_gateway.web.identity import require_reach, session_of, token_of
from sse_gateway.web.keys import AUTHENTICATOR, GATEWAY, SETTINGS
from sse_gateway.web.limiting import LIMITING
from sse_gateway.web.replies import METRICS
from sse_gateway.web.tracing import trace_of
from sse_gateway.web.transport import carry

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
REPLAY_MODES = ("snapshot", "all", "none")


async def events(request: web.Request) -> web.StreamResponse:
    """Hold one stream from its request to its end."""
    rejected = request.app[METRICS].streams_rejected
    try:
        return await _events(request)
    except _Refused as refused:
        reason, label = refused.reason, refused.label
    except ConnectionError:
        raise
    except GatewayError as error:
        reason, label = "unavailable", error.code
        if error.status < 500:
            rejected.labels(label).inc()
            raise
        if error.status == 500:
            logger.error("a stream could not be opened: %s", error.message)
    except Exception:
        if request.writer.output_size:
            raise
        logger.exception("a stream could not be opened")
        reason, label = "unavailable", "internal_error"
    rejected.labels(label).inc()
    response = await _begin(request)
    await response.write(notices.closing(reason).body)
    return response


class _Refused(Exception):
    """A stream that may be had elsewhere or in a moment."""

    def __init__(self, reason: str, label: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.label = label or reason


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request for a stream asks, checked as far as that goes without its session's history."""

    session_id: str
    principal: Principal
    client_id: str | None
    cursor: str | None
    mode: str
    ticket: str | None


async def _events(request: web.Request) -> web.StreamResponse:
    if not request.app[LIMITING].may_open_stream(request):
        raise _Refused("overloaded", "rate")
    asked = await _check(request)
    gateway = request.app[GATEWAY]
    if gateway.draining:
        raise _Refused("shutdown")
    if gateway.limits.full:
        raise _Refused("overloaded")
    gateway.limits.take(asked.session_id, asked.principal.user, asked.client_id)
    begun = False
    try:
        async with gateway.handover.gate(asked.session_id) as join:
            shown = await gateway.compat.snapshot(asked.session_id) if gateway.compat is not None else []
            reading = await gateway.handover.read(join, asked.cursor, mode=asked.mode)
            # The owner may have changed since it was looked at: what counts is what was read with the events.
            request.app[AUTHENTICATOR].require_session(asked.principal, asked.session_id, reading.owner)
            if reading.ended and reading.verdict == "ok" and not reading.entries:
                return web.Response(status=204, headers={"Cache-Control": "no-store"})
            if asked.ticket is not None:
                await gateway.tickets.redeem(asked.ticket, asked.session_id)
            response = await _begin(request)
            carrier, transport = carry(request, by=request.app[SETTINGS].stream_transport)
            try:
                stream = gateway.begin(
                    join,
                    reading,
                    transport,
                    chunked=request.version >= HttpVersion11,
                    carrier=carrier,
                    principal=asked.principal,
                    client_id=asked.client_id,
                    http_request_id=trace_of(request),
                )
            except BaseException:
                # A socket that was handed over is nobody else's to close.
                transport.abort()
                raise
            begun = True
            try:
                carrier.hold(stream)
                if asked.cursor is not None or asked.mode != "snapshot":
                    shown = []
                await gateway.handover.bring_live(join, stream, reading, cursor=asked.cursor, shown=shown)
                if reading.ended:
                    stream.close("session_ended")
                await carrier.held()
            except BaseException:
                stream.end("client_gone")
                raise
    finally:
        if not begun:
            gateway.limits.release(asked.session_id, asked.principal.user)
    return response


async def _check(request: web.Request) -> _Asked:
    """Judge everything about a request that Redis need not be asked for, and the session's owner."""
    gateway, authenticator = request.app[GATEWAY], request.app[AUTHENTICATOR]
    session_id = session_of(request)
    mode = request.query.get("replay", "snapshot")
    if mode not in REPLAY_MODES:
        raise GatewayError("bad_parameter", f"'replay' must be one of {', '.join(REPLAY_MODES)}.")
    client_id = _client_id(request)
    ticket = _ticket(request)
    if ticket is not None:
        principal = await gateway.tickets.holder(ticket, session_id)
    else:
        principal = await authenticator.verify(token_of(request, in_query=True))
    await require_reach(request, principal, session_id, READ)
    return _Asked(session_id, principal, client_id, _cursor(request), mode, ticket)


class _Head(EventSourceResponse):
    """What aiohttp-sse says of a stream, without its ping: a second writer, and a task for each stream."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head."""
        return await web.StreamResponse.prepare(self, request)


async def _begin(request: web.Request) -> EventSourceResponse:
    """Send the head at once, so that `onopen` fires everywhere."""
    response = _Head(send_timeout=None)
    response.headers.update(HEADERS)
    mark(request, response)
    response.force_close()
    await response.prepare(request)
    request.app[CONNECTIONS].streams(request.protocol)
    return response


def _cursor(request: web.Request) -> str | None:
    """Return where the client wants to go on from, whatever it looks like: a bad one ends in a reset."""
    for given in (
        request.headers.get("Last-Event-ID"),
        request.query.get("last_event_id"),
        request.query.get("lastEventId"),
    ):
        if given:
            # Bytes that are not UTF-8 came as surrogates, which cannot be sent on.
            return given[:200].encode(errors="replace").decode()
    return None


def _ticket(request: web.Request) -> str | None:
    """Return the ticket, if that is what the request comes with: a token goes before it."""
    if "Authorization" in request.headers or request.query.get("token"):
        return None
    return request.query.get("ticket") or None


def _client_id(request: web.Request) -> str | None:
    client_id = request.query.get("client_id")
    if client_id is not None and not (0 < len(client_id) <= 128 and client_id.isprintable()):
        raise GatewayError("bad_parameter", "'client_id' must have 1 to 128 printable characters.")
    return client_id
