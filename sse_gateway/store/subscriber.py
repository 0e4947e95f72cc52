"""The subscription connection: SUBSCRIBE, and messages as they arrive.

Knows nothing of reconnecting (`push.py` does) nor of what a message means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from sse_gateway.core.errors import Refused
from sse_gateway.store.protocol import Connection, open_connection
from sse_gateway.store.servers import Endpoint

SUBSCRIBE_BATCH = 512
"""Channels in one SUBSCRIBE: large enough to be cheap, small enough not to stall the server."""

Receive = Callable[[bytes, bytes], None]
"""Called with channel and payload of each message, in order, from the event loop; must not raise."""


class Subscriber(Connection):
    """Hold one connection in subscribe mode.

    Confirmations are what counts: a channel is live when the server has said so, not when the
    command was sent.
    """

    purpose = "push connection"

    def __init__(self, *, on_message: Receive, on_subscribed: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self.refusal: Refused | None = None
        """What Redis has refused since it let us in."""

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
        subscriber = await open_connection(
            lambda: cls(on_message=on_message, on_subscribed=on_subscribed), endpoint
        )
        try:
            await subscriber.must("CLIENT", "SETNAME", name)
            await subscriber.must("PSUBSCRIBE", pattern.decode())
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

    def _send_batches(self, command: bytes, channels: list[bytes]) -> None:
        # uvloop would raise on a connection that is gone. `lost` says it to whoever cares.
        if not self.closing:
            for start in range(0, len(channels), SUBSCRIBE_BATCH):
                self.send((command, *channels[start : start + SUBSCRIBE_BATCH]))

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
        kind = reply[0] if isinstance(reply, list) and reply else None
        if kind == b"pmessage":
            self._on_message(reply[2], reply[3])
        elif kind == b"subscribe":
            self._on_subscribed(reply[1])
        elif kind == b"unsubscribe":
            pass
        elif self._awaited:
            self.take(reply)
        else:
            # Only a refusal comes unasked (such as an ACL without this channel): start over, and let
            # the waiting streams run into their time limit meanwhile.
            if isinstance(reply, Exception):
                self.refusal = self.refused("SUBSCRIBE", reply)
            self.abort()
