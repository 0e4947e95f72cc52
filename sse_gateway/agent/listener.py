"""One connection, for the whole process, on which Redis tells that requests were settled.

What it hears is a hint and never the decision itself: whoever may PUBLISH could forge one, and pub/sub loses
messages without a word. So this module promises one thing only: it says when a channel is being listened to
(`on_live`, each time anew after a reconnect), and whoever asks for the truth from then on misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from redis.exceptions import NoPermissionError

from sse_gateway.agent.calls import FAULTS, Pauses
from sse_gateway.agent.connect import CONNECT_SECONDS
from sse_gateway.agent.ending import ended, within

logger = logging.getLogger(__name__)

PING_SECONDS = 10.0
"""A connection that was silent for so long is asked for a sign of life, and has as long again to give one."""
LINGER_SECONDS = 10.0
"""How long a channel is kept after the last request of its session was settled."""
REFUSED_SECONDS = 60.0
"""How long not to try again when the user may not subscribe."""
SUBSCRIBE_BATCH = 512


class _Channel:
    """What is known of one channel."""

    __slots__ = ("idle_since", "live_since", "refs", "sent")

    def __init__(self) -> None:
        self.refs = 0
        self.sent = False
        """SUBSCRIBE was sent on the present connection."""
        self.live_since: float | None = None
        """Unix time at which the present connection's SUBSCRIBE was confirmed."""
        self.idle_since = 0.0


class Listener:
    """Hold the connection while any channel is wanted, replacing it whenever it is lost or doubted."""

    def __init__(
        self,
        open_connection: Callable[[], Coroutine[Any, Any, Any]],
        *,
        on_message: Callable[[str, bytes], None],
        on_live: Callable[[str], None],
        ping_seconds: float = PING_SECONDS,
    ) -> None:
        self._open_connection = open_connection
        self._on_message = on_message
        self._on_live = on_live
        self._ping_seconds = ping_seconds
        self._channels: dict[str, _Channel] = {}
        self._wanted = asyncio.Event()
        self._connection: Any = None
        self._serving: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Held while commands are sent: an UNSUBSCRIBE must not overtake a later SUBSCRIBE."""
        self.clock_offset = 0.0
        """Seconds by which Redis's clock is ahead of ours."""

    def listen(self, channel: str) -> None:
        """Hold a channel; pair each call with one `unlisten`."""
        entry = self._channels.setdefault(channel, _Channel())
        entry.refs += 1
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="sse agent listener")
        elif not entry.sent and self._connection is not None and self._sending is None:
            self._sending = asyncio.create_task(self._send_later(), name="sse agent subscribe")

    def unlisten(self, channel: str) -> None:
        """Give a channel up; it stays subscribed a little longer, for the session's next request."""
        entry = self._channels[channel]
        entry.refs -= 1
        if entry.refs == 0:
            entry.idle_since = time.monotonic()

    def live_since(self, channel: str) -> float | None:
        """Return since when (unix time) the channel is listened to without a break; None: it is not now."""
        entry = self._channels.get(channel)
        return entry.live_since if entry is not None else None

    def doubt(self, why: str) -> None:
        """Replace the connection: something should have been heard and was not."""
        if self._serving is not None and self._connection is not None:
            logger.warning("the connection for decisions is replaced: %s", why)
            self._serving.cancel()

    async def close(self) -> None:
        """Close the connection for good."""
        await ended(*(task for task in (self._task, self._sending, self._serving) if task is not None))
        self._task = None

    async def _supervise(self) -> None:
        pauses = Pauses(longest=1.0)
        told = False
        while True:
            await self._wanted.wait()
            began = time.monotonic()
            self._serving = asyncio.create_task(self._serve(), name="sse agent connection")
            # Not awaited itself: `doubt` cancels it, and that must not end this task.
            await asyncio.wait((self._serving,))
            error = None if self._serving.cancelled() else self._serving.exception()
            if time.monotonic() - began > self._ping_seconds:
                pauses, told = Pauses(longest=1.0), False
            if isinstance(error, NoPermissionError):
                logger.warning(
                    "Redis does not permit subscribing to decisions; asking for them instead: %s", error
                )
                await asyncio.sleep(REFUSED_SECONDS)
                continue
            if error is not None and not isinstance(error, FAULTS):
                logger.error("the connection for decisions failed", exc_info=error)
            elif error is not None and not told:
                logger.warning(
                    "the connection for decisions is lost, connecting again: %s", type(error).__name__
                )
            told = error is not None
            await asyncio.sleep(pauses.next())

    async def _serve(self) -> None:
        """Listen on one connection until it is lost, or nobody wants anything any more."""
        connection = await within(2 * CONNECT_SECONDS, self._open_connection())
        try:
            await self._learn_clock(connection)
            self._connection = connection
            await self._send_changes()
            pinged = False
            while self._channels:
                reply = await connection.read_response(disable_decoding=True, timeout=self._ping_seconds)
                if reply is not None:
                    pinged = False
                    self._take(reply)
                    continue
                if pinged:
                    raise ConnectionResetError("no sign of life")
                pinged = True
                await self._send_changes()
                await connection.send_command("PING")
            self._wanted.clear()
        finally:
            self._connection = None
            for entry in self._channels.values():
                entry.sent, entry.live_since = False, None
            with contextlib.suppress(*FAULTS):
                await connection.disconnect(nowait=True)

    async def _learn_clock(self, connection: Any) -> None:
        # Permitted to whoever may call the scripts, which read the same clock.
        await connection.send_command("TIME")
        seconds, micros = await connection.read_response(disable_decoding=True)
        self.clock_offset = int(seconds) + int(micros) / 1e6 - time.time()

    async def _send_later(self) -> None:
        """Send what was asked for in this round of the loop, in one command."""
        try:
            await asyncio.sleep(0)
            while self._connection is not None and any(not entry.sent for entry in self._channels.values()):
                await self._send_changes()
        except FAULTS:
            # Whoever reads the connection finds it closed.
            pass
        finally:
            self._sending = None

    async def _send_changes(self) -> None:
        async with self._turn:
            connection = self._connection
            if connection is None:
                # The next one is told everything when it is there.
                return
            horizon = time.monotonic() - LINGER_SECONDS
            idle = [
                name
                for name, entry in self._channels.items()
                # Only confirmed ones, so that at most one confirmation is ever on its way for a channel.
                if entry.refs == 0 and entry.idle_since <= horizon and entry.live_since is not None
            ]
            for name in idle:
                del self._channels[name]
            wanted = [name for name, entry in self._channels.items() if not entry.sent]
            for name in wanted:
                self._channels[name].sent = True
            for command, names in (("UNSUBSCRIBE", idle), ("SUBSCRIBE", wanted)):
                for start in range(0, len(names), SUBSCRIBE_BATCH):
                    # Checked each time: redis-py would connect again by itself, and then subscribe to half.
                    if not connection.is_connected:
                        return
                    await connection.send_command(command, *names[start : start + SUBSCRIBE_BATCH])

    def _take(self, reply: Any) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            return
        kind, name = reply[0], reply[1].decode() if isinstance(reply[1], bytes) else ""
        if kind == b"message":
            self._on_message(name, reply[2])
        elif kind == b"subscribe" and name in self._channels:
            self._channels[name].live_since = time.time()
            self._on_live(name)
