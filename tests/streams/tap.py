"""A client that costs little: the bytes of one connection, looked at when they are needed.

`SSEStream` reads a stream by the book as it comes, which hundreds of streams under load cannot afford. A
`Tap` only collects; `frames()` then takes the body apart, strictly enough for the gateway's own frames.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from tests.support.gateway import BASE_PATH


class Frame(NamedTuple):
    """One complete frame."""

    name: str
    """"message" where it has none."""
    id: str | None
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Tap(asyncio.Protocol):
    """One connection to a stream; make it by `open`, which returns before anything has come."""

    def __init__(self, request: bytes, on_data: Callable[[bytes], None] | None) -> None:
        self.received = bytearray()
        self.over = False
        """The connection has ended, by whoever's will."""
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._on_data = on_data
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        port: int,
        session_id: str,
        token: str,
        *,
        cursor: str | None = None,
        query: str = "",
        http: str = "1.1",
        receive_buffer: int | None = None,
        on_data: Callable[[bytes], None] | None = None,
    ) -> Self:
        """Connect and ask; `on_data` gets the bytes instead of `received`."""
        resume = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        request = (
            f"GET {BASE_PATH}/events/{session_id}{'?' + query if query else ''} HTTP/{http}\r\n"
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n{resume}\r\n"
        )
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            _, tap = await loop.create_connection(lambda: cls(request.encode(), on_data), sock=sock)
        except BaseException:
            sock.close()
            raise
        return tap

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._on_data is not None:
            self._on_data(data)
        else:
            self.received += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, condition: Callable[[], Any], what: str, *, seconds: float = 20.0) -> Any:
        """Wait until the condition is true, looking whenever something came."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    assert not self.over, (
                        f"the connection ended before: {what}; {bytes(self.received[-600:])!r}"
                    )
                    self._waiting = asyncio.get_running_loop().create_future()
                    await self._waiting
                return value
        except TimeoutError:
            raise AssertionError(
                f"waited {seconds:g} s for: {what}; {bytes(self.received[-600:])!r}"
            ) from None

    async def holds(self, part: bytes, *, seconds: float = 20.0) -> None:
        """Wait until these bytes have come; they must not be such as a chunk's border could cut."""
        await self.wait(lambda: self.received.rfind(part) >= 0, repr(part), seconds=seconds)

    async def end(self, *, seconds: float = 20.0) -> None:
        """Wait until the gateway has ended the connection."""
        async with asyncio.timeout(seconds):
            while not self.over:
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting

    def hang_up(self, *, reset: bool = False) -> None:
        """Leave, as a closed tab does, or by a reset."""
        if self.transport is not None:
            if reset:
                raw = self.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.transport.abort()

    @property
    def status(self) -> int:
        """The status, 0 before it has come."""
        return int(self.received[9:12]) if self.received.find(b"\r\n\r\n") >= 0 else 0

    @property
    def complete(self) -> bool:
        """Tell whether the body ended as HTTP says: by its last chunk, or without chunks by the end alone."""
        chunked = b"\r\nTransfer-Encoding: chunked" in self.received
        return self.over and (not chunked or self.received.endswith(b"\r\n0\r\n\r\n"))

    def frames(self) -> list[Frame]:
        """Return every frame that has come complete."""
        head, blank, body = bytes(self.received).partition(b"\r\n\r\n")
        if not blank:
            return []
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), head
        if b"\r\nTransfer-Encoding: chunked" in head:
            body = _unchunk(body)
        *complete, _rest = body.split(b"\n\n")
        return [frame for frame in map(_frame, complete) if frame is not None]


def _unchunk(body: bytes) -> bytes:
    parts = []
    begin = 0
    while (line_end := body.find(b"\r\n", begin)) >= 0:
        size = int(body[begin:line_end], 16)
        parts.append(body[line_end + 2 : line_end + 2 + size])
        begin = line_end + 2 + size + 2
        if size == 0:
            assert begin >= len(body), f"bytes behind the last chunk: {body[begin:]!r}"
            break
    return b"".join(parts)


def _frame(text: bytes) -> Frame | None:
    """Read one frame; None for a bare `retry:`."""
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        field, _, value = line.partition(b": ")
        assert field in (b"event", b"id", b"data", b"retry"), line
        assert field not in fields, text
        fields[field] = value
    if b"data" not in fields:
        assert fields.keys() == {b"retry"}, text
        return None
    id = fields.get(b"id")
    return Frame(
        fields.get(b"event", b"message").decode(), id.decode() if id is not None else None, fields[b"data"]
    )
