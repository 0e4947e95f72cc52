"""A page as a browser keeps it: one stream at a time, and back with the last `id:` whenever it ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from sse_gateway.core.cursor import Cursor
from tests.support.sse import Event
from tests.support.stream import SSEStream, StreamError
from tests.support.tokens import token
from tests.support.wait import until

HURRY_SECONDS = 0.2
"""A browser waits as long as `retry:` says, seconds; these pages wait at most this long."""


class HasEvents(Protocol):
    """A gateway, or what stands before several."""

    def events(self, session_id: str, query: str = "") -> str:
        """Return the address of a session's stream."""


class Page:
    """Follow a session by turns at each of the gateways; `async with Page(…)` until the block ends.

    What makes a native `EventSource` give up for ever makes this give up too, and fails the test that waits.
    """

    def __init__(
        self, session_id: str, gateways: Sequence[HasEvents], *, query: str = "replay=all", cursor: str = ""
    ) -> None:
        self.session_id = session_id
        self.streams: list[SSEStream] = []
        """One after the other, as they were opened."""
        self.began_at = self.cursor = cursor
        """The last `id:` that came."""
        self.gave_up: str | None = None
        self._gateways = gateways
        self._query = query
        self._token = token(session_id=session_id)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name=f"page of {self.session_id}")
        await self.until(lambda: self.named("ready"), "the first ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Close the tab."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for stream in self.streams:
            stream.close()

    @property
    def events(self) -> list[Event]:
        """Everything that came, over all its streams."""
        return [event for stream in self.streams for event in stream.events]

    @property
    def position(self) -> str:
        """The last `id:` that came on any stream."""
        return (self.streams[-1].parser.last_event_id if self.streams else "") or self.cursor

    @property
    def resets(self) -> list[str]:
        """The reasons of the resets it was told of."""
        return [told["reason"] for told in self.named("stream_reset")]

    def named(self, name: str) -> list[Any]:
        """The data of the named events of this name."""
        return [told for stream in self.streams for told in stream.named(name)]

    def durable(self) -> Iterator[Any]:
        """The durable events in the order they came."""
        return (event.json for event in self.events if event.type == "message" and event.id is not None)

    def transient(self) -> list[Any]:
        """The events without an id, heartbeats left out; snapshots are among them."""
        return [message for stream in self.streams for message in stream.messages if "id" not in message]

    @property
    def heartbeats(self) -> list[float]:
        """When heartbeats came (`time.monotonic()`)."""
        return [
            at
            for stream in self.streams
            for event, at in zip(stream.events, stream.arrivals, strict=True)
            if event.type == "message" and event.id is None and event.json["type"] == "heartbeat"
        ]

    async def back(self) -> None:
        """Wait until it has an open stream that is live."""
        await self.until(
            lambda: self.streams and self.streams[-1].end is None and self.streams[-1].named("ready"),
            "a live stream",
        )

    async def reaches(self, id: str, *, seconds: float = 15.0) -> None:
        """Wait until it has come to this position, or in the same epoch further."""
        wanted = Cursor.parse(id)
        assert wanted is not None

        def there() -> bool:
            at = Cursor.parse(self.position)
            return at is not None and at.epoch == wanted.epoch and at.seq >= wanted.seq

        await self.until(there, f"position {id}", seconds=seconds)

    async def until(self, condition: Any, what: str, *, seconds: float = 15.0) -> Any:
        """Wait until the condition is true; fail at once when the page has given up."""

        def met() -> Any:
            assert self.gave_up is None, self.gave_up
            return condition()

        try:
            return await until(met, what, seconds=seconds, every=0.01)
        except AssertionError as error:
            tail = [(event.type, event.id, event.data[:90]) for event in self.events[-6:]]
            raise AssertionError(f"{error}; at {self.position!r}, gave up: {self.gave_up}, {tail}") from None

    async def _follow(self) -> None:
        for gateway in itertools.cycle(self._gateways):
            try:
                stream = await SSEStream.open(
                    gateway.events(self.session_id, self._query),
                    token=self._token,
                    last_event_id=self.cursor or None,
                )
            except (OSError, TimeoutError, StreamError):
                # Refused, or cut before there was an answer: a browser retries that.
                await asyncio.sleep(HURRY_SECONDS)
                continue
            if not stream.streaming:
                self.gave_up = f"{stream.status} {stream.body[:300]!r}"
                return
            self.streams.append(stream)
            try:
                await stream.ended(seconds=3600)
            except StreamError as error:
                self.gave_up = str(error)
                return
            self.cursor = self.position
            await asyncio.sleep(min((stream.parser.retry or 0) / 1000, HURRY_SECONDS))
