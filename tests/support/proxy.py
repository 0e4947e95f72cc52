"""A network that fails on demand: a TCP proxy to put between a gateway and its server.

It runs in a thread with an event loop of its own, so a test that blocks does not stop the network, and all
calls may be made from anywhere. What each fault is in the real world:

    drop()             connections reset (a firewall's idle timeout, `CLIENT KILL`)
    refuse()/accept()  the address answers nobody, or again
    retarget(port)     the address leads to another server (a virtual IP after a failover)
    delay(seconds)     a slow network, order kept
    hold(way)          a black hole: bytes in this direction (or both) stop arriving; `release()` lets them
                       through, as TCP would after a repaired link
    withhold(word)     the same downwards, from the moment a client says this word: a call is made and its
                       reply never comes
    swallow()          published messages vanish, everything else passes: the server answers PING and
                       delivers nothing
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Self

from tests.support.ports import free_port
from tests.support.resp import ReplySplitter, pushed_channel

Way = Literal["up", "down"]
"""up: client to server; down: server to client."""


class Proxy:
    """One listening port in front of one target port on 127.0.0.1."""

    def __init__(self, target: int, *, port: int | None = None, speaks_redis: bool = True) -> None:
        """Prepare a proxy; without `speaks_redis` it passes any bytes and cannot swallow messages."""
        self.target = target
        self.port = port or free_port()
        self.speaks_redis = speaks_redis
        self.connections = 0
        """Connections accepted so far."""
        self.swallowed = 0
        """Published messages that were not passed on so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._listener: socket.socket | None = None
        self._links: set[_Link] = set()
        self._taking: set[asyncio.Task[None]] = set()
        """Connections that were accepted and have no transport yet."""
        self._delay = {"up": 0.0, "down": 0.0}
        self._held: set[str] = set()
        self._trap: bytes | None = None
        self._swallows: Callable[[bytes], bool] | None = None
        self._swallows_up_to: int | None = None
        """The number of the last connection that is concerned; None: all are."""

    @property
    def url(self) -> str:
        """The proxy as a Redis URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    def start(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        self._call(self._listen)
        return self

    def close(self) -> None:
        """Drop everything and end the thread; a second call does nothing."""
        if self._thread.is_alive():
            self._call(self._close_all)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def drop(self) -> int:
        """Reset all open connections and return how many there were; new ones are accepted."""
        dropped: int = self._call(self._drop)
        return dropped

    def refuse(self) -> None:
        """Reset all open connections and stop listening."""
        self._call(self._close_all)

    def accept(self) -> None:
        """Listen again."""
        self._call(self._listen)

    def retarget(self, port: int) -> None:
        """Reset all open connections; new ones lead to another server."""
        self.target = port
        self.drop()

    def delay(self, seconds: float, *, way: Way | None = None) -> None:
        """Deliver each chunk this much later, in one direction or both; 0 ends it."""
        for name in _ways(way):
            self._delay[name] = seconds

    def hold(self, way: Way | None = None) -> None:
        """Keep back what is sent in one direction or both. Connections stand, new ones are accepted too."""
        self._held.update(_ways(way))

    def withhold(self, word: bytes) -> None:
        """Hold what servers send from when a client sends `word`, which is passed on; `release()` ends it."""
        self._trap = word

    @property
    def withholding(self) -> bool:
        """Whether the word has been said."""
        return "down" in self._held

    def release(self) -> None:
        """Let through what was held, in order."""
        self._trap = None
        self._held.clear()
        self._call(self._flush)

    def swallow(self, which: Callable[[bytes], bool] | None = None, *, later: bool = True) -> None:
        """Swallow published messages on the channels that `which` picks; without it, on all.

        Not on connections that are made later, unless `later`: those of a server that took over hear again.
        """
        self._swallows = which or (lambda channel: True)
        self._swallows_up_to = None if later else self.connections

    def deliver(self) -> None:
        """Pass on published messages again."""
        self._swallows = None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._close_latecomers())

    async def _close_latecomers(self) -> None:
        """Close what was accepted while the rest was being closed."""
        # One that has not begun yet would not close its socket.
        await asyncio.sleep(0)
        accepting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)
        await self._close_all()

    def _call(self, function: Callable[[], Any]) -> Any:
        """Run a function or coroutine function in the proxy's thread and return its value."""

        async def call() -> Any:
            value = function()
            return await value if asyncio.iscoroutine(value) else value

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _listen(self) -> None:
        """Accept by hand: asyncio's own server drops, unclosed, what it accepts in the moment of its end."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                accepted, _ = listener.accept()
                taking = self._loop.create_task(self._take(accepted))
                self._taking.add(taking)
                taking.add_done_callback(self._taking.discard)

    async def _take(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: _Client(self), accepted)
        except BaseException:
            accepted.close()
            raise

    async def _close_all(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._drop()
        # Transports close in the loop's next round.
        await asyncio.sleep(0.01)

    def _drop(self) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def _flush(self) -> None:
        for link in list(self._links):
            link.up.flush()
            link.down.flush()
            if any(lane.sink is None or lane.sink.is_closing() for lane in (link.up, link.down)):
                link.reset()


def _ways(way: Way | None) -> tuple[str, ...]:
    return (way,) if way else ("up", "down")


class _Lane:
    """One direction of one connection."""

    def __init__(self, proxy: Proxy, way: Way) -> None:
        self.proxy = proxy
        self.number = proxy.connections + 1
        self.way = way
        self.sink: asyncio.Transport | None = None
        self.queue: deque[tuple[float, bytes | None]] = deque()
        """Bytes not passed on yet and when they are due; None is the end of the stream."""
        self.splitter = ReplySplitter() if proxy.speaks_redis and way == "down" else None
        self.timer: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        trap = self.proxy._trap
        if trap is not None and self.way == "up" and trap in data:
            self.proxy._held.add("down")
        if self.splitter is not None:
            replies = self.splitter.feed(data)
            swallows, up_to = self.proxy._swallows, self.proxy._swallows_up_to
            if swallows is not None and (up_to is None or self.number <= up_to):
                kept = [
                    reply
                    for reply in replies
                    if (channel := pushed_channel(reply)) is None or not swallows(channel)
                ]
                self.proxy.swallowed += len(replies) - len(kept)
                replies = kept
            data = b"".join(replies)
        if data:
            self.put(data)

    def put(self, data: bytes | None) -> None:
        due = self.proxy._loop.time() + self.proxy._delay[self.way]
        self.queue.append((due, data))
        self.flush()

    def flush(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.sink is None or self.way in self.proxy._held:
            return
        now = self.proxy._loop.time()
        while self.queue:
            due, data = self.queue[0]
            if due > now:
                self.timer = self.proxy._loop.call_at(due, self.flush)
                return
            self.queue.popleft()
            if data is not None:
                self.sink.write(data)
            elif self.sink.can_write_eof() and not self.sink.is_closing():
                # The peer may have reset the connection already.
                with contextlib.suppress(OSError):
                    self.sink.write_eof()


class _Link:
    """One connection through the proxy: two transports and two lanes."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.up = _Lane(proxy, "up")
        self.down = _Lane(proxy, "down")
        proxy._links.add(self)

    def reset(self) -> None:
        """End both sides with RST."""
        self.proxy._links.discard(self)
        for lane in (self.up, self.down):
            if lane.timer is not None:
                lane.timer.cancel()
            if lane.sink is not None:
                raw = lane.sink.get_extra_info("socket")
                if raw is not None and raw.fileno() >= 0:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                lane.sink.abort()


class _Client(asyncio.Protocol):
    """The accepted side."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.link = _Link(proxy)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.proxy.connections += 1
        self.link.down.sink = transport
        if self.link not in self.proxy._links:
            # Reset between being accepted and coming here, when there was nothing to reset yet.
            transport.abort()
            return
        self.dialling = self.proxy._loop.create_task(self._dial())

    async def _dial(self) -> None:
        try:
            await self.proxy._loop.create_connection(
                lambda: _Server(self.link), "127.0.0.1", self.proxy.target
            )
        except OSError:
            self.link.reset()

    def data_received(self, data: bytes) -> None:
        self.link.up.feed(data)

    def eof_received(self) -> bool:
        self.link.up.put(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        # A reset on one side is one on the other; a held lane keeps the other in the dark.
        if self.link in self.proxy._links and "up" not in self.proxy._held:
            self.link.reset()


class _Server(asyncio.Protocol):
    """The dialled side."""

    def __init__(self, link: _Link) -> None:
        self.link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.link.up.sink = transport
        if self.link not in self.link.proxy._links:
            transport.abort()
            return
        self.link.up.flush()

    def data_received(self, data: bytes) -> None:
        self.link.down.feed(data)

    def eof_received(self) -> bool:
        self.link.down.put(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self.link in self.link.proxy._links and "down" not in self.link.proxy._held:
            self.link.reset()
