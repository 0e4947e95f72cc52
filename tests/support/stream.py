"""A raw HTTP client for event streams, HTTP/1.1 and 1.0, that tells a proper end of the body from a cut.

It is a plain `asyncio.Protocol`: thousands of them fit into a test, `pause()` makes a slow reader of one, and
nothing between the socket and the recorded events could hide a fault.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tests.support.sse import Event, EventParser
from tests.support.wait import until

EndKind = Literal["clean", "cut", "ours"]
"""How a stream ended: as HTTP says a body ends; in the middle; because this client hung up."""


class StreamError(AssertionError):
    """The server broke HTTP, or the stream ended before what was waited for."""


class SSEStream(asyncio.Protocol):
    """One connection and everything it brought. Make one by `await SSEStream.open(url)`.

    `events` and `arrivals` (times, `time.monotonic()`) grow side by side; `end` is None while the connection
    stands.
    """

    def __init__(self, request: bytes, *, http: str) -> None:
        self.http = http
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        """The body, kept only while it is no event stream (an error's JSON)."""
        self.events: list[Event] = []
        self.arrivals: list[float] = []
        self.parser = EventParser()
        self.received_bytes = 0
        self.end: EndKind | None = None
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._head = bytearray()
        self._in_head = True
        self._chunked: _Chunks | None = None
        self._length: int | None = None
        self._news = asyncio.Event()
        self._named: dict[str, list[Event]] = {}
        self._messages: list[Any] = []
        self._fault: StreamError | None = None
        self._hung_up = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        last_event_id: str | None = None,
        http: Literal["1.1", "1.0"] = "1.1",
        receive_buffer: int | None = None,
        seconds: float = 10.0,
    ) -> Self:
        r"""Connect, send the GET and return once status and headers are there.

        `token` goes into the Authorization header; `receive_buffer` (bytes) makes the kernel hold little for
        a slow reader. Surrogates such as "\udcff" stand for bytes that are not UTF-8.
        """
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/{http}", f"Host: {parts.netloc}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if last_event_id is not None:
            lines.append(f"Last-Event-ID: {last_event_id}")
        request = ("\r\n".join(lines) + "\r\n\r\n").encode(errors="surrogateescape")

        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(sock, (parts.hostname or "127.0.0.1", parts.port or 80))
                _, stream = await loop.create_connection(lambda: cls(request, http=http), sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            await stream.wait(lambda: not stream._in_head, "the status line and headers", seconds=seconds)
            if not stream.streaming and stream.end is None:
                await stream.wait(lambda: stream.end is not None, "the whole body", seconds=seconds)
        except BaseException:
            stream.abort()
            raise
        return stream

    @property
    def streaming(self) -> bool:
        """Whether the response is a 200 event stream."""
        return self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def messages(self) -> list[Any]:
        """The JSON of the default events (`onmessage`), heartbeats left out."""
        events = self._named.get("message", [])
        # Decoded once each: conditions look at this list again and again.
        self._messages += [event.json for event in events[len(self._messages) :]]
        return [message for message in self._messages if message["type"] != "heartbeat"]

    @property
    def ids(self) -> list[str]:
        """The ids of the events that had one, `ready` and others by name left out."""
        return [event.id for event in self._named.get("message", []) if event.id is not None]

    def named(self, name: str) -> list[Any]:
        """The JSON of the events of this name."""
        return [event.json for event in self._named.get(name, [])]

    async def wait(self, condition: Callable[[], Any], what: str, *, seconds: float = 10.0) -> Any:
        """Wait until the condition is true, looking whenever something came; raise if the stream ends."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if self._fault is not None:
                        raise self._fault
                    if value := condition():
                        return value
                    if self.end is not None:
                        raise StreamError(f"the stream ended ({self.end}) before: {what}; {self._seen()}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise StreamError(f"waited {seconds:g} s for: {what}; {self._seen()}") from None

    async def event(self, name: str, *, count: int = 1, seconds: float = 10.0) -> Any:
        """Wait for the `count`-th event of this name and return its JSON."""
        seen = self._named.setdefault(name, [])
        await self.wait(lambda: len(seen) >= count, f"event {name!r} no. {count}", seconds=seconds)
        return seen[count - 1].json

    async def ready(self, *, count: int = 1, seconds: float = 10.0) -> Any:
        """Wait for `ready` and return its data."""
        return await self.event("ready", count=count, seconds=seconds)

    async def message(self, kind: str, *, count: int = 1, seconds: float = 10.0) -> Any:
        """Wait for the `count`-th default event of this type and return it."""

        def found() -> list[Any]:
            return [message for message in self.messages if message["type"] == kind][count - 1 :]

        return (await self.wait(found, f"message {kind!r} no. {count}", seconds=seconds))[0]

    async def ended(self, *, seconds: float = 10.0) -> EndKind:
        """Wait for the end and return its kind."""
        await self.wait(lambda: self.end, "the end of the stream", seconds=seconds)
        assert self.end is not None
        return self.end

    def pause(self) -> None:
        """Read nothing more from the socket."""
        assert self.transport is not None
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        assert self.transport is not None
        self.transport.resume_reading()

    def close(self) -> None:
        """Hang up (FIN), as a closed tab does."""
        self._hung_up = True
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Hang up with a reset."""
        self._hung_up = True
        if self.transport is not None:
            raw = self.transport.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        if self.end is None:
            await until(lambda: self.end is not None, "the connection to be closed")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            self._receive(data)
        except StreamError as fault:
            self._fault = fault
            self.abort()
        self._news.set()

    def _receive(self, data: bytes) -> None:
        if self._in_head:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = bytes(self._head[end + 4 :])
            self._read_head(bytes(self._head[:end]))
        self._take(data)

    def eof_received(self) -> bool:
        # Without a length and without chunks (HTTP/1.0) the end of the connection is the end of the body.
        bounded = self._chunked is not None or self._length is not None
        if not self._in_head and not bounded:
            self._ended("clean")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended("ours" if self._hung_up else "cut")

    def _read_head(self, head: bytes) -> None:
        self._in_head = False
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = status_line.partition(" ")
        status, _, self.reason = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(status) != 3 or not status.isdigit():
            raise StreamError(f"no HTTP: {status_line!r}")
        self.status = int(status)
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip() or name.lower() in self.headers:
                raise StreamError(f"a header that is malformed or there twice: {line!r}")
            self.headers[name.lower()] = value.strip()
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            if self.http == "1.0":
                raise StreamError("chunks sent to an HTTP/1.0 client")
            self._chunked = _Chunks()
        elif "content-length" in self.headers:
            self._length = int(self.headers["content-length"])
        elif self.status in (204, 304):
            self._length = 0

    def _take(self, data: bytes) -> None:
        if self._chunked is not None:
            data = self._chunked.feed(data)
        if self.streaming:
            now = time.monotonic()
            for event in self.parser.feed(data):
                self.events.append(event)
                self._named.setdefault(event.type, []).append(event)
                self.arrivals.append(now)
        else:
            self.body += data
        if (self._chunked is not None and self._chunked.complete) or (
            self._length is not None and len(self.body) >= self._length
        ):
            self._ended("clean")
            self.close()

    def _ended(self, kind: EndKind) -> None:
        if self.end is None:
            self.end = kind
        self._news.set()

    def _seen(self) -> str:
        tail = [(event.type, event.data[:80]) for event in self.events[-5:]]
        return f"status {self.status}, {len(self.events)} events, the last: {tail}"


class _Chunks:
    """Take the chunked coding off (RFC 9112, 7.1), strictly."""

    def __init__(self) -> None:
        self.complete = False
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes:
        if self.complete and data:
            raise StreamError(f"bytes after the last chunk: {data[:40]!r}")
        self._buffer += data
        body = bytearray()
        while not self.complete:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                break
            digits = self._buffer[:end].partition(b";")[0]
            if not re.fullmatch(rb"[0-9A-Fa-f]+", digits):
                raise StreamError(f"no chunk's size: {bytes(self._buffer[:80])!r}")
            size = int(digits, 16)
            if len(self._buffer) < end + 2 + size + 2:
                break
            if self._buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise StreamError("a chunk without CRLF at its end")
            body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 4 + size]
            self.complete = size == 0
        if self.complete and self._buffer:
            raise StreamError(f"bytes after the last chunk: {bytes(self._buffer[:40])!r}")
        return bytes(body)


async def get(url: str, **options: Any) -> SSEStream:
    """GET any resource with the same client and return when its body is complete; not for streams."""
    stream = await SSEStream.open(url, **options)
    if stream.streaming:
        stream.abort()
        raise StreamError(f"{url} answered with a stream")
    return stream
