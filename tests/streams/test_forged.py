"""Attacks by plain PUBLISH: whoever may write to the channel pretends to be the script.

What the channel says is not believed: an event counts only if it is exactly the next, and what follows
shows whether it was true.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.streams.desk import Desk, ids, shape
from tests.support import wait
from tests.support.stream import SSEStream

FORGED = '"session_id":"{session}","type":"note","data":{{"forged":true}}}}'


def forged(session_id: str, id: str) -> str:
    return '{"id":"' + id + '",' + FORGED.format(session=session_id)


def seq(id: str) -> int:
    """Return the number in an id."""
    return int(id.partition("-")[2])


async def counted(desk: Desk, kind: str) -> float:
    return (await desk.a.metrics())[f'sse_gateway_events_received_total{{kind="{kind}"}}']


async def resets(desk: Desk) -> float:
    metrics = await desk.a.metrics()
    return sum(value for series, value in metrics.items() if "resets_total{" in series)


@asynccontextmanager
async def reads(desk: Desk, session_id: str) -> AsyncIterator[Callable[[], list[float]]]:
    """Count the reads of a session's history, as the server sees them: their times."""
    times: list[float] = []

    def note(command: str) -> None:
        if "sse_read" in command and session_id in command:
            times.append(time.monotonic())

    async def watch() -> None:
        async with desk.server.connect(decode_responses=True) as client, client.monitor() as monitor:
            watching.set()
            async for line in monitor.listen():
                note(line["command"])

    watching = asyncio.Event()
    task = asyncio.create_task(watch())
    await watching.wait()
    try:
        yield lambda: times
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def live(desk: Desk, session_id: str) -> SSEStream:
    """Return a live stream that has had one event live, so that none is late any more."""
    for _ in range(3):
        desk.publish(session_id)
    stream = await desk.open(session_id)
    await stream.ready()
    top = desk.publish(session_id)
    await stream.wait(lambda: top in ids(stream), "a live event")
    return stream


@pytest.mark.parametrize(
    "id",
    [
        "{epoch}-7",
        "{epoch}-4000",
        "{epoch}-999999999999999",
        "{epoch}-4",
        "{epoch}-3",
        "{epoch}-0",
        "ffffffffff-5",
        "ffffffffff-4",
        "{epoch}-07",
        "{epoch}-5x",
        "{epoch}-",
        "{epoch}",
        "",
        "-5",
        "{epoch}-1234567890123456",
        "x",
    ],
)
async def test_an_event_under_a_forged_id_is_not_delivered(desk: Desk, session_id: str, id: str) -> None:
    """An event published under any id but the next is dropped and counted, and nothing else happens."""
    async with await live(desk, session_id) as stream:
        epoch = ids(stream)[0].partition("-")[0]
        malformed, reset = await counted(desk, "malformed"), await resets(desk)
        desk.say(session_id, forged(session_id, id.format(epoch=epoch)))
        following = [desk.publish(session_id) for _ in range(2)]
        await stream.wait(lambda: ids(stream)[1:] == following, "what was published properly", seconds=4)

        async def is_counted() -> bool:
            return await counted(desk, "malformed") == malformed + 1

        await wait.until(is_counted, "the forged event to be counted")
        assert b"forged" not in str(stream.events).encode()
        assert shape(stream) == ["ready+", "note+", "note+", "note+"]
        assert await resets(desk) == reset


@pytest.mark.parametrize("id", ["{epoch}-4000", "{epoch}-2", "ffffffffff-5", "x"])
async def test_a_flood_of_forged_ids_costs_a_read_a_second(
    desk: Desk, session_id: str, scale: Callable[[float, float], float], id: str
) -> None:
    """However many forged events come, the history is read at most once a second, and real ones arrive."""
    async with await live(desk, session_id) as stream, reads(desk, session_id) as times:
        epoch = ids(stream)[0].partition("-")[0]
        malformed = await counted(desk, "malformed")
        payload = forged(session_id, id.format(epoch=epoch))
        sent, published = 0, []
        began_at = time.monotonic()
        while time.monotonic() < began_at + scale(1.5, 3):
            for _ in range(20):
                desk.say(session_id, payload)
                sent += 1
            published.append(desk.publish(session_id))
            await asyncio.sleep(0.1)
        await stream.wait(lambda: ids(stream)[1:] == published, "what was published properly", seconds=4)

        async def all_counted() -> bool:
            return await counted(desk, "malformed") == malformed + sent

        await wait.until(all_counted, "every forged event to be counted")
        found = times()
        assert (1 if "-" in id else 0) <= len(found) <= time.monotonic() - began_at + 1, found
        assert not stream.named("stream_reset")


@pytest.mark.parametrize("following", [0, 1, 30])
async def test_a_forged_next_event_is_found_out(desk: Desk, session_id: str, following: int) -> None:
    """An event forged under the very next id is shown, and withdrawn by a reset once the real one comes.

    Also if others follow at once, whose numbers fit again.
    """
    async with await live(desk, session_id) as stream:
        epoch, _, last = ids(stream)[-1].partition("-")
        desk.say(session_id, forged(session_id, f"{epoch}-{int(last) + 1}"))
        await stream.wait(lambda: len(ids(stream)) == 2, "the forged event")
        for _ in range(1 + following):
            desk.publish(session_id)
        reset = await stream.event("stream_reset", seconds=4)
        assert reset["reason"] == "rolled_back"
        ready = await stream.ready(count=2)
        assert (ready["cursor"], ready["complete"]) == (reset["latest"], False)
        top = desk.publish(session_id)
        await stream.wait(lambda: ids(stream)[-1] == top, "life after the reset")
        place = shape(stream).index("stream_reset")
        expected = list(range(seq(reset["latest"]) + 1, seq(top) + 1))
        assert [seq(id) for id in ids(stream)[-len(expected) :]] == expected
        assert shape(stream)[place:] == ["stream_reset", "ready+", *["note+"] * len(expected)]
        assert [message["data"] for message in stream.messages if "forged" in message["data"]] == [
            {"forged": True}
        ]


async def test_a_forged_next_event_is_found_out_beside_a_flood(desk: Desk, session_id: str) -> None:
    """A catch-up that is due for another forgery does not hide the one that was believed."""
    async with await live(desk, session_id) as stream:
        epoch, _, last = ids(stream)[-1].partition("-")
        for _ in range(2):
            desk.say(session_id, forged(session_id, f"{epoch}-4000"))
            await asyncio.sleep(0.1)
        desk.say(session_id, forged(session_id, f"{epoch}-{int(last) + 1}"))
        await stream.wait(lambda: len(ids(stream)) == 2, "the forged event")
        published = [desk.publish(session_id) for _ in range(3)]
        reset = await stream.event("stream_reset", seconds=4)
        assert (reset["reason"], reset["latest"]) == ("rolled_back", published[-1])
        assert (await stream.ready(count=2))["cursor"] == published[-1]


async def test_a_forged_next_event_that_nothing_follows_is_withdrawn(desk: Desk, session_id: str) -> None:
    """The check of positions finds an event that history never had, without any further event."""
    async with await live(desk, session_id) as stream:
        top = ids(stream)[-1]
        epoch, _, last = top.partition("-")
        desk.say(session_id, forged(session_id, f"{epoch}-{int(last) + 1}"))
        reset = await stream.event("stream_reset", seconds=15)
        assert (reset["reason"], reset["latest"]) == ("ahead", top)


@pytest.mark.parametrize(
    "payload",
    [
        "not json",
        "[]",
        "5",
        '{"type":"note"',
        '{"data":{}}',
        '{"type":5,"data":{}}',
        '{"type":"permission_cleared","data":{"request_id":"r"}}',
        '{"type":"heartbeat","data":{}}',
        '{"type":"note","data":{},"id":"{epoch}-5"}',
        ' {"id":"{epoch}-5","type":"note","data":{}}',
        '{ "id":"{epoch}-5","type":"note","data":{}}',
        '{"\\u0069d":"{epoch}-5","type":"note","data":{}}',
        '{"type":"note","session_id":"another","data":{}}',
        '{"type":"note","data":NaN}',
        '{"type":"note","type":"heartbeat","data":{}}',
    ],
)  # fmt: skip
async def test_a_plain_event_is_checked_like_a_durable_one(desk: Desk, session_id: str, payload: str) -> None:
    """A plain event with an id of its own, of a reserved type or malformed is dropped and counted."""
    async with await live(desk, session_id) as stream:
        epoch = ids(stream)[0].partition("-")[0]
        malformed = await counted(desk, "malformed")
        for _ in range(3):
            desk.say(session_id, payload.replace("{epoch}", epoch))
        desk.say(session_id, json.dumps({"type": "token", "data": {"good": True}}))
        await stream.message("token")
        assert shape(stream) == ["ready+", "note+", "token"]
        assert await counted(desk, "malformed") == malformed + 3
        lines = [line for line in desk.a.logs("dropped an event") if line.get("session") == session_id]
        assert len(lines) == 1
