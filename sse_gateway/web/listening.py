"""Where the gateway listens, and the options that each connection has from its first moment.

Linux gives a connection those of the socket it came in by. Set on each by itself they were three percent of a
reconnect storm.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from aiohttp import web

BACKLOG = 4096
"""aiohttp's default of 128 costs a second at the first thousand reconnects."""
UNREAD_SECONDS = 60
"""How long a client may take nothing of an answer: the kernel drops it then."""
NOTSENT_LOWAT_BYTES = 64 * 1024
"""Unsent bytes stay in our own buffer, where they are counted, and not in megabytes of the kernel's."""
_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
_OPTIONS = (
    (socket.TCP_NODELAY, 1),
    (getattr(socket, "TCP_USER_TIMEOUT", None), UNREAD_SECONDS * 1000),
    (_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES),
)


async def listen(runner: web.BaseRunner, host: str, port: int, *, reuse_port: bool = False) -> asyncio.Server:
    """Serve what `runner` has been set up to serve, at each address of `host`; raises OSError."""
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(
        runner.server, host, port, backlog=BACKLOG, reuse_port=reuse_port or None, start_serving=False
    )
    for listening in server.sockets:
        for option, value in _OPTIONS:
            if option is not None:
                # Not every kernel knows them all.
                with contextlib.suppress(OSError):
                    listening.setsockopt(socket.IPPROTO_TCP, option, value)
    await server.start_serving()
    return server
