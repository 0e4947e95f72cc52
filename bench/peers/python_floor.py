"""The least that a Python server behind Redis can do for an event: uvloop, hiredis, a dict, one write.

usage: python -m bench.peers.python_floor PORT REDIS_PORT

As the C floor it has no history, no tokens and no limits, and does not even look whether an event is the next
one. What it costs beside the C floor is the interpreter's and the event loop's part, which no product in
Python can avoid.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from typing import Any

import hiredis
import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"d\r\nretry: 3000\n\n\r\n"
)
BEGIN, FRAME_BYTES = len(b'{"id":"'), len(b"id: \ndata: \n\n")


class Subscription(asyncio.Protocol):
    """Write each message to the one stream of its channel."""

    def __init__(self) -> None:
        self._streams: dict[bytes, Any] = {}
        self._reader = hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def join(self, channel: bytes, stream: Any) -> None:
        """Subscribe to a stream's channel."""
        self._streams[channel] = stream
        self._transport.write(hiredis.pack_command((b"SUBSCRIBE", channel)))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message":
                payload = reply[2]
                id = payload[BEGIN : payload.index(b'"', BEGIN)]
                self._streams[reply[1]].write(
                    b"%x\r\nid: %b\ndata: %b\n\n\r\n" % (FRAME_BYTES + len(id) + len(payload), id, payload)
                )


class Web(asyncio.Protocol):
    """Answer any request with a stream of the session that its path ends in."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._transport.write(HEAD)
        session = data.split(b" ", 2)[1].rpartition(b"/")[2]
        self._subscription.join(b"sse_events:" + session, self._transport)


async def serve(port: int, redis_port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    _, subscription = await loop.create_connection(Subscription, "127.0.0.1", redis_port)
    server = await loop.create_server(lambda: Web(subscription), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(10_000)
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
