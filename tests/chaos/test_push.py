"""The push connection's supervisor, by itself: whatever happens, it may never end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from sse_gateway.store import push as push_module
from sse_gateway.store.push import Push
from sse_gateway.store.servers import Endpoint
from tests.support.servers import RedisProcess
from tests.support.wait import until

LEFT = b"sse_events:somebody-left"


def push_to(
    server: RedisProcess,
    *,
    endpoint: Callable[[], Awaitable[Endpoint]] | None = None,
    publish_probe: Callable[[str, str], Awaitable[None]] | None = None,
) -> Push:
    async def found() -> Endpoint:
        return Endpoint(host="127.0.0.1", port=server.port)

    async def publish(channel: str, payload: str) -> None:
        server.client.publish(channel, payload)

    return Push(
        name="test",
        probe_channel="sse:probe:test",
        endpoint=endpoint or found,
        publish_probe=publish_probe or publish,
        on_message=lambda _channel, _payload: None,
        on_restored=lambda: None,
        pattern=b"test:*",
        probe_seconds=0.05,
        probe_timeout_seconds=1,
    )


def test_a_connection_lost_while_its_probe_is_out_is_replaced(
    server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks between a probe and an UNSUBSCRIBE is replaced, on the loop `serve` runs on.

    uvloop raises for a write to a closed connection, which once ended the supervisor for good.
    """
    monkeypatch.setattr(push_module, "LINGER_SECONDS", 0)

    async def main() -> None:
        async def publish_probe(channel: str, payload: str) -> None:
            server.client.publish(channel, payload)
            if push.proven and push.reconnects == 0:
                await push.acquire(LEFT)
                push.release(LEFT)
                server.client.client_kill_filter(_type="pubsub")
                await asyncio.sleep(0.1)

        push = push_to(server, publish_probe=publish_probe)
        push.start()
        await until(lambda: push.reconnects >= 1 and push.proven, "the next connection to be proven")
        await push.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_failure_nobody_thought_of_is_survived(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of any kind, from finding the server or from a probe, costs a connection and no more."""
    faults: list[Exception] = [
        AttributeError("a client's own fault"),
        KeyError("another"),
        ValueError("a third"),
    ]
    # ibuteError("a client's own fault"), KeyError("another"), ValueError("a third")]

    async def endpoint() -> Endpoint:
        if len(faults) > 1:
            raise faults.pop()
        return Endpoint(host="127.0.0.1", port=server.port)

    async def publish_probe(channel: str, payload: str) -> None:
        if faults:
            raise faults.pop()
        server.client.publish(channel, payload)

    push = push_to(server, endpoint=endpoint, publish_probe=publish_probe)
    push.start()
    await until(lambda: push.proven, "the connection to be proven")
    await push.stop()
    assert "a client's own fault" in caplog.text, "and what it was is told"
