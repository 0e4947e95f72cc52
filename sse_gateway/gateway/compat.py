"""Backends of the old kind: one global channel for all sessions, and the latest event of each kind in a slot.

What they publish reaches the streams of this gateway as plain events do. Their permission requests are
asked by the script under an id that is the same in every gateway (`lg-`), and are never shown as they
come: the script's own event is.
"""

from __future__ import annotations

import asyncio
import logging
import random

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import PlainEvent, check_plain, loads_strict
from sse_gateway.core.keys import check_session_id
from sse_gateway.core.wire import encode_event
from sse_gateway.gateway.live import Live
from sse_gateway.gateway.plain_requests import MINTED_PREFIX, PlainRequests
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.connection import Store
from sse_gateway.store.permissions import Permissions
from sse_gateway.store.push import Push

logger = logging.getLogger(__name__)

_SHOWN_SLOTS = ("tool_status", "tool_result")
_CLEARED = "cleared_by_backend"


class Compat:
    """Listen to the old channel and read the old slots."""

    def __init__(
        self,
        store: Store,
        *,
        push: Push,
        live: Live,
        permissions: Permissions,
        requests: PlainRequests,
        max_event_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._push = push
        self._live = live
        self._permissions = permissions
        self._requests = requests
        self._max_event_bytes = max_event_bytes
        self._metrics = metrics
        self._tasks = Tasks()
        self.channel = store.keys.old_events_channel.encode()

    def start(self) -> None:
        """Hold the old channel for good."""
        self._tasks.spawn(self._hold_channel(), name="old channel")

    async def stop(self) -> None:
        """Stop what is under way."""
        await self._tasks.stop()

    def receive(self, payload: bytes) -> None:
        """Take a message `{session_id, type, data, timestamp}`; without streams here it is nobody's."""
        try:
            message = loads_strict(payload)
            session_id = check_session_id(str(message["session_id"]))
        except (GatewayError, TypeError, KeyError):
            self._metrics.malformed_received += 1
            return
        feed = self._live.feed_of(session_id)
        if feed is None:
            return
        if message.get("type") == "permission_cleared":
            self._tasks.spawn(self._cancel(session_id), name="old request cleared")
        else:
            self._live.receive(feed.channel, payload)

    async def snapshot(self, session_id: str) -> list[bytes]:
        """Return the frames of the old slots, having asked what the permission slot holds.

        Called before the history is read, so that the request is among the open ones. Raises Unavailable.
        """
        shown = []
        for slot in _SHOWN_SLOTS:
            event = await self._slot(slot, session_id)
            if event is not None:
                shown.append(encode_event(event.data))
        request = await self._slot("permission_request", session_id)
        if request is not None:
            await self._requests.ask(session_id, request)
        return shown

    async def _slot(self, slot: str, session_id: str) -> PlainEvent | None:
        """Return a slot as a plain event; it holds the event, or only its data."""
        held = await self._store.command("GET", self._store.keys.old_slot(slot, session_id))
        if held is None:
            return None
        try:
            members = loads_strict(held)
            if not (isinstance(members, dict) and members.get("type") == slot):
                held = b'{"type":"%b","data":%b}' % (slot.encode(), held)
            return check_plain(held, session_id, max_bytes=self._max_event_bytes)
        except GatewayError as error:
            logger.warning("an old slot was left out: %s", error.message, extra={"fields": {"slot": slot}})
            return None

    async def _cancel(self, session_id: str) -> None:
        """Cancel the old backend's own requests; every gateway tries, one does it."""
        try:
            for request in (await self._permissions.pending(session_id)).pending:
                if request.request_id.startswith(MINTED_PREFIX):
                    await self._permissions.cancel(session_id, request.request_id, reason=_CLEARED)
        except GatewayError as error:
            logger.warning("an old backend's request could not be cancelled: %s", error.message)

    async def _hold_channel(self) -> None:
        while True:
            try:
                await self._push.acquire(self.channel)
            except Unavailable:
                await asyncio.sleep(random.uniform(0.3, 0.8))
            else:
                return
