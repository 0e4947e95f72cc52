"""`publish`: an event gets into a session's history, or to the streams that are open."""

from __future__ import annotations

import json
import re

from redis.asyncio import Redis

from tests.cli.command import sse_gateway
from tests.support.servers import RedisProcess

EVENT = '{"type":"tool_status","data":{"status":"executing","big":12345678901234567890}}'


async def history(redis: Redis, session_id: str) -> list[bytes]:
    return [fields[b"d"] for _id, fields in await redis.xrange(f"sse:{{{session_id}}}:history")]


async def test_an_event_is_published_as_it_was_written(
    server: RedisProcess, redis: Redis, session_id: str
) -> None:
    done = sse_gateway("publish", session_id, EVENT, redis_url=server.url)
    assert done.code == 0, done
    assert re.fullmatch(r"[0-9a-f]{10}-1\n", done.out)
    (kept,) = await history(redis, session_id)
    assert kept.startswith(b'{"id":"' + done.out.strip().encode())
    assert b"12345678901234567890" in kept


async def test_standard_input_and_type_with_data(server: RedisProcess, redis: Redis, session_id: str) -> None:
    pretty = json.dumps({"type": "a", "data": {"text": "zwei\nZeilen ü"}}, indent=2).encode()
    first = sse_gateway("publish", session_id, "-", stdin=pretty, redis_url=server.url)
    second = sse_gateway("publish", session_id, "--type", "b", "--data", "[1, 2]", redis_url=server.url)
    third = sse_gateway("publish", session_id, "-t", "c", "-d", "-", stdin=b'"x"\n', redis_url=server.url)
    assert (first.code, second.code, third.code) == (0, 0, 0), (first, second, third)
    found = [json.loads(event) for event in await history(redis, session_id)]
    assert [(event["type"], event["data"]) for event in found] == [
        ("a", {"text": "zwei\nZeilen ü"}),
        ("b", [1, 2]),
        ("c", "x"),
    ]


async def test_the_same_idempotency_key_publishes_once(
    server: RedisProcess, redis: Redis, session_id: str
) -> None:
    words = ("publish", session_id, EVENT, "--idempotency-key", "k1")
    first = sse_gateway(*words, redis_url=server.url)
    again = sse_gateway(*words, redis_url=server.url)
    assert first.code == 0
    assert first.out == again.out
    assert len(await history(redis, session_id)) == 1


def test_a_permission_request_tells_how_it_stands(server: RedisProcess, session_id: str) -> None:
    request = {"tool_name": "bash", "parameters": {"command": "ls"}, "risk_level": "low"}
    done = sse_gateway(
        "publish",
        session_id,
        "--type",
        "permission_request",
        "--data",
        json.dumps(request),
        redis_url=server.url,
    )
    assert done.code == 0, done
    standing = json.loads(done.out)
    assert standing["status"] == "pending"
    assert standing["request_id"]


def test_what_the_script_refuses_is_told_in_its_words(server: RedisProcess, session_id: str) -> None:
    done = sse_gateway("publish", session_id, '{"type":"a","session_id":"another"}', redis_url=server.url)
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "session" in done.err


async def test_live_events_go_by_the_channel_and_leave_nothing(
    server: RedisProcess, redis: Redis, session_id: str
) -> None:
    async with redis.pubsub() as listening:
        await listening.subscribe(f"sse_events:{session_id}")
        assert (await listening.get_message(timeout=5) or {})["type"] == "subscribe"
        done = sse_gateway("publish", session_id, EVENT, "--live", redis_url=server.url)
        message = await listening.get_message(timeout=5)
    assert done.code == 0
    assert done.out == ""
    assert message is not None
    assert message["data"] == EVENT.encode()
    assert await redis.keys("*") == []


async def test_the_namespace_is_in_front_of_everything(
    server: RedisProcess, redis: Redis, session_id: str
) -> None:
    done = sse_gateway("publish", session_id, EVENT, "--namespace", "blue_", redis_url=server.url)
    assert done.code == 0, done
    assert all(key.startswith(b"blue_sse:") for key in await redis.keys("*"))
