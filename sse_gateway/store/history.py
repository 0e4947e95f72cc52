"""Durable events of a session: publish them, read them back, and say who listens.

Reads that are asked for in the same turn of the loop travel together: when a thousand streams come back
after a restart, Redis sees a few pipelines instead of a thousand round trips.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_kept
from sse_gateway.store.connection import BATCH, Store
from sse_gateway.store.failures import as_gateway_error

logger = logging.getLogger(__name__)

PAGE_BYTES = 1024 * 1024
READING_AT_ONCE = 2
"""Batches on their way, beyond which further reads wait for each other, so that they travel together."""
HELD_SECONDS = 0.005
"""How long they wait at most: one node of a Cluster may be slow."""
Mode = Literal["snapshot", "all", "none"]


class Entry(NamedTuple):
    """One retained event."""

    seq: int
    data: bytes
    """The event as it was published, with its id."""
    request_id: str | None
    """Of a permission_request."""


class Pending(NamedTuple):
    """One open permission request."""

    request_id: str
    data: bytes
    """Its event without an id."""
    expires_ms: int
    seq: int
    """Of its event."""


class Reading(NamedTuple):
    """What one call of the reading script found, as of one moment."""

    owner: str | None
    ended: bool
    epoch: str
    top: int
    verdict: str
    """none (no cursor was given), ok, or why the cursor cannot be honoured: trimmed, epoch, rolled_back,
    ahead, malformed."""
    oldest: int
    """With a cursor that cannot be honoured: the first seq that is kept, top + 1 if none is; else 0."""
    entries: list[Entry]
    more: bool
    """Further entries follow the last one."""
    pending: list[Pending]
    state: list[bytes]
    now_ms: int


class Position(NamedTuple):
    """Where Redis has a session."""

    cursor: Cursor
    ended: bool


@dataclass(frozen=True, slots=True)
class Status:
    """Where a session stands."""

    epoch: str
    """Empty where the session does not exist."""
    top: int
    owner: str | None
    ended: bool
    pending: int
    streams: int
    """Over all gateways, as `viewers` too: those whose token may answer."""
    viewers: int
    now_ms: int

    @property
    def cursor(self) -> Cursor | None:
        """Return the position of the last event, or None where the session does not exist."""
        return Cursor(self.epoch, self.top) if self.epoch else None


class History:
    """Read and write the histories of all sessions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: list[tuple[tuple[str, str, Sequence[Any]], asyncio.Future[Reading]]] = []
        """Reads that are not on their way yet."""
        self._held: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def read(
        self, session_id: str, cursor: str | None, *, mode: str = "snapshot", page_bytes: int = PAGE_BYTES
    ) -> asyncio.Future[Reading]:
        """Read from behind `cursor`, or without one as `mode` says; creates the session's numbering.

        Pages have about `page_bytes` of entries; `more` says that another one follows. The future raises
        GatewayErrors.
        """
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send_asked)
        reading: asyncio.Future[Reading] = loop.create_future()
        self._asked.append((("read", session_id, (cursor or "", mode, page_bytes)), reading))
        return reading

    def _send_asked(self) -> None:
        if len(self._tasks) < READING_AT_ONCE:
            self._send_now()
        else:
            self._held = asyncio.get_running_loop().call_later(HELD_SECONDS, self._send_now)

    def _send_now(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), BATCH):
            task = asyncio.create_task(self._read_batch(asked[start : start + BATCH]), name="read histories")
            self._tasks.add(task)
            task.add_done_callback(self._came_back)

    def _came_back(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._held is not None:
            self._send_now()

    async def _read_batch(self, asked: list[tuple[Any, asyncio.Future[Reading]]]) -> None:
        replies: list[Any]
        try:
            replies = await self._store.fcall_many([call for call, _ in asked])
        except Exception as error:  # noqa: BLE001 (whoever waits must hear of it, or would wait for ever)
            replies = [error] * len(asked)
        for (_, future), reply in zip(asked, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
                continue
            try:
                future.set_result(_reading(reply))
            except Exception:
                # Somebody wrote to this session's keys by hand; the batch's others must have theirs.
                logger.exception("a history could not be understood")
                future.set_exception(_damaged())

    async def publish(
        self,
        session_id: str,
        event: bytes,
        *,
        idempotency_key: str | None = None,
        owner: str | None = None,
    ) -> str | dict[str, Any]:
        """Publish an event; return its id, or for a permission_request what Permissions.ask returns."""
        reply: bytes = await self._store.fcall(
            "publish", session_id, event, idempotency_key or "", owner or ""
        )
        if reply.startswith(b"{"):
            standing: dict[str, Any] = loads_kept(reply)
            return standing
        return reply.decode()

    async def positions(self, session_ids: Sequence[str]) -> list[Position | GatewayError | None]:
        """Return each session's position as Redis has it now, None where there is no such session.

        Failures are among the results: one node of a Cluster may be down, one session be damaged.
        """
        keys = [self._store.keys.meta(session_id) for session_id in session_ids]
        positions: list[Position | GatewayError | None] = []
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            for reply in await self._store.send_many(
                [(key, ("HMGET", key, "epoch", "seq", "ended")) for key in batch]
            ):
                try:
                    positions.append(
                        as_gateway_error(reply) if isinstance(reply, Exception) else _position(reply)
                    )
                except ValueError:
                    positions.append(_damaged())
        return positions

    async def status(self, session_id: str) -> Status:
        """Return where a session stands, without creating it."""
        epoch, top, owner, ended, pending, streams, viewers, now_ms = await self._store.fcall(
            "status", session_id
        )
        return Status(epoch.decode(), top, _owner(owner), ended == b"1", pending, streams, viewers, now_ms)

    async def beat(self, counts: Sequence[tuple[str, int, int]], gateway_id: str) -> list[tuple[int, int]]:
        """Report (session, streams, viewers) of one gateway; return (streams, viewers) over all gateways.

        Raises the first failure.
        """
        replies = await self._store.fcall_many(
            [("beat", session_id, (gateway_id, count, viewers)) for session_id, count, viewers in counts]
        )
        totals = []
        for reply in replies:
            if isinstance(reply, GatewayError):
                raise reply
            totals.append((reply[0], reply[1]))
        return totals


def _damaged() -> GatewayError:
    return GatewayError("internal_error", "What Redis holds of the session is damaged.")


def _position(reply: list[Any]) -> Position | None:
    epoch, seq, ended = reply
    return Position(Cursor(epoch.decode(), int(seq)), ended is not None) if epoch and seq else None


def _owner(text: bytes) -> str | None:
    """Return an owner as it compares with users, who never hold what bytes become that are not UTF-8."""
    return text.decode(errors="surrogateescape") or None


def _reading(reply: list[Any]) -> Reading:
    owner, ended, epoch, top, verdict, oldest, entries, more, pending, state, now_ms = reply
    return Reading(
        owner=_owner(owner),
        ended=ended == b"1",
        epoch=epoch.decode(),
        top=top,
        verdict=verdict.decode(),
        oldest=oldest,
        entries=[
            Entry(seq, data, request_id.decode() or None)
            for seq, data, request_id in zip(entries[::3], entries[1::3], entries[2::3], strict=True)
        ],
        more=more == 1,
        pending=[
            Pending(request_id.decode(), data, expires_ms, seq)
            for request_id, data, expires_ms, seq in zip(
                pending[::4], pending[1::4], pending[2::4], pending[3::4], strict=True
            )
        ],
        state=state,
        now_ms=now_ms,
    )
