"""One subscription connection to Redis: handshake, SUBSCRIBE, and messages as they arrive.

A hiredis reader on an asyncio protocol of our own, because this is the hot path: redis-py's
`PubSub.get_message` costs more than twice as much for each event. Knows nothing of reconnecting
(`push.py` does) nor of what a message means.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis

from sse_gateway.store.failures import UNTRUSTED, Refused
from sse_gateway.store.servers import Endpoint

logger = logging.getLogger(__name__)

SUBSCRIBE_BATCH = 512
"""Channels in one SUBSCRIBE: large enough to be cheap, small enough not to stall the server."""
_USER_TIMEOUT_MS = 15_000

Receive = Callable[[bytes, bytes], None]
"""Called with channel and payload of each message, in order, from the event loop; must not raise."""


class Subscriber(asyncio.Protocol):
    """Hold one RESP2 connection in subscribe mode.

    Confirmations are what counts: a channel is live when the server has said so, not when the
    command was sent.
    """

    def __init__(self, *, on_message: Receive, on_subscribed: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._reader = hiredis.Reader()
        self._replies: deque[asyncio.Future[Any]] = deque()
        """Who waits for the replies of the handshake, in the order sent."""
        self._transport: asyncio.Transport | None = None
        self.last_data_at = 0.0
        """When anything last arrived, in unix seconds."""
        self.refusal: Refused | None = None
        """What Redis has refused since it let us in."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended, for whatever reason."""

    @classmethod
    async def connect(
        cls,
        endpoint: Endpoint,
        *,
        name: str,
        pattern: bytes,
        on_message: Receive,
        on_subscribed: Callable[[bytes], None],
    ) -> Subscriber:
        """Open a connection that hears the channels `pattern` matches; raises OSError or Refused."""
        loop = asyncio.get_running_loop()

        def make() -> Subscriber:
            return cls(on_message=on_message, on_subscribed=on_subscribed)

        try:
            if endpoint.path:
                _, subscriber = await loop.create_unix_connection(make, endpoint.path)
            else:
                _, subscriber = await loop.create_connection(
                    make, endpoint.host, endpoint.port, ssl=endpoint.ssl
                )
        except ssl.SSLCertVerificationError as error:
            logger.warning("%s", error)
            raise Refused(UNTRUSTED) from None
        try:
            if endpoint.password:
                await subscriber._call("AUTH", endpoint.username or "default", endpoint.password)
            await subscriber._call("CLIENT", "SETNAME", name)
            await subscriber._call("PSUBSCRIBE", pattern.decode())
        except BaseException:
            subscriber.abort()
            raise
        return subscriber

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Send SUBSCRIBE in batches; each confirmation goes to `on_subscribed`."""
        self._send_batches(b"SUBSCRIBE", list(channels))

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        """Send UNSUBSCRIBE in batches."""
        self._send_batches(b"UNSUBSCRIBE", list(channels))

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _send_batches(self, command: bytes, channels: list[bytes]) -> None:
        for start in range(0, len(channels), SUBSCRIBE_BATCH):
            self._send(command, *channels[start : start + SUBSCRIBE_BATCH])

    async def _call(self, *command: str) -> None:
        if self.lost.done():
            raise ConnectionResetError("the push connection was closed")
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        self._send(*command)
        result = await reply
        if isinstance(result, hiredis.ReplyError):
            raise self._refused(command[0], result)

    def _refused(self, command: str, reply: hiredis.ReplyError) -> Refused:
        """Return what to say of a refusal; Redis's own words may name its user, and go to the log alone."""
        logger.warning("Redis refused %s on the push connection: %s", command, reply)
        if command == "AUTH":
            return Refused("Redis refused the user name or password of the push connection.")
        return Refused(f"Redis refused {command} on the push connection; see config/redis.acl.")

    def _send(self, *command: bytes | str) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            # uvloop would raise. `lost` says it to whoever cares.
            return
        # hiredis' stub speaks of a tuple of one, its code takes any.
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        on_message = self._on_message
        self.last_data_at = time.time()
        reader.feed(data)
        while True:
            reply = reader.gets()
            if reply is False:
                return
            if reply.__class__ is list and reply[0] == b"message":
                on_message(reply[1], reply[2])
            else:
                self._other(reply)

    def _other(self, reply: Any) -> None:
        if isinstance(reply, list) and reply and reply[0] == b"pmessage":
            self._on_message(reply[2], reply[3])
        elif isinstance(reply, list) and reply and reply[0] == b"subscribe":
            self._on_subscribed(reply[1])
        elif isinstance(reply, list) and reply and reply[0] == b"unsubscribe":
            pass
        elif self._replies:
            future = self._replies.popleft()
            if not future.done():
                future.set_result(reply)
        else:
            # Only a refusal comes unasked (such as an ACL without this channel): start over, and let
            # the waiting streams run into their time limit meanwhile.
            if isinstance(reply, hiredis.ReplyError):
                self.refusal = self._refused("SUBSCRIBE", reply)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._replies:
            if not future.done():
                future.set_exception(exc or ConnectionResetError("the push connection was closed"))
        self._replies.clear()
        if not self.lost.done():
            self.lost.set_result(None)
