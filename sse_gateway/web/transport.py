"""What carries a stream: the ordinary aiohttp response, or its connection handed over to a small protocol.

An idle stream that stays an aiohttp request costs several times the memory of one whose connection was
handed over (docs/design.md), by public calls only.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp import HttpVersion11, web

from sse_gateway.core.wire import LAST_CHUNK
from sse_gateway.web.connections import CONNECTIONS, STRAY_BYTES, Connections


class _Carried(Protocol):
    """A stream, as far as its carrier knows it."""

    def end(self, reason: str) -> None: ...

    def stalls(self) -> None: ...

    def flows(self) -> None: ...


class HandedOver(asyncio.Protocol):
    """Own a handed-over socket: notice its end, discard what the client sends. Its handler need not stay."""

    __slots__ = ("_chunked", "_connections", "_stray_bytes", "_stream", "transport")

    def __init__(self, *, chunked: bool, connections: Connections) -> None:
        self._chunked = chunked
        self._connections = connections
        self._stray_bytes = 0
        self._stream: _Carried | None = None
        self.transport: asyncio.Transport | None = None
        """None before the connection is made, and once it is lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._stray_bytes += len(data)
        if self._stray_bytes > STRAY_BYTES and self.transport is not None:
            self._connections.cut(self.transport, "stray_bytes")

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None
        self._connections.finishing.discard(self)
        if self._stream is not None:
            self._stream.end("client_gone")
            self._stream = None

    def hold(self, stream: _Carried) -> None:
        """Take the stream that this carries; it ends with the connection."""
        if self.transport is None:
            stream.end("client_gone")
            return
        self._stream = stream
        # So that every byte left unsent is told by `pause_writing`, and by `resume_writing` that none is.
        self.transport.set_write_buffer_limits(high=0)
        if not self.transport.get_write_buffer_size():
            stream.flows()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.stalls()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.flows()

    def finish(self) -> None:
        """End the body properly and close once everything is sent."""
        if self.transport is not None and not self.transport.is_closing():
            if self._chunked:
                self.transport.write(LAST_CHUNK)
            self.transport.close()
            self._connections.finishing.add(self)

    async def held(self) -> None:
        """Return at once."""


class Held:
    """A stream on aiohttp's own transport: its handler stays until the end."""

    def __init__(self, connection: web.RequestHandler, connections: Connections) -> None:
        self._over = asyncio.Event()
        self._connection = connection
        self._connections = connections

    def hold(self, stream: _Carried) -> None:
        """Have the stream end with the connection, of which aiohttp tells the handler nothing."""
        self._connections.on_lost(self._connection, lambda: stream.end("client_gone"))

    def finish(self) -> None:
        """Let the handler go on; aiohttp then ends the body."""
        self._over.set()

    async def held(self) -> None:
        """Return once the stream is over."""
        await self._over.wait()


def carry(request: web.Request, *, by: str) -> tuple[HandedOver | Held, asyncio.WriteTransport]:
    """Return what carries a stream whose head was sent, `by` "handover" or "aiohttp", and its transport."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    return (_hand_over(request, transport) if by == "handover" else _held(request)), transport


def _held(request: web.Request) -> Held:
    return Held(request.protocol, request.app[CONNECTIONS])


def _hand_over(request: web.Request, transport: asyncio.Transport) -> HandedOver:
    """Give the connection another protocol, and let aiohttp take it for lost.

    What the response has written is in the transport's buffer or sent: nothing of it can get lost.
    """
    handed_over = HandedOver(chunked=request.version >= HttpVersion11, connections=request.app[CONNECTIONS])
    handed_over.connection_made(transport)
    transport.set_protocol(handed_over)
    # It would close what it still has.
    request.protocol.transport = None
    request.protocol.connection_lost(None)
    if not transport.is_reading():
        transport.resume_reading()
    return handed_over
