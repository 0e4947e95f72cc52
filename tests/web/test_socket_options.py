"""What the kernel is told of streams' sockets: how much it may hold back, and when a silent peer is gone."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest
import uvloop

from sse_gateway.web.listening import NOTSENT_LOWAT_BYTES, UNREAD_SECONDS
from tests.chaos.local import local_gateway
from tests.support.servers import RedisProcess
from tests.support.tokens import token
from tests.support.wait import until

NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Python names it from 3.12 on
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

AS_PROMISED = {"nodelay": 1, "notsent_lowat": NOTSENT_LOWAT_BYTES, "user_timeout": UNREAD_SECONDS * 1000}

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has these")


def options(sock: Any) -> dict[str, int]:
    """Return what the kernel says of a socket."""
    names = {
        "nodelay": socket.TCP_NODELAY,
        "notsent_lowat": NOTSENT_LOWAT,
        "user_timeout": socket.TCP_USER_TIMEOUT,
    }
    return {name: sock.getsockopt(socket.IPPROTO_TCP, option) for name, option in names.items()}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("transport", ["aiohttp", "handover"])
def test_a_streams_socket_holds_little_back_and_gives_a_silent_peer_up(
    server: RedisProcess, session_id: str, transport: str, loop: str
) -> None:
    """64 KiB unsent at most and a minute without an acknowledgement, however a stream is held."""

    async def look() -> dict[str, int]:
        query = {"token": token(session_id=session_id)}
        async with (
            local_gateway(server.url, stream_transport=transport) as gateway,
            httpx.AsyncClient() as http,
            http.stream("GET", gateway.events(session_id), params=query) as response,
        ):
            assert response.status_code == 200
            (held,) = await until(lambda: gateway.gateway.hub.streams, "the stream to be open")
            return options(held.transport.get_extra_info("socket"))

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        found = runner.run(look())
    assert (UNREAD_SECONDS, NOTSENT_LOWAT_BYTES) == (60, 65536)
    assert found == AS_PROMISED
