"""The subscription connection: SUBSCRIBE, and messages as they arrive.

Knows nothing of reconnecting (`push.py` does) nor of what a message means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from sse_gateway.core.errors import Refused
from sse_gateway.store.protocol import Connection, open_connection
from sse_gateway.store.servers import Endpoint

logger = logging.getLogger(__name__)

SUBSCRIBE_BATCH = 512
"""Channels in one SUBSCRIBE: large enough to be cheap, small enough not to stall the server."""

Receive = Callable[[bytes, bytes], None]
"""Called with channel and payload of each message, in order, from the event loop."""


class Subscriber(Connection):
    """Hold one connection in subscribe mode.

    Confirmations are what counts: a channel is live when the server has said so, not when the
    command was sent.
    """

    purpose = "push connection"

    def __init__(
        self,
        probe: bytes,
        *,
        on_message: Receive,
        on_probe: Callable[[bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> None:
        super().__init__()
        self._probe = probe
        """The channel whose messages go to `on_probe` alone."""
        self._on_message = on_message
        self._on_probe = on_probe
        self._on_subscribed = on_subscribed
        self.refusal: Refused | None = None
        """What Redis has refused since it let us in."""

    @classmethod
    async def connect(
        cls,
        endpoint: Endpoint,
        *,
        name: str,
        probe: bytes,
        pattern: bytes,
        on_message: Receive,
        on_probe: Callable[[bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> Subscriber:
        """Open a connection that hears the channels `pattern` matches; raises OSError or Refused."""
        subscriber = await open_connection(
            lambda: cls(probe, on_message=on_message, on_probe=on_probe, on_subscribed=on_subscribed),
            endpoint,
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
        self.last_data_at = time.time()
        self._reader.feed(data)
        gets, on_message, probe = self._reader.gets, self._on_message, self._probe
        while (reply := gets()) is not False:
            try:
                if reply.__class__ is not list or reply[0] != b"message":
                    self._take_other(reply)
                elif reply[1] == probe:
                    self._on_probe(reply[2])
                else:
                    on_message(reply[1], reply[2])
            except Exception:
                # Raised into the loop it would end the connection, and with it the events of all sessions.
                logger.exception("a message could not be taken")

    def _take_other(self, reply: Any) -> None:
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
