"""The sockets the gateway listens on, with the options that each connection has from its first moment.

Linux gives a connection those of the socket it came in by. Set on each by itself they were three percent of a
reconnect storm.
"""

from __future__ import annotations

import asyncio
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


async def listen(
    runner: web.BaseRunner, host: str, port: int, *, reuse_port: bool = False
) -> list[web.BaseSite]:
    """Serve what `runner` serves at each address of `host`; raises OSError."""
    sites: list[web.BaseSite] = []
    for listening in await _sockets(host, port, reuse_port=reuse_port):
        sites.append(web.SockSite(runner, listening, backlog=BACKLOG))
        await sites[-1].start()
    return sites


async def _sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listening = socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=reuse_port)
            sockets.append(listening)
            for option, value in _OPTIONS:
                if option is not None:
                    listening.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets
