"""All callers' commands to one server over one connection, which is opened when it is needed.

Each caller's commands go out at once, behind the others', and replies come in the same order: nobody waits
for a connection of a pool, and a turn of the loop writes and reads for all together. So nothing that blocks
may be sent this way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import ReadOnlyError

from sse_gateway.store.protocol import Command, Connection, open_connection
from sse_gateway.store.servers import CALL_SECONDS, CONNECT_SECONDS, Endpoint
from sse_gateway.ticks import tick_after

_LOOK_SECONDS = 0.25


class _Shared(Connection):
    """A connection whose callers wait CALL_SECONDS at most.

    It is given up when the server falls silent for as long, or is no primary any more. One timer looks after
    all callers: one for each would cost as much as the rest of a call.
    """

    purpose = "command connection"

    def __init__(self) -> None:
        super().__init__()
        self.retired = False
        """Nothing more is to be sent: it ends with the replies that are still to come."""
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        """When something last arrived, on the loop's clock."""
        self._look = self._loop.call_at(tick_after(_LOOK_SECONDS), self._look_at_waiting)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        super().data_received(data)
        if self.retired and not self._awaited:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_at_waiting(self) -> None:
        too_old = self._loop.time() - CALL_SECONDS
        for awaited in self._awaited:
            if awaited.since > too_old:
                break
            if not awaited.future.done():
                awaited.future.set_exception(TimeoutError("Redis did not answer in time"))
        if self._awaited and max(self._awaited[0].since, self._heard_at) <= too_old:
            self.abort()
        else:
            self._look = self._loop.call_at(tick_after(_LOOK_SECONDS), self._look_at_waiting)

    def _error(self, text: str) -> Exception:
        error = super()._error(text)
        if isinstance(error, ReadOnlyError):
            # A replica by now: whoever knows the primary is asked again.
            self.retired = True
        return error


class Commands:
    """Send commands to wherever `endpoint` says the server is."""

    def __init__(self, endpoint: Callable[[], Awaitable[Endpoint]]) -> None:
        self._endpoint = endpoint
        self._connection: _Shared | None = None
        self._opening: asyncio.Task[_Shared] | None = None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors among them; raises what concerns the connection."""
        connection = self._connection
        if connection is None or connection.retired or connection.closing:
            connection = await self._open()
        return await connection.call(commands)

    async def _open(self) -> _Shared:
        """Open a connection, one for all who wait for it."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect(), name="connect to Redis")
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _connect(self) -> _Shared:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await open_connection(_Shared, await self._endpoint())

    def _opened(self, task: asyncio.Task[_Shared]) -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()

    async def close(self) -> None:
        """Close the connection, and one that is being opened."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        if self._connection is not None:
            self._connection.abort()
            await self._connection.lost
