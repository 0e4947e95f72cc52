"""Two gateways on one server, and the few calls that most tests make of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token

Gateways = Callable[..., Awaitable[GatewayProcess]]
"""The fixture `gateways`."""
Tab = Callable[..., Awaitable[SSEStream]]
"""The fixture `tab`: `await tab(gateway, session_id, "replay=all", last_event_id=…, http="1.0")`.

It returns when the stream is ready (`ready=False`: when its head is there). Its token names the session;
`claims={…}` adds to its claims, `token=…` takes its place.
"""
CLIENT_LIMITS = httpx.Limits(max_connections=None)
PAGE_ORIGIN = "https://app.example.org"
"""The origin whose pages may call the site's gateways."""
HEARTBEAT_SECONDS = 0.3


class Site:
    """Hold gateways `a` and `b`, which differ in two settings.

    An answer that names no request counts at once at `a`, and is never late enough at `b`
    (MIN_DISPLAY_SECONDS 0 and 60), so that neither side of it needs a wait. Streams of `a` are aiohttp's
    responses, those of `b` handed-over sockets (STREAM_TRANSPORT); nobody should be able to tell.
    """

    def __init__(self, server: RedisProcess) -> None:
        self.server = server
        self.a = self._gateway(min_display_seconds=0, stream_transport="aiohttp")
        self.b = self._gateway(min_display_seconds=60, stream_transport="handover")

    def _gateway(self, **settings: Any) -> GatewayProcess:
        return GatewayProcess(
            self.server.url,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            cors_origins=[PAGE_ORIGIN],
            **settings,
        )

    def call(self, function: str, session_id: str, *arguments: str | bytes) -> Any:
        """FCALL a function of the library, as any Redis client in any language would."""
        return self.server.client.execute_command("FCALL", function, 1, session_id, *arguments)

    def publish(self, session_id: str, kind: str, data: Any = None, **members: Any) -> str:
        """Publish one event durably and return its id."""
        event = {"type": kind, "data": {} if data is None else data, **members}
        return str(self.call("sse_publish", session_id, json.dumps(event)))

    def say(self, session_id: str, payload: str | bytes) -> int:
        """PUBLISH on the session's channel, as plain as it gets; return how many gateways heard it."""
        heard: int = self.server.client.publish(f"sse_events:{session_id}", payload)
        return heard

    def ask(self, session_id: str, **request: Any) -> dict[str, Any]:
        """Ask for permission and return what the script says."""
        asked = {"tool_name": "bash", "parameters": {"cmd": "ls"}, "risk_level": "low", **request}
        standing: dict[str, Any] = json.loads(self.call("sse_ask", session_id, json.dumps(asked)))
        return standing


def bearer(session_id: str, **claims: Any) -> dict[str, str]:
    """Return the header of a token that names this session."""
    return {"Authorization": f"Bearer {token(session_id=session_id, **claims)}"}


async def arrived(stream: SSEStream, count: int) -> list[Any]:
    """Wait until a stream has had this many default events, heartbeats left out, and return them."""
    await stream.wait(lambda: len(stream.messages) >= count, f"{count} events")
    return stream.messages


class Human:
    """Somebody who answers, at whichever gateway."""

    def __init__(self, http: httpx.AsyncClient, session_id: str) -> None:
        self.http = http
        self.session_id = session_id

    async def answer(self, gateway: GatewayProcess, approved: Any = True, **members: Any) -> httpx.Response:
        """POST an answer; `claims` and `headers` are the request's, the rest is the body's."""
        headers = bearer(self.session_id, **members.pop("claims", {})) | members.pop("headers", {})
        body = {"approved": approved, **members}
        url = f"{gateway.base}/permission-response/{self.session_id}"
        return await self.http.post(url, headers=headers, json=body)


async def raw(gateway: GatewayProcess, request: str) -> bytes:
    """Send what may be no HTTP and return what comes until the gateway hangs up, or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request.encode("latin-1"))
    received = b""
    try:
        async with asyncio.timeout(10):
            while piece := await asyncio.wait_for(reader.read(65536), 0.3):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
    return received
