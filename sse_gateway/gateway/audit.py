"""The audit trail: one line for each decision, over all gateways, whoever made it.

A gateway that takes a human's answer writes the line at once, and marks the decision in Redis. Every other
way a request is settled (a deadline, the agent, a gateway that died before it could write) is heard by all
gateways on the answers' channels, and the first to set the mark writes the line.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
from collections.abc import Mapping
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
MOST_HEARD = 10_000
"""Decisions on their way into the trail; more at a time are no people's."""
_PRECEDENCE_SECONDS = (2.0, 3.0)
"""How long the gateway that took a human's answer has to set its mark: it is busy, or dead."""
_GATHER_SECONDS = (0.05, 0.1)
_SPREAD_SECONDS = (0.05, 0.25)
"""Nobody has precedence at any other decision; but not all need ask in the same moment."""
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_RETRY_SECONDS = (0.3, 0.8)
_TRIES = 100


class Audit:
    """Write the lines that are this gateway's to write, and count them."""

    def __init__(self, store: Store, *, permissions: Permissions, metrics: Metrics) -> None:
        self._store = store
        self._permissions = permissions
        self._metrics = metrics
        self._heard: set[str] = set()
        """Marks of the decisions heard of and not dealt with yet."""
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
        self._heard.add(mark)
        asyncio.get_running_loop().call_later(_PRECEDENCE_SECONDS[1], self._heard.discard, mark)
        if not self._unmarked:
            self._tasks.spawn(self._mark(), name="audit marks")
        self._unmarked.append(mark)

    def heard(self, session_id: str, decision: object) -> None:
        """Take in what is said of a decision; Redis is asked before it is believed."""
        if not isinstance(decision, dict) or len(self._heard) >= MOST_HEARD:
            return
        request_id, decided_at = decision.get("request_id"), decision.get("decided_at")
        if _INSTANT.fullmatch(str(decided_at)) is None:
            return
        try:
            check_session_id(session_id)
            check_request_id(str(request_id))
            mark = self._store.keys.audited(session_id, str(request_id), str(decided_at))
        except GatewayError:
            return
        if mark not in self._heard:
            self._heard.add(mark)
            wait = _PRECEDENCE_SECONDS if decision.get("source") == "human" else _SPREAD_SECONDS
            consider = self._consider(mark, session_id, str(request_id), str(decided_at), wait)
            self._tasks.spawn(consider, name="audit")

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

    async def _consider(
        self, mark: str, session_id: str, request_id: str, decided_at: str, wait: tuple[float, float]
    ) -> None:
        await self._pause(wait)
        # A name of its own for each attempt: a reply may be lost, and then the mark found is ours.
        attempt = secrets.token_hex(8).encode()
        try:
            for _ in range(_TRIES):
                try:
                    found = await self._store.command("SET", mark, attempt, "NX", "GET", "EX", MARK_SECONDS)
                    if found in (None, attempt):
                        await self._write(session_id, request_id, decided_at)
                except Unavailable:
                    await self._pause(_RETRY_SECONDS)
                else:
                    return
            logger.warning(
                "a decision is not in the audit trail, since Redis was away for too long",
                extra={"fields": {"session": session_id, "request_id": request_id}},
            )
        finally:
            self._heard.discard(mark)

    async def _write(self, session_id: str, request_id: str, decided_at: str) -> None:
        """Write the line if Redis knows the decision: anybody may say things on a channel."""
        try:
            request = await self._permissions.request(session_id, request_id)
        except Unavailable:
            raise
        except GatewayError:
            return
        decision = loads_kept(request.decision) if request.decision is not None else {}
        if decision.get("decided_at") == decided_at:
            record_decision(session_id, decision, self._metrics)

    async def _pause(self, seconds: tuple[float, float]) -> None:
        """Wait a while, but not while stopping."""
        try:
            async with asyncio.timeout(random.uniform(*seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return
        await asyncio.sleep(0.05)
