"""Backends of the old kind: one global channel for all sessions, and the latest event of each kind in a slot.

What they publish reaches the streams of this gateway as plain events do. Their permission requests are
asked by the script under an id that is the same in every gateway (`lg-`), and are never shown as they
come: the script's own event is. Every gateway hears the whole channel in one order, and deals with what is
about a session's permissions in that order; but one may be behind another. What lies in a slot has no place
in that order, until the gateway that found it there has published a mark and heard it.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import PlainEvent, check_plain, loads_strict
from sse_gateway.core.keys import check_session_id
from sse_gateway.core.wire import encode_event
from sse_gateway.gateway.complaints import Complaints
from sse_gateway.gateway.live import Live
from sse_gateway.gateway.plain_requests import MINTED_PREFIX, PlainRequests
from sse_gateway.gateway.turns import Turns
from sse_gateway.metrics import Metrics
from sse_gateway.store.connection import Store
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

CLEAR_SECONDS = 600
"""How far a gateway may be behind the others and still know that a clear was dealt with."""
SLOT_SECONDS = 30 * 86400
"""How long a slot that nobody empties and nobody looks at is known to have been asked."""
MOST_SESSIONS = 10_000
MOST_HEARD = 100
"""Requests of one session; the scripts allow no more to be open."""
MARK_SECONDS = 3.0
"""How long a mark may take to come back, and what came before it to be dealt with."""
_MARK = "gateway_mark"
_SHOWN_SLOTS = ("tool_status", "tool_result")
_CLEARED = "cleared_by_backend"


class Compat:
    """Listen to the old channel and read the old slots."""

    def __init__(
        self,
        store: Store,
        *,
        live: Live,
        permissions: Permissions,
        requests: PlainRequests,
        turns: Turns,
        max_event_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._live = live
        self._permissions = permissions
        self._requests = requests
        self._turns = turns
        self._max_event_bytes = max_event_bytes
        self._metrics = metrics
        self._heard: OrderedDict[str, list[str]] = OrderedDict()
        """Session → its `lg-` requests heard since the last clear; the session heard of last at the end."""
        self._marks: dict[str, Callable[[], Awaitable[None]]] = {}
        """Mark of ours that is on its way → what to do in its turn."""
        self._complaints = Complaints()
        self.channel = store.keys.old_events_channel.encode()

    def receive(self, payload: bytes) -> None:
        """Take a message `{session_id, type, data, timestamp}`."""
        if len(payload) > self._max_event_bytes:
            # More than an event may have: nothing of it is read.
            self._metrics.malformed_received += 1
            return
        try:
            message = loads_strict(payload)
            session_id = check_session_id(str(message["session_id"]))
        except (GatewayError, TypeError, KeyError):
            self._metrics.malformed_received += 1
            return
        kind = message.get("type")
        if kind == "permission_cleared":
            clear = functools.partial(self._clear, session_id, payload, message)
            self._turns.take(session_id, clear, held_bytes=len(payload))
        elif kind == "permission_request":
            self._receive_request(session_id, payload)
        elif kind == _MARK:
            call = self._marks.pop(str(message.get("mark")), None)
            if call is not None:
                self._turns.take(session_id, call, held_bytes=len(payload))
        elif (feed := self._live.feed_of(session_id)) is not None:
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
        while (found := await self._unasked(session_id)) is not None:
            if await self._mark(session_id, found[0]):
                break
        return shown

    async def _slot(self, slot: str, session_id: str) -> PlainEvent | None:
        """Return a slot as a plain event; it holds the event, or only its data."""
        held = await self._store.command("GET", self._store.keys.old_slot(slot, session_id))
        if held is None:
            return None
        try:
            members = loads_strict(held) if len(held) <= self._max_event_bytes else None
            if not (isinstance(members, dict) and members.get("type") == slot):
                held = b'{"type":"%b","data":%b}' % (slot.encode(), held)
            return check_plain(held, session_id, max_bytes=self._max_event_bytes)
        except GatewayError as error:
            logger.warning("an old slot was left out: %s", error.message, extra={"fields": {"slot": slot}})
            return None

    async def _unasked(self, session_id: str) -> tuple[str, PlainEvent] | None:
        """Return what lies in the slot and its id, unless it was asked: many backends leave it there."""
        event = await self._slot("permission_request", session_id)
        request_id = self._requests.name(session_id, event) if event is not None else None
        if event is None or request_id is None:
            return None
        asked = await self._store.command("GET", self._store.keys.slot_asked(session_id))
        return None if asked == request_id.encode() else (request_id, event)

    async def _mark(self, session_id: str, request_id: str) -> bool:
        """Have a request that lies in the slot asked in its turn; return whether it lay there still.

        It lay there before the mark was published, so a clear that is heard after the mark is meant for it.
        A clear heard before the mark is dealt with first: if it was meant for this request, the slot is empty
        by then, or says that it need not be asked; if not, it finds nothing of it to cancel.
        """
        mark = secrets.token_hex(8)
        marked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._marks[mark] = functools.partial(self._ask_marked, session_id, request_id, marked)
        payload = {"session_id": session_id, "type": _MARK, "mark": mark}
        try:
            async with asyncio.timeout(MARK_SECONDS):
                await self._store.publish_channel(self.channel.decode(), json.dumps(payload))
                return await marked
        except TimeoutError:
            raise Unavailable("What old backends said before could not be dealt with in time.") from None
        finally:
            self._marks.pop(mark, None)

    async def _ask_marked(self, session_id: str, request_id: str, marked: asyncio.Future[bool]) -> None:
        """Ask what was found in the slot, if it is still there and somebody still waits for it."""
        if marked.done():
            return
        found = await self._unasked(session_id)
        still = found is not None and found[0] == request_id
        if found is not None and still:
            await self._requests.ask(session_id, found[1])
            self._hear(session_id, request_id)
            slot = self._store.keys.old_slot("permission_request", session_id)
            if await self._store.command("GET", slot) is None:
                # Taken back meanwhile, by a backend that says so before it empties the slot.
                await self._cancel(session_id, request_id)
            await self._asked(session_id, request_id)
        if not marked.done():
            marked.set_result(still)

    def _receive_request(self, session_id: str, payload: bytes) -> None:
        try:
            event = check_plain(payload, session_id, max_bytes=self._max_event_bytes)
        except GatewayError as error:
            self._metrics.malformed_received += 1
            if self._complaints.is_news(session_id):
                logger.warning(
                    "dropped an old backend's permission request: %s",
                    error.message,
                    extra={"fields": {"session": session_id, "code": error.code}},
                )
            return
        self._metrics.plain_received += 1
        request_id = self._requests.name(session_id, event)
        if request_id is not None:
            ask = functools.partial(self._request, session_id, request_id, event)
            self._turns.take(session_id, ask, held_bytes=len(payload))

    async def _request(self, session_id: str, request_id: str, event: PlainEvent) -> None:
        """Ask a request if somebody is watching here; who comes later finds it in its slot."""
        if self._live.feed_of(session_id) is not None:
            await self._requests.ask(session_id, event)
            await self._asked(session_id, request_id)
        self._hear(session_id, request_id)

    async def _asked(self, session_id: str, request_id: str) -> None:
        """Say that a request need not be asked from its slot any more."""
        await self._store.command(
            "SET", self._store.keys.slot_asked(session_id), request_id, "EX", SLOT_SECONDS
        )

    def _hear(self, session_id: str, request_id: str) -> None:
        """Remember a request for the clear that may follow it."""
        heard = self._heard.setdefault(session_id, [])
        if request_id.startswith(MINTED_PREFIX) and request_id not in heard:
            heard.append(request_id)
            del heard[:-MOST_HEARD]
        self._heard.move_to_end(session_id)
        if len(self._heard) > MOST_SESSIONS:
            self._heard.popitem(last=False)

    async def _clear(self, session_id: str, payload: bytes, message: dict[str, Any]) -> None:
        """Cancel the request that a clear names, or else the backend's requests that came before it.

        Those heard here came before it. What else is open may have been asked by a gateway that is gone; but
        if another gateway has dealt with this clear already, it may also have been asked since, by one that
        is ahead of us. The order of the two looks matters: nobody asks what comes after the clear before the
        mark is set.
        """
        data = message.get("data")
        named = data.get("request_id") if isinstance(data, dict) else None
        if not isinstance(named, str):
            named = ""
        if named and await self._cancel(session_id, named):
            return
        heard = self._heard.get(session_id, [])
        pending = [request.request_id for request in (await self._permissions.pending(session_id)).pending]
        mark = self._store.keys.old_clear(session_id, hashlib.sha256(payload).hexdigest()[:20])
        known = await self._store.command("GET", mark) is not None
        for request_id in pending:
            if request_id in heard or (not known and request_id.startswith(MINTED_PREFIX)):
                await self._cancel(session_id, request_id)
        if named or heard:
            # It may lie in its slot still, without ever having been asked.
            await self._asked(session_id, named or heard[-1])
        await self._store.command("SET", mark, "1", "EX", CLEAR_SECONDS)
        self._heard.pop(session_id, None)

    async def _cancel(self, session_id: str, request_id: str) -> bool:
        """Cancel a request if it is open; return whether there is such a request. Raises Unavailable."""
        try:
            await self._permissions.cancel(session_id, request_id, reason=_CLEARED)
        except Unavailable:
            raise
        except GatewayError as error:
            known = error.code in ("unknown_request", "bad_request")
            if not known and self._complaints.is_news(session_id):
                logger.warning("an old backend's request could not be cancelled: %s", error.message)
            return False
        return True
