"""What carries a stream: the ordinary aiohttp response, or its socket handed over to a small protocol.

An idle stream that stays an aiohttp request costs several times the memory of one whose socket was
handed over (docs/design.md). The hand-over uses public calls only: the descriptor is duplicated, the
original transport aborted (which closes its own descriptor and nothing else), and the duplicate
connected to a protocol of ours. Where it is not possible the stream stays an aiohttp response.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable

from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from sse_gateway.core.wire import LAST_CHUNK
from sse_gateway.web.connections import CONNECTIONS, STRAY_BYTES

USER_TIMEOUT_SECONDS = 60
NOTSENT_LOWAT_BYTES = 64 * 1024
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)


class Connection(asyncio.Protocol):
    """Own a handed-over socket: notice its end, discard what the client sends."""

    __slots__ = ("_chunked", "_cut", "_stray_bytes", "on_lost", "transport")

    def __init__(self, *, chunked: bool, cut: Callable[[asyncio.Transport, str], None]) -> None:
        self._chunked = chunked
        self._cut = cut
        self._stray_bytes = 0
        self.on_lost: Callable[[str], None] | None = None
        """Called with the reason once the connection is gone."""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._stray_bytes += len(data)
        if self._stray_bytes > STRAY_BYTES and self.transport is not None:
            self._cut(self.transport, "stray_bytes")

    def finish(self) -> None:
        """End the body properly and close once everything is sent."""
        if self.transport is not None and not self.transport.is_closing():
            if self._chunked:
                self.transport.write(LAST_CHUNK)
            self.transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost("client_gone")
            self.on_lost = None
        self.transport = None


class HandedOver:
    """A stream on a socket of its own: the request's handler need not stay."""

    def __init__(self, connection: Connection, transport: asyncio.WriteTransport) -> None:
        self._connection = connection
        self.transport = transport
        self.finish = connection.finish

    def watch(self, end: Callable[[str], None]) -> None:
        """Have `end` called once the connection is gone."""
        if self._connection.transport is None:
            end("client_gone")
        else:
            self._connection.on_lost = end

    async def held(self) -> None:
        """Return at once."""


class Held:
    """A stream on aiohttp's own transport: its handler stays until the end."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._over = asyncio.Event()
        self.transport = transport
        self.finish = self._over.set

    def watch(self, end: Callable[[str], None]) -> None:
        """Nobody tells a handler that its client has gone; the sweep finds out."""

    async def held(self) -> None:
        """Return once the stream is over; aiohttp then ends the body."""
        await self._over.wait()


async def carry(request: web.Request, response: EventSourceResponse, *, by: str) -> HandedOver | Held:
    """Return what carries a stream whose head was sent, `by` "handover" if possible or by "aiohttp"."""
    connection = await _hand_over(request, response) if by == "handover" else None
    transport = request.transport if connection is None else connection.transport
    if transport is None:
        raise ConnectionResetError
    _limit_kernel_buffer(transport.get_extra_info("socket"))
    return Held(transport) if connection is None else HandedOver(connection, transport)


async def _hand_over(request: web.Request, response: EventSourceResponse) -> Connection | None:
    """Take the socket away from aiohttp; None when it cannot be, and the response has to carry on.

    The head and the first line must have left: what is still in the original's buffer would be lost.
    """
    # uvloop sends what was written at the end of the loop's turn.
    await asyncio.sleep(0)
    transport = request.transport
    if transport is None or transport.get_write_buffer_size():
        return None
    original = transport.get_extra_info("socket")
    try:
        duplicate = socket.socket(fileno=os.dup(original.fileno()))
    except OSError:
        return None
    duplicate.settimeout(0)
    # In this order: the response's own writer must be silent before its transport is gone.
    response.stop_streaming()
    transport.abort()
    cut = request.app[CONNECTIONS].cut
    connection = Connection(chunked=request.version >= HttpVersion11, cut=cut)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, duplicate)
    except BaseException:
        duplicate.close()
        raise
    return connection


def _limit_kernel_buffer(sock: socket.socket | None) -> None:
    """Set a stream's socket options.

    Unsent bytes stay in our own buffer, where they are counted, and not in megabytes of the kernel's; a
    peer that acknowledges nothing for a minute is gone.
    """
    if sock is None:
        return
    # A unix socket has none of these. Not by its family, which uvloop's sockets take long to tell.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if _NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        if _USER_TIMEOUT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
