"""The clients' connections: how long each may take to say what it wants, and how what is no HTTP is answered.

aiohttp waits for the rest of a request's head as long as for the next request, and takes as many connections
as there are descriptors, so that a handful of clients who send a byte now and then could keep everybody else
out. What it cannot read it quotes in its answer and logs as an error with a stack trace: a token in the one,
a full disk by the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong

from sse_gateway.core.errors import GatewayError
from sse_gateway.metrics import Metrics
from sse_gateway.web.replies import failure, refusal_of

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How long ago a request must have been served for its connection to be idle: its answer has left by then."""
MOST_LOOKED_AT = 100
"""How many connections are looked at for one that is idle, so that a new one costs no more where none is."""
HEAD_SECONDS = 10.0
"""How long a request's head may take, counted from the connection or from its first byte."""
CLOSE_SECONDS = 5.0
"""How long answers still under way, and streams' last bytes, may take once everything is being closed."""
STRAY_BYTES = 4096
"""How much a client may send on a stream before it is taken for an attack; all of it is discarded."""
MAX_ADDRESS_BYTES = 12 * 1024
MAX_HEADER_BYTES = 16 * 1024
"""Room for a token of the largest size in either; they differ, since the parser names only the limit."""
PARSER_LIMITS: dict[str, Any] = {
    "max_line_size": MAX_ADDRESS_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": 64,
    # A few bytes can be inflated to gigabytes, and no client of ours compresses what it sends.
    "auto_decompress": False,
    # How long the rest of a body that nobody wants is waited for.
    "lingering_time": 3.0,
}


class Finishing(Protocol):
    """What carries a stream that is over."""

    @property
    def transport(self) -> asyncio.WriteTransport | None: ...


class Connections:
    """Watch the connections of one runner.

    `most` is how many the process has descriptors for; `streams_open` tells how many streams there
    are, wherever they are held.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        most: int,
        streams_open: Callable[[], int] = lambda: 0,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._most = most
        self._streams_open = streams_open
        self._head_seconds = head_seconds
        self._count = 0
        self._heads: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        """Connections whose next request has begun, or that never sent one, and when their time is up."""
        self._idle: dict[web.RequestHandler, float] = {}
        """Connections with nothing under way, and since when; the longest idle first."""
        self._busy: set[web.RequestHandler] = set()
        """Connections with a request in a handler."""
        self._streams: dict[web.RequestHandler, int] = {}
        """Connections that carry a stream, and how much their clients have sent since."""
        self._on_lost: dict[web.RequestHandler, Callable[[], None]] = {}
        self.finishing: set[Finishing] = set()
        """Handed-over streams that are over, as long as their last bytes are on their way."""

    def made(self, connection: web.RequestHandler) -> None:
        """Begin to wait for a first request, unless the last descriptors are at stake.

        Who is idle makes room: otherwise one client could hold every place by a request a minute on each.
        """
        self._count += 1
        handed_over = max(0, self._streams_open() - len(self._streams))
        if self._count + handed_over > self._most and not self._make_room():
            self._end(connection, "too_many")
            return
        self._wait_for_head(connection)

    def takes(self, connection: web.RequestHandler, data: bytes) -> bool:
        """Tell whether bytes are for the parser; those sent on a stream are for nobody."""
        sent = self._streams.get(connection)
        if sent is None:
            return True
        self._streams[connection] = sent + len(data)
        if sent + len(data) > STRAY_BYTES:
            self._end(connection, "stray_bytes")
        return False

    def received(self, connection: web.RequestHandler) -> None:
        """Begin to wait for the rest of a head, unless a request is being served."""
        if connection not in self._busy and connection not in self._heads:
            self._wait_for_head(connection)

    def began(self, connection: web.RequestHandler) -> None:
        """Note that a request is whole as far as its head goes."""
        self._busy.add(connection)
        self._idle.pop(connection, None)
        timer = self._heads.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def ended(self, connection: web.RequestHandler) -> None:
        """Note that a request was served."""
        self._busy.discard(connection)
        if connection.transport is not None and connection not in self._streams:
            self._idle[connection] = asyncio.get_running_loop().time()

    def streams(self, connection: web.RequestHandler) -> None:
        """Note that what a connection carries from now on is a stream, behind which nothing is served."""
        if connection in self._busy:
            self._streams[connection] = 0

    def lost(self, connection: web.RequestHandler) -> None:
        """Forget a connection."""
        self._count -= 1
        self.began(connection)
        self._busy.discard(connection)
        self._streams.pop(connection, None)
        end = self._on_lost.pop(connection, None)
        if end is not None:
            end()

    def on_lost(self, connection: web.RequestHandler, end: Callable[[], None]) -> None:
        """Have `end` called once a connection is lost, or now if it is."""
        if connection.transport is None:
            end()
        else:
            self._on_lost[connection] = end

    def refuse(self, error: GatewayError) -> web.Response:
        """Return the last answer on a connection that no handler has seen a request of."""
        self._metrics.requests_refused.labels(error.code).inc()
        response = failure(error)
        response.force_close()
        return response

    def _make_room(self) -> bool:
        """Cut the connection that has been idle for longest; tell whether there was one."""
        latest = asyncio.get_running_loop().time() - IDLE_SECONDS
        for connection, since in islice(self._idle.items(), MOST_LOOKED_AT):
            if since > latest:
                break
            transport = connection.transport
            if transport is not None and not transport.get_write_buffer_size():
                del self._idle[connection]
                self._end(connection, "idle")
                return True
        return False

    def _wait_for_head(self, connection: web.RequestHandler) -> None:
        self._idle.pop(connection, None)
        self._heads[connection] = asyncio.get_running_loop().call_later(
            self._head_seconds, self._end, connection, "slow_head"
        )

    async def finished(self, seconds: float) -> None:
        """Wait until what was handed over has got its last bytes, and abort what takes longer."""
        until = asyncio.get_running_loop().time() + seconds
        while self.finishing and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 (once, at the end)
            await asyncio.sleep(0.01)
        for connection in self.finishing:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    def cut(self, transport: asyncio.Transport, reason: str) -> None:
        """Cut a connection for its conduct."""
        self._metrics.connections_cut.labels(reason).inc()
        transport.abort()

    def _end(self, connection: web.RequestHandler, reason: str) -> None:
        self._heads.pop(connection, None)
        if connection.transport is not None:
            self.cut(connection.transport, reason)


CONNECTIONS = web.AppKey("connections", Connections)


def serve_through(runner: web.AppRunner, connections: Connections) -> None:
    """Have a runner that is set up serve its connections so.

    aiohttp has no setting for the class of its connections, so it is changed as they are made; for that
    reason the classes have no attributes of their own.
    """

    class Connection(web.RequestHandler):
        """One connection of a client's."""

        __slots__ = ()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connections.made(self)

        def data_received(self, data: bytes) -> None:
            if connections.takes(self, data):
                super().data_received(data)
                connections.received(self)

        def connection_lost(self, exc: BaseException | None) -> None:
            connections.lost(self)
            super().connection_lost(exc)

        def handle_error(
            self,
            request: web.BaseRequest,
            status: int = 500,
            exc: BaseException | None = None,
            message: str | None = None,
        ) -> web.StreamResponse:
            if status >= 500:
                # Logs it; raises where a part of an answer has been sent.
                super().handle_error(request, status, exc, message)
            return connections.refuse(_told(status, exc))

    class Server(web.Server):
        """Make the connections of the runner."""

        def __call__(self) -> web.RequestHandler:
            connection = super().__call__()
            connection.__class__ = Connection
            return connection

    server = runner.server
    assert server is not None
    server.__class__ = Server
    serve = server.request_handler

    async def watched(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        connections.began(connection)
        try:
            if request.version not in (HttpVersion10, HttpVersion11):
                # The parser takes HTTP/0.9 too, whose answers have no head for a proxy to go by.
                raise web.HTTPBadRequest
            return await serve(request)
        except web.HTTPException as error:
            # Raised before any handler: an expectation nobody knows.
            return connections.refuse(refusal_of(error))
        finally:
            connections.ended(connection)

    server.request_handler = watched


def _told(status: int, exc: BaseException | None) -> GatewayError:
    """Return what a client is told of a request that could not be read, or broke outside of any handler."""
    if status >= 500:
        return GatewayError("internal_error", "The gateway failed on this request; its log says why.")
    logger.debug("what came is not HTTP", extra={"fields": {"error": type(exc).__name__}})
    if isinstance(exc, LineTooLong):
        if exc.args[1] == MAX_ADDRESS_BYTES:
            return GatewayError("url_too_long", f"An address may have at most {MAX_ADDRESS_BYTES} bytes.")
        return GatewayError("headers_too_large", f"A header may have at most {MAX_HEADER_BYTES} bytes.")
    return GatewayError("bad_request", "This is not valid HTTP, or not in a form this server takes.")
