"""Two gateways on one server that a worker's tests share, and the few calls that most of them make."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token

HISTORY_EVENTS = 50
"""Few, so that trimming is quickly reached."""


class Desk:
    """A server, gateways `a` and `b`, and an agent's hand on the server."""

    def __init__(self, server: RedisProcess, **settings: Any) -> None:
        self.server = server
        settings = {"history_events": HISTORY_EVENTS, "heartbeat_seconds": 60, **settings}
        self.a, self.b = (GatewayProcess(server.url, **settings) for _ in range(2))

    def call(self, function: str, session_id: str, *arguments: str | bytes) -> Any:
        """FCALL a function of the library."""
        return self.server.client.execute_command("FCALL", function, 1, session_id, *arguments)

    def publish(self, session_id: str, kind: str = "note", **data: Any) -> str:
        """Publish durably and return the id."""
        return str(self.call("sse_publish", session_id, json.dumps({"type": kind, "data": data})))

    def say(self, session_id: str, payload: str | bytes) -> None:
        """PUBLISH on the session's channel."""
        self.server.client.publish(f"sse_events:{session_id}", payload)

    def ask(self, session_id: str, request_id: str) -> str:
        """Ask for permission and return the id of the event."""
        request = {"request_id": request_id, "tool_name": "bash", "parameters": {}, "risk_level": "low"}
        return str(json.loads(self.call("sse_ask", session_id, json.dumps(request)))["id"])

    def cancel(self, session_id: str, request_id: str) -> None:
        """Give a request up."""
        self.call("sse_cancel", session_id, request_id)

    async def open(self, session_id: str, gateway: GatewayProcess | None = None, **options: Any) -> SSEStream:
        """Open a stream at `a` or the gateway given; `query` is the URL's, the rest as `SSEStream.open`."""
        url = (gateway or self.a).events(session_id, options.pop("query", ""))
        return await SSEStream.open(url, token=token(session_id=session_id), **options)


@asynccontextmanager
async def desk(server: RedisProcess, **settings: Any) -> AsyncIterator[Desk]:
    """Start two gateways on a server that runs."""
    made = Desk(server, **settings)
    try:
        await made.a.start()
        await made.b.start()
        yield made
    finally:
        made.a.close()
        made.b.close()


def ids(stream: SSEStream) -> list[str]:
    """Return the ids of all durable events, settled requests among them."""
    return [event.id for event in stream.events if event.id is not None and event.type != "ready"]


def shape(stream: SSEStream) -> list[str]:
    """Return what came, in order and in short.

    Named events by their name, default ones by type; with their `request_id`, and `+` if they had an id.
    """
    found = []
    for event in stream.events:
        kind = event.json["type"] if event.type == "message" else event.type
        if kind != "heartbeat":
            data = event.json.get("data")
            request_id = data.get("request_id") if isinstance(data, dict) else None
            found.append(kind + (f" {request_id}" if request_id else "") + ("+" if event.id else ""))
    return found
