"""Three gateways on one server, an agent without the SDK, and people who answer as fast as sockets do."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import redis.asyncio

from sse_gateway.store.library import Library
from tests.support.gateway import BASE_PATH, GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token

Gateways = Callable[..., Awaitable[GatewayProcess]]
"""The fixture `gateways`."""
Tab = Callable[..., Awaitable[SSEStream]]
"""The fixture `tab`: `await tab(gateway, session_id, "replay=all", last_event_id=…, claims={…})`."""
CROWDED: dict[str, Any] = {
    "call_rate_per_client": 0,
    "call_rate_per_user": 0,
    "stream_rate_per_client": 0,
    "log_level": "info",
}
"""Settings of gateways for tests that are many people at one address."""


class Agent:
    """Call the functions as any language would, over a plain blocking connection."""

    def __init__(self, server: RedisProcess) -> None:
        self.server = server
        self._library = Library("")

    def call(self, function: str, session_id: str, *arguments: Any) -> Any:
        """Call `sse_<function>`; a server that lacks the library gets it."""
        command = self._library.command(function, session_id, *arguments)
        try:
            return self.server.client.execute_command(*command)
        except redis.exceptions.ResponseError as error:
            if "Function not found" not in str(error):
                raise
        self.server.client.execute_command("FUNCTION", "LOAD", "REPLACE", self._library.text)
        return self.server.client.execute_command(*command)

    def ask(self, session_id: str, **request: Any) -> dict[str, Any]:
        """Ask for permission and return what the script says."""
        asked = {"tool_name": "bash", "parameters": {"cmd": "ls"}, "risk_level": "low", **request}
        standing: dict[str, Any] = json.loads(self.call("ask", session_id, json.dumps(asked)))
        return standing

    def standing(self, session_id: str, request_id: str) -> dict[str, Any]:
        """Return how a request stands, as the agent is told."""
        standing: dict[str, Any] = json.loads(self.call("decision", session_id, request_id))
        return standing

    def pending(self, session_id: str) -> list[str]:
        """Return the ids of the open requests, in the order asked."""
        return [str(request_id) for request_id in self.call("pending", session_id)[3][::5]]

    def told(self, session_id: str) -> list[dict[str, Any]]:
        """Return the decisions on the answers stream, which is how agents without SDK hear of them."""
        found = []
        for _, fields in self.server.client.xrange(f"permission_responses:{{{session_id}}}"):
            decision = json.loads(fields["decision"])
            assert (fields["request_id"], fields["outcome"]) == (decision["request_id"], decision["outcome"])
            found.append(decision)
        return found

    def events(self, session_id: str, kind: str = "") -> list[dict[str, Any]]:
        """Return the session's retained events, all or those of one type."""
        entries = self.server.client.xrange(f"sse:{{{session_id}}}:history")
        events = [json.loads(fields["d"]) for _, fields in entries]
        return [event for event in events if kind in ("", event["type"])]

    def make_due(self, session_id: str, request_id: str) -> None:
        """Move a request's deadline into the past, instead of waiting for it."""
        self.server.client.hset(f"sse:{{{session_id}}}:permissions", f"expires:{request_id}", 1)
        self.server.client.hset(f"sse:{{{session_id}}}:meta", "next_due", 1)


class Ear:
    """Hear what an agent hears that subscribed to the answers' channel."""

    def __init__(self, server: RedisProcess, session_id: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self._client = redis.asyncio.Redis(host="127.0.0.1", port=server.port)
        self._channel = self._client.pubsub()
        self._name = f"permission_response:{session_id}"

    async def __aenter__(self) -> Self:
        await self._channel.subscribe(self._name)
        assert (await self._channel.get_message(timeout=10))["type"] == "subscribe"
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.aclose()  # type: ignore[no-untyped-call]
        await self._client.aclose()

    async def _listen(self) -> None:
        while True:
            message = await self._channel.get_message(timeout=None)
            self.heard.append(json.loads(message["data"]))


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call was answered."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """The error's code, or ""."""
        return str(self.body.get("code", ""))

    @property
    def decision(self) -> dict[str, Any]:
        """The decision that the answer led to, or lost against."""
        found: dict[str, Any] = self.body["data"]["decision"] if self.status == 200 else self.body["decision"]
        return found

    @property
    def won(self) -> bool:
        """Tell whether this very answer decided the request."""
        return self.status == 200 and self.body["data"]["replayed"] is False


@functools.cache
def bearer(user: str, session_id: str, scope: str = "") -> str:
    """Return the header of a token that names the session; without a scope it may read and respond."""
    return f"Bearer {token(sub=user, session_id=session_id, scope=scope or ...)}"


def posting(path: str, body: Any, *, user: str = "user-1", session_id: str, **headers: str) -> bytes:
    """Return the bytes of a POST with a token that names the session."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: test",
        f"Authorization: {bearer(user, session_id)}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def answering(session_id: str, body: Any, **options: str) -> bytes:
    """Return the bytes of an answer."""
    return posting(f"{BASE_PATH}/permission-response/{session_id}", body, session_id=session_id, **options)


class Line(asyncio.Protocol):
    """One connection to a gateway that stays open: what is sent is written at once, replies come in order."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._buffer = b""
        self._transport: Any = None

    @classmethod
    async def to(cls, gateway: GatewayProcess) -> Line:
        """Connect."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(cls, "127.0.0.1", gateway.port)
        return line

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Write a whole request; the future is its reply, or a ConnectionError."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(request)
        return future

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            place = head.index(b"content-length:") + len(b"content-length:")
            length = int(head[place : place + 12].split(b"\r\n")[0])
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._waiting.popleft().set_result(Reply(int(head[9:12]), json.loads(body)))

    def connection_lost(self, error: Exception | None) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ConnectionResetError("the gateway hung up"))
                future.exception()  # marked as seen: not every test looks


Dial = Callable[[GatewayProcess], Awaitable[Line]]
"""The fixture `dial`: `line = await dial(gateway)`."""


async def crowd(dial: Dial, gateways: Sequence[GatewayProcess], count: int) -> list[Line]:
    """Connect so many people, to the gateways in turn."""
    return [await dial(gateways[n % len(gateways)]) for n in range(count)]


async def all_at_once(lines: Sequence[Line], requests: Sequence[bytes]) -> list[Reply]:
    """Have each send one request, all in the same moment, and return the replies in the same order."""
    sent = [line.send(request) for line, request in zip(lines, requests, strict=True)]
    return list(await asyncio.gather(*sent))


def open_at(stream: SSEStream, moment: int | None = None) -> list[str]:
    """Return the requests that a page shows as open, going by the stream's first `moment` events (all)."""
    shown: list[str] = []
    for event in stream.events[:moment]:
        if event.type == "stream_reset":
            shown.clear()
        if event.type != "message":
            continue
        message = event.json
        request_id = message.get("data", {}).get("request_id")
        if message["type"] == "permission_request" and request_id not in shown:
            shown.append(request_id)
        elif message["type"] == "permission_cleared" and request_id in shown:
            shown.remove(request_id)
    return shown
