"""An agent that numbers what it says, and says each thing until it is told that it was kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import Unavailable
from sse_gateway.core.keys import Keys
from sse_gateway.store.connection import Store
from sse_gateway.store.library import Library

CALLS = 3
"""Tool calls that the events are about in turn: the snapshot holds the last status of each."""


class Agent:
    """Publish `tool_status` events with a number in them; each under its own key, so none is kept twice."""

    def __init__(self, url: str) -> None:
        self._keys = Keys("")
        self._store = Store(url, keys=self._keys, library=Library())
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self.kept: dict[str, int] = {}
        """Id → number, of all events that the server said it had kept."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()

    async def publish(self, session_id: str) -> str:
        """Publish one event, however long that takes, and return its id."""
        number = next(self._numbers)
        event = {
            "type": "tool_status",
            "data": {"n": number, "tool_call_id": f"call-{number % CALLS}", "status": "executing"},
        }
        while True:
            try:
                reply = await self._store.fcall(
                    "publish", session_id, json.dumps(event), f"{self._name}-{number}"
                )
            except Unavailable:
                await asyncio.sleep(random.uniform(0.02, 0.1))
                continue
            id: str = reply.decode()
            self.kept[id] = number
            return id

    async def publish_many(self, session_id: str, count: int) -> list[str]:
        """Publish so many, one after the other."""
        return [await self.publish(session_id) for _ in range(count)]

    async def ask(self, session_id: str, request_id: str) -> None:
        """Ask for a permission that nobody answers."""
        request = {"request_id": request_id, "tool_name": "bash", "parameters": {}, "risk_level": "low"}
        await self._store.fcall("ask", session_id, json.dumps(request))

    @contextlib.asynccontextmanager
    async def publishing(self, *session_ids: str, pause: float = 0.01) -> AsyncIterator[None]:
        """Publish to these sessions in turn while the block runs, and until the last event is kept."""
        over = False

        async def publish() -> None:
            for session_id in itertools.cycle(session_ids):
                if over:
                    return
                await self.publish(session_id)
                await asyncio.sleep(pause)

        task = asyncio.create_task(publish(), name="agent")
        try:
            yield
        finally:
            over = True
            await task

    async def top(self, session_id: str) -> Cursor:
        """Return the session's position."""
        epoch, seq = await self._store.command("HMGET", self._keys.meta(session_id), "epoch", "seq")
        return Cursor(epoch.decode(), int(seq))

    async def history(self, session_id: str) -> list[Any]:
        """Return the events that the session's history holds."""
        entries = await self._store.command("XRANGE", self._keys.history(session_id), "-", "+")
        # The event is the first field's value.
        return [json.loads(fields[1]) for _, fields in entries]

    async def open_requests(self, session_id: str) -> list[str]:
        """Return the ids of the requests that are open, in the order asked."""
        found = await self._store.command("ZRANGE", self._keys.pending(session_id), 0, -1)
        return [request_id.decode() for request_id in found]
