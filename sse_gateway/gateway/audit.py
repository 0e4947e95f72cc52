"""The audit trail: one line for each decision, over all gateways, whoever made it.

A gateway that takes a human's answer writes the line at once, and marks the decision in Redis. Every other
way a request is settled (a deadline, the agent, a gateway that died before it could write) is heard by all
gateways on the answers' channels; each asks Redis for it, and the first to set the mark writes the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import loads_kept
from sse_gateway.core.keys import check_session_id
from sse_gateway.core.permissions import check_request_id
from sse_gateway.gateway.records import record_decision
from sse_gateway.gateway.tasks import Tasks
from sse_gateway.metrics import Metrics
from sse_gateway.store.connection import Store
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

MARK_SECONDS = 86400
MOST_ASKED = 100
"""Of one session, decisions that Redis is being asked for; its scripts allow no more to be open at once."""
MOST_ASKED_IN_ALL = 10_000
MAX_AROUND_BYTES = 16 * 1024
"""What a decision may have beside MAX_EVENT_BYTES: its time, or else a quoted reason that no human gave."""
_PRECEDENCE_SECONDS = (2.0, 3.0)
"""How long the gateway that took a human's answer has to set its mark: it is busy, or dead."""
_GATHER_SECONDS = (0.05, 0.1)
_SPREAD_SECONDS = (0.05, 0.25)
"""Nobody has precedence at any other decision; but not all need ask in the same moment."""
_LOOK_SECONDS = (0.8, 1.2)
_RETRY_SECONDS = (0.3, 0.8)
_TRIES = 100


class Audit:
    """Write the lines that are this gateway's to write, and count them."""

    def __init__(self, store: Store, *, permissions: Permissions, metrics: Metrics) -> None:
        self._store = store
        self._permissions = permissions
        self._metrics = metrics
        self._said: set[tuple[str, str]] = set()
        """Sessions and requests that are said to be decided, until Redis is asked."""
        self._asking: Counter[str] = Counter()
        """Session → of how many requests Redis is being asked, or is about to be."""
        self._asking_in_all = 0
        self._crowded: set[str] = set()
        """Sessions of which more was said than can be asked for one by one."""
        self._known: set[str] = set()
        """Marks of true decisions that are being dealt with."""
        self._unmarked: list[str] = []
        """Marks of what was settled here that Redis has not been told of."""
        self._stopping = asyncio.Event()
        self._tasks = Tasks()

    async def stop(self) -> None:
        """Deal with what was heard of, without waiting, for as long as that is a matter of moments."""
        self._stopping.set()
        await self._tasks.join(seconds=2)
        await self._tasks.stop()

    def settled(self, session_id: str, decision: Mapping[str, Any]) -> None:
        """Write the line of a decision that this gateway's own call has made."""
        record_decision(session_id, decision, self._metrics)
        mark = self._store.keys.audited(session_id, decision["request_id"], decision["decided_at"])
        # What is heard of it now is no news.
        self._known.add(mark)
        asyncio.get_running_loop().call_later(_PRECEDENCE_SECONDS[1], self._known.discard, mark)
        if not self._unmarked:
            self._tasks.spawn(self._mark(), name="audit marks")
        self._unmarked.append(mark)

    def heard(self, session_id: str, said: object) -> None:
        """Take in what is said of a decision: anybody may say things on a channel.

        Until Redis is asked nothing is believed, kept or marked. Where so much is said of a session that its
        decisions could go under in it, those that it has are looked up instead.
        """
        if not isinstance(said, dict):
            return
        request_id = str(said.get("request_id"))
        try:
            check_session_id(session_id)
            check_request_id(request_id)
        except GatewayError:
            return
        mark = self._store.keys.audited(session_id, request_id, str(said.get("decided_at")))
        if (session_id, request_id) in self._said or mark in self._known:
            return
        if self._asking[session_id] < MOST_ASKED and self._asking_in_all < MOST_ASKED_IN_ALL:
            self._said.add((session_id, request_id))
            self._asking[session_id] += 1
            self._asking_in_all += 1
            self._tasks.spawn(self._ask(session_id, request_id), name="audit")
        elif session_id not in self._crowded and len(self._crowded) < MOST_ASKED_IN_ALL:
            self._crowded.add(session_id)
            self._tasks.spawn(self._look(session_id), name="audit look")

    async def _mark(self) -> None:
        """Set the marks of what was settled here within a moment."""
        await self._pause(_GATHER_SECONDS)
        marks, self._unmarked = self._unmarked, []
        for _ in range(_TRIES):
            replies = await self._store.send_many(
                [(mark, ("SET", mark, "1", "EX", MARK_SECONDS)) for mark in marks]
            )
            marks = [mark for mark, reply in zip(marks, replies, strict=True) if isinstance(reply, Exception)]
            if not marks:
                return
            await self._pause(_RETRY_SECONDS)

    async def _ask(self, session_id: str, request_id: str) -> None:
        """Ask for the decision that was heard of, and deal with it if there is one."""
        kept = None
        try:
            await self._pause(_SPREAD_SECONDS)
            # Before the answer: the true one may be heard while that about a forged one is on its way.
            self._said.discard((session_id, request_id))
            with contextlib.suppress(GatewayError):
                kept = (await self._insist(self._permissions.request, session_id, request_id)).decision
        finally:
            self._asking_in_all -= 1
            self._asking[session_id] -= 1
            if not self._asking[session_id]:
                del self._asking[session_id]
        if kept is not None:
            await self._consider(session_id, request_id, kept)

    async def _look(self, session_id: str) -> None:
        """Deal with the recent decisions of a session, at most once a second."""
        await self._pause(_LOOK_SECONDS)
        self._crowded.discard(session_id)
        with contextlib.suppress(GatewayError):
            recent = (await self._insist(self._permissions.pending, session_id)).recent
            await asyncio.gather(
                *(self._consider(session_id, item.request_id, item.decision) for item in recent)
            )

    async def _consider(self, session_id: str, request_id: str, kept: bytes) -> None:
        """Write the line of a true decision, unless another gateway does."""
        try:
            decision = loads_kept(kept)
            mark = self._store.keys.audited(session_id, request_id, decision["decided_at"])
        except (ValueError, TypeError, KeyError):
            # No script wrote this, but somebody who may write the session's keys.
            return
        if mark in self._known:
            return
        self._known.add(mark)
        # A name of its own for each attempt: a reply may be lost, and then the mark found is ours.
        attempt = secrets.token_hex(8).encode()
        try:
            if decision.get("source") == "human":
                await self._pause(_PRECEDENCE_SECONDS)
            with contextlib.suppress(Unavailable):
                found = await self._insist(
                    self._store.command, "SET", mark, attempt, "NX", "GET", "EX", MARK_SECONDS
                )
                if found in (None, attempt):
                    record_decision(session_id, decision, self._metrics)
        finally:
            self._known.discard(mark)

    async def _insist(self, ask: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Ask Redis until it answers; raises Unavailable, and says so, where it is away for too long."""
        for _ in range(_TRIES):
            try:
                return await ask(*arguments)
            except Unavailable:
                await self._pause(_RETRY_SECONDS)
        logger.warning("decisions are not in the audit trail, since Redis was away for too long")
        raise Unavailable

    async def _pause(self, seconds: tuple[float, float]) -> None:
        """Wait a while, but not while stopping."""
        try:
            async with asyncio.timeout(random.uniform(*seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return
        await asyncio.sleep(0.05)
