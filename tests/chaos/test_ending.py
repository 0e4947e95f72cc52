"""Ends nobody is told of: the message is lost, Redis cannot be asked, a stream is just being opened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sse_gateway.core.keys import Keys
from tests.chaos.local import LocalGateway, local_gateway
from tests.support.plain import plain_client
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.tokens import token
from tests.support.wait import until

SOON_SECONDS = 0.3
EVENT = '{"type":"note","data":{}}'


async def watch(gateway: LocalGateway, session_id: str, **options: Any) -> SSEStream:
    """Open a stream and wait until it is live."""
    stream = await SSEStream.open(gateway.events(session_id), token=token(session_id=session_id), **options)
    await stream.ready()
    return stream


async def told(stream: SSEStream) -> tuple[str, bool]:
    """Wait until a stream is closed, and return what it was told."""
    assert await stream.ended(seconds=10) == "clean"
    closing = stream.named("closing")[-1]
    return closing["reason"], closing["reconnect"]


async def test_an_end_while_the_push_connection_is_down_is_told(
    own_server: RedisProcess, session_id: str
) -> None:
    """A session that ends while nobody can hear it is closed once the connection is back."""
    async with local_gateway(own_server.url) as gateway:
        stream = await watch(gateway, session_id)
        # In one transaction: nobody is back before the end.
        with own_server.client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            pipeline.execute_command("FCALL", "sse_publish", 1, session_id, EVENT)
            pipeline.execute_command("FCALL", "sse_end", 1, session_id, "")
            _, last, _ = pipeline.execute()
        assert await told(stream) == ("session_ended", False)
        assert stream.parser.last_event_id == last, "what came before the end comes first"


async def test_an_end_whose_message_was_lost_is_found_by_its_position(
    server: RedisProcess, proxied: Callable[[RedisProcess], Proxy], session_id: str
) -> None:
    """The comparison of positions finds an end that was lost without a trace, as it finds events."""
    wire = proxied(server)
    async with local_gateway(wire.url, position_check_seconds=SOON_SECONDS) as gateway:
        stream = await watch(gateway, session_id)
        wire.swallow(lambda channel: channel == Keys("").events_channel(session_id).encode())
        server.client.fcall("sse_end", 1, session_id, "")
        assert await told(stream) == ("session_ended", False)
        assert wire.swallowed == 1


async def test_an_end_is_told_when_redis_could_not_be_asked_at_first(
    server: RedisProcess, proxied: Callable[[RedisProcess], Proxy], session_id: str
) -> None:
    """A gateway that hears of an end and gets no answer from Redis asks again until it has one."""
    wire = proxied(server)
    async with local_gateway(wire.url) as gateway, plain_client() as http:
        stream = await watch(gateway, session_id)
        asked = 'sse_gateway_redis_command_duration_seconds_count{command="sse_status"}'

        async def gave_up() -> bool:
            metrics = await http.get(gateway.base.replace("/agent_backend/api/sse", "/metrics"))
            return asked in metrics.text

        wire.withhold(b"sse_status")
        server.client.fcall("sse_end", 1, session_id, "")
        await until(gave_up, "the call to have failed")
        assert not stream.named("closing")
        wire.release()
        assert await told(stream) == ("session_ended", False)


async def test_an_end_while_a_stream_is_being_opened_is_told(server: RedisProcess, session_id: str) -> None:
    """A stream that has read its session before the end, and began after it, is closed like the others."""
    async with local_gateway(server.url) as gateway, plain_client() as http:
        witness = await watch(gateway, session_id)
        tickets = gateway.gateway.tickets
        redeem = tickets.redeem

        async def end_first(ticket: str, of: str) -> None:
            server.client.fcall("sse_end", 1, session_id, "")
            await told(witness)
            await redeem(ticket, of)

        # Tickets are used up between the read and the beginning.
        tickets.redeem = end_first  # type: ignore[method-assign]
        bearer = {"Authorization": f"Bearer {token(session_id=session_id)}"}
        answer = await http.post(f"{gateway.base}/ticket/{session_id}", headers=bearer)
        ticket = answer.json()["data"]["ticket"]
        stream = await SSEStream.open(gateway.events(session_id, f"ticket={ticket}"))
        assert await told(stream) == ("session_ended", False)
        assert stream.named("ready")


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_stream_that_is_behind_reads_everything_before_the_end(
    server: RedisProcess, session_id: str, reopened: bool
) -> None:
    """A paused stream of a session that ends gets what came before, and then its `closing`, if at all."""
    event = EVENT.replace("{}", '"' + "x" * 200_000 + '"')
    async with local_gateway(server.url) as gateway:
        url, bearer = gateway.events(session_id), token(session_id=session_id)
        stream = await SSEStream.open(url, token=bearer, receive_buffer=4096)
        await stream.ready()
        stream.pause()
        for _ in range(15):
            last = server.client.fcall("sse_publish", 1, session_id, event)
        feed = gateway.gateway.live.feed_of(session_id)
        assert feed is not None
        (behind,) = await until(lambda: feed.joining, "the stream to be paused")
        server.client.fcall("sse_end", 1, session_id, "")
        await until(lambda: behind.ended, "the end to be heard")
        if reopened:
            last = server.client.fcall("sse_publish", 1, session_id, EVENT)
        stream.resume()
        await stream.wait(lambda: stream.parser.last_event_id == last, "all that was published")
        if reopened:
            server.client.fcall("sse_publish", 1, session_id, EVENT.replace("note", "after"))
            await stream.message("after")
        else:
            assert await told(stream) == ("session_ended", False)


@pytest.mark.parametrize("when", ["paused", "replaying"])
async def test_a_stream_that_cannot_go_on_is_closed(
    own_server: RedisProcess, session_id: str, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Who is behind when Redis takes the gateway's rights away is sent off, and not left in silence."""
    own_server.client.acl_setuser("gw", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all"])
    event = EVENT.replace("{}", '"' + "x" * 200_000 + '"')
    async with local_gateway(own_server.url.replace("://", "://gw:any@")) as gateway:
        url, bearer = gateway.events(session_id, "replay=all"), token(session_id=session_id)
        if when == "paused":
            stream = await SSEStream.open(url, token=bearer, receive_buffer=4096)
            await stream.ready()
            stream.pause()
        for _ in range(30):
            own_server.client.fcall("sse_publish", 1, session_id, event)
        if when == "replaying":
            stream = await SSEStream.open(url, token=bearer, receive_buffer=4096)
            stream.pause()
        feed = gateway.gateway.live.feed_of(session_id)
        assert feed is not None
        await until(lambda: feed.joining, "the gateway to hold something back")
        with caplog.at_level(logging.ERROR, "sse_gateway"):
            own_server.client.execute_command("ACL", "SETUSER", "gw", "-fcall")
            stream.resume()
            assert await told(stream) == ("unavailable", True)
        assert [line.message for line in caplog.records].count("a stream could not go on") == 1
