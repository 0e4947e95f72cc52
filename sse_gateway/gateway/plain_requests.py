"""Permission requests that were merely published: asked by the script, never shown as they came.

Every gateway that hears one asks it, and one of them wins; so its id must be the same in all of them. It
is a digest of what was published, which needs something in it that tells one asking from the next.
"""

from __future__ import annotations

import functools
import hashlib
import logging

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import PlainEvent, member_place
from sse_gateway.gateway.complaints import Complaints
from sse_gateway.gateway.turns import Turns
from sse_gateway.metrics import Metrics
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

MINTED_PREFIX = "lg-"


class PlainRequests:
    """Ask what was published without the script."""

    def __init__(self, permissions: Permissions, *, turns: Turns, metrics: Metrics) -> None:
        self._permissions = permissions
        self._turns = turns
        self._metrics = metrics
        self._complaints = Complaints()

    def receive(self, session_id: str, event: PlainEvent) -> None:
        """Ask the request, in its turn."""
        ask = functools.partial(self.ask, session_id, event)
        self._turns.take(session_id, ask, held_bytes=len(event.data))

    def name(self, session_id: str, event: PlainEvent) -> str | None:
        """Return the id that the request has in every gateway; None, which is logged, if it can have none."""
        data = event.members.get("data")
        if isinstance(data, dict):
            if data.get("request_id"):
                return str(data["request_id"])
            if data.get("timestamp"):
                digest = hashlib.sha256(session_id.encode() + _request_of(event)).hexdigest()
                return MINTED_PREFIX + digest[:20]
        self._metrics.malformed_received += 1
        if self._complaints.is_news(session_id):
            logger.warning(
                "dropped a published permission request without 'request_id' or 'data.timestamp'",
                extra={"fields": {"session": session_id}},
            )
        return None

    async def ask(self, session_id: str, event: PlainEvent) -> None:
        """Ask the request; a refusal is logged, since its publisher cannot be told. Raises Unavailable."""
        request_id = self.name(session_id, event)
        if request_id is None:
            return
        request = _request_of(event)
        if not event.members["data"].get("request_id"):
            request = _with_id(request, request_id.encode())
        try:
            await self._permissions.ask(session_id, request)
        except Unavailable:
            raise
        except GatewayError as error:
            if self._complaints.is_news(session_id):
                logger.warning(
                    "a published permission request was refused: %s",
                    error.message,
                    extra={"fields": {"session": session_id, "code": error.code}},
                )


def _request_of(event: PlainEvent) -> bytes:
    """Return the publisher's own bytes of an event's data."""
    place = member_place(event.data, "data")
    assert place is not None
    return event.data[place]


def _with_id(request: bytes, request_id: bytes) -> bytes:
    """Return the request's bytes with this id, in place of one that says nothing."""
    place = member_place(request, "request_id")
    if place is None:
        return b'{"request_id":"%b",%b' % (request_id, request[1:])
    return b'%b"%b"%b' % (request[: place.start], request_id, request[place.stop :])
