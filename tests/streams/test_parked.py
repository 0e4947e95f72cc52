"""What waits while a session's history cannot be read."""

from __future__ import annotations

import asyncio
import json

from tests.chaos.local import local_gateway
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

DURABLE = json.dumps({"type": "note", "data": {"pad": "x" * 50_000}})


async def test_what_waits_for_a_position_is_bounded_and_what_was_dropped_is_told(
    server: RedisProcess, session_id: str
) -> None:
    """While the history cannot be read 4 MiB wait; events come all the same, and the others are counted."""
    async with (
        local_gateway(server.url) as gateway,
        await SSEStream.open(gateway.events(session_id), token=token(session_id=session_id)) as stream,
    ):
        await stream.ready()
        feed = gateway.gateway.live.feed_of(session_id)
        assert feed is not None
        history = gateway.gateway.history
        read, may_read = history.read, asyncio.Event()

        async def later(*args: object, **options: object) -> object:
            await may_read.wait()
            return await read(*args, **options)  # type: ignore[arg-type]

        history.read = later  # type: ignore[assignment,method-assign]
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: feed.parked is not None and gateway.gateway.push.connected, "the feed to wait")
        token_event = json.dumps({"type": "token", "data": {"pad": "x" * 100_000}})
        published = []
        for _ in range(60):
            server.client.publish(f"sse_events:{session_id}", token_event)
            published.append(str(server.client.fcall("sse_publish", 1, session_id, DURABLE)))
        await until(lambda: feed.parked is not None and feed.parked.skipped > 10, "messages to be dropped")
        await until(
            lambda: feed.parked is not None and published[-1].encode() in feed.parked.messages[-1][:40],
            "the last message",
        )
        assert feed.parked is not None
        assert sum(map(len, feed.parked.messages)) <= 4 * 1024 * 1024
        may_read.set()
        await stream.wait(lambda: stream.parser.last_event_id == published[-1], "everything")
        assert stream.ids == published

        def accounted_for() -> bool:
            got = sum(message["type"] == "token" for message in stream.messages)
            return got + sum(data["transient"] for data in stream.named("skipped")) == 60

        await stream.wait(accounted_for, "each transient event, or that it was skipped")
