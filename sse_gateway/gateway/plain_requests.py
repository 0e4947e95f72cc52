"""Permission requests that were merely published: asked by the script, never shown as they came.

Every gateway that hears one asks it, and one of them wins; so its id must be the same in all of them. It
is a digest of what was published, which needs something in it that tells one asking from the next.
"""

from __future__ import annotations

import hashlib
import logging

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import PlainEvent, raw_member
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

MINTED_PREFIX = "lg-"


class PlainRequests:
    """Ask what was published without the script."""

    def __init__(self, permissions: Permissions, *, metrics: Metrics) -> None:
        self._permissions = permissions
        self._metrics = metrics
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Stop what is under way."""
        await self._tasks.stop()

    def receive(self, session_id: str, event: PlainEvent) -> None:
        """Begin asking a request that came by the push connection."""
        self._tasks.spawn(self.ask(session_id, event), name="plain request")

    async def ask(self, session_id: str, event: PlainEvent) -> None:
        """Ask the request; a refusal is logged, since its publisher cannot be told."""
        data = event.members.get("data")
        raw = raw_member(event.data, "data")
        if not isinstance(data, dict) or raw is None or not (data.get("request_id") or data.get("timestamp")):
            self._metrics.malformed_received += 1
            logger.warning(
                "dropped a published permission request without 'request_id' or 'data.timestamp'",
                extra={"fields": {"session": session_id}},
            )
            return
        if not data.get("request_id"):
            digest = hashlib.sha256(session_id.encode() + raw).hexdigest()[:20]
            raw = b'{"request_id":"%b%b",%b' % (MINTED_PREFIX.encode(), digest.encode(), raw[1:])
        try:
            await self._permissions.ask(session_id, raw)
        except GatewayError as error:
            logger.warning(
                "a published permission request was refused: %s",
                error.message,
                extra={"fields": {"session": session_id, "code": error.code}},
            )
