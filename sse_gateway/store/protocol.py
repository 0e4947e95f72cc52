"""One connection to Redis on an asyncio protocol of our own: opening, handshake, replies in order (RESP2).

A hiredis reader and nothing between it and whoever waits, since both hot paths run over it: an event costs
less than half of what redis-py's `PubSub.get_message` takes, a command a fifth of its `execute_command`.
Knows nothing of reconnecting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from sse_gateway.core.errors import Refused
from sse_gateway.store.failures import UNTRUSTED
from sse_gateway.store.servers import Endpoint

logger = logging.getLogger(__name__)

Command = Sequence[Any]
"""Its words: str, bytes, int or float."""
_USER_TIMEOUT_MS = 15_000
_ERRORS: dict[str, type[Exception]] = {
    "LOADING": BusyLoadingError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
}


class Awaited:
    """Replies that somebody waits for."""

    __slots__ = ("future", "replies", "since", "wanted")

    def __init__(self, wanted: int) -> None:
        loop = asyncio.get_running_loop()
        self.wanted = wanted
        self.replies: list[Any] = []
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.since = loop.time()
        """When they were asked for, on the loop's clock."""


class Connection(asyncio.Protocol):
    """Send commands and hand out their replies; errors are among these, as redis-py's exceptions."""

    purpose = "connection"

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=self._error)
        self._awaited: deque[Awaited] = deque()
        """In the order sent."""
        self._transport: asyncio.Transport | None = None
        self.last_data_at = 0.0
        """When anything last arrived, in unix seconds."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended, for whatever reason."""

    @property
    def closing(self) -> bool:
        """Tell whether nothing more can be sent."""
        return self._transport is None or self._transport.is_closing()

    def call(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands together; the future has the replies, or what ended the connection.

        Raises UnicodeEncodeError, having sent nothing, for text that has no UTF-8 form.
        """
        awaited = Awaited(len(commands))
        if self.closing:
            awaited.future.set_exception(ConnectionResetError(f"the {self.purpose} was closed"))
        else:
            # Only what was sent is awaited: with one reply too few, each caller would get the next one's.
            self.send(*commands)
            self._awaited.append(awaited)
        return awaited.future

    def send(self, *commands: Command) -> None:
        """Send commands whose replies nobody waits for in particular."""
        assert self._transport is not None
        # hiredis' stub speaks of a tuple of one, its code takes any.
        data = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def greet(self, endpoint: Endpoint) -> None:
        """Log in and choose the database; raises Refused."""
        if endpoint.password:
            await self.must("AUTH", endpoint.username or "default", endpoint.password)
        if endpoint.db:
            await self.must("SELECT", str(endpoint.db))

    async def must(self, *command: str) -> None:
        """Send one command of the handshake; raises Refused unless Redis takes it."""
        (reply,) = await self.call((command,))
        if isinstance(reply, Exception):
            raise self.refused(command[0], reply)

    def refused(self, command: str, reply: Exception) -> Refused:
        """Return what to say of a refusal; Redis's own words may name its user, and go to the log alone."""
        logger.warning("Redis refused %s on the %s: %s", command, self.purpose, reply)
        if command == "AUTH":
            return Refused(f"Redis refused the user name or password of the {self.purpose}.")
        return Refused(f"Redis refused {command} on the {self.purpose}; see config/redis.acl.")

    def take(self, reply: Any) -> None:
        """Hand a reply to whoever waits for it."""
        awaited = self._awaited[0]
        awaited.replies.append(reply)
        if len(awaited.replies) == awaited.wanted:
            self._awaited.popleft()
            if not awaited.future.done():
                awaited.future.set_result(awaited.replies)

    def _error(self, text: str) -> Exception:
        """Return an error reply as redis-py would raise it."""
        code, _, rest = text.partition(" ")
        if code in ("NOAUTH", "WRONGPASS"):
            return AuthenticationError(rest)
        return _ERRORS[code](rest) if code in _ERRORS else ResponseError(text.removeprefix("ERR "))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # A unix socket has no such option.
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)

    def data_received(self, data: bytes) -> None:
        self.last_data_at = time.time()
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._awaited:
                # Nothing comes unasked: what it belongs to cannot be told any more.
                self.abort()
                return
            self.take(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        for awaited in self._awaited:
            if not awaited.future.done():
                awaited.future.set_exception(exc or ConnectionResetError(f"the {self.purpose} was closed"))
        self._awaited.clear()
        if not self.lost.done():
            self.lost.set_result(None)


Made = TypeVar("Made", bound=Connection)


async def open_connection(make: Callable[[], Made], endpoint: Endpoint) -> Made:
    """Open a connection and log in; raises OSError or Refused."""
    loop = asyncio.get_running_loop()
    try:
        if endpoint.path:
            _, connection = await loop.create_unix_connection(make, endpoint.path)
        else:
            _, connection = await loop.create_connection(make, endpoint.host, endpoint.port, ssl=endpoint.ssl)
    except ssl.SSLCertVerificationError as error:
        logger.warning("%s", error)
        raise Refused(UNTRUSTED) from None
    try:
        await connection.greet(endpoint)
    except BaseException:
        connection.abort()
        raise
    return connection
