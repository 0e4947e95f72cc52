"""Where a stream goes on: cursors and where they stand, replay modes, resets, requests, what was skipped."""

from __future__ import annotations

import asyncio

import pytest

from tests.streams.desk import HISTORY_EVENTS, Desk, desk, ids, shape
from tests.support.servers import RedisProcess
from tests.support.stream import SSEStream
from tests.support.wait import until


@pytest.mark.parametrize(
    ("header", "first", "second", "expected"),
    [
        ("2", None, None, "2"),
        (None, "2", None, "2"),
        (None, None, "2", "2"),
        ("2", "0", "1", "2"),
        (None, "2", "0", "2"),
        ("2", None, "0", "2"),
        ("", "2", None, "2"),
        (None, "", "2", "2"),
    ],
    ids=[
        "header", "last_event_id", "lastEventId", "header-first", "then-last_event_id",
        "header-before-lastEventId", "empty-header", "empty-parameter",
    ],
)  # fmt: skip
async def test_a_cursor_is_taken_from_three_places(
    desk: Desk, session_id: str, header: str | None, first: str | None, second: str | None, expected: str
) -> None:
    """The header counts before `last_event_id`, that before `lastEventId`, and each alone is enough."""
    epoch = [desk.publish(session_id, n=number) for number in range(4)][-1].partition("-")[0]

    def cursor(seq: str | None) -> str | None:
        return f"{epoch}-{seq}" if seq else seq

    query = "&".join(
        f"{name}={cursor(seq)}"
        for name, seq in (("last_event_id", first), ("lastEventId", second))
        if seq is not None
    )
    async with await desk.open(session_id, query=query, last_event_id=cursor(header)) as stream:
        ready = await stream.ready()
        assert ids(stream) == [f"{epoch}-{seq}" for seq in range(int(expected) + 1, 5)]
        assert (ready["replayed"], ready["complete"], ready["cursor"]) == (2, True, f"{epoch}-4")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["permission_request r", "tool_status", "tool_result", "ready+"]),
        ("replay=snapshot", ["permission_request r", "tool_status", "tool_result", "ready+"]),
        ("replay=all", ["tool_status+", "permission_request r+", "note+", "tool_result+", "ready+"]),
        ("replay=none", ["permission_request r", "ready+"]),
    ],
)
async def test_a_stream_without_cursor_begins_as_it_asks(
    desk: Desk, session_id: str, query: str, expected: list[str]
) -> None:
    """`snapshot` sends requests and state, `all` the history, `none` the open requests; then `ready`."""
    desk.publish(session_id, "tool_status", tool_call_id="c", status="executing")
    desk.ask(session_id, "r")
    desk.publish(session_id)
    top = desk.publish(session_id, "tool_result", tool_call_id="c")
    async with await desk.open(session_id, query=query) as stream:
        ready = await stream.ready()
        assert shape(stream) == expected
        assert (ready["cursor"], ready["complete"]) == (top, True)
        following = desk.publish(session_id)
        await stream.wait(lambda: following in ids(stream), "the next event")
        assert shape(stream) == [*expected, "note+"]


@pytest.mark.parametrize("mode", ["snapshot", "all", "none"])
async def test_a_cursor_counts_before_the_mode(desk: Desk, session_id: str, mode: str) -> None:
    """With a cursor, a stream gets what follows it and no state, whatever `replay` says."""
    first = desk.publish(session_id, "tool_status", tool_call_id="c")
    second = desk.publish(session_id)
    async with await desk.open(session_id, query=f"replay={mode}", last_event_id=first) as stream:
        await stream.ready()
        assert shape(stream) == ["note+", "ready+"]
        assert ids(stream) == [second]


async def test_an_unknown_mode_is_refused(desk: Desk, session_id: str) -> None:
    """A replay mode that does not exist is an error of the caller's, said with its name."""
    stream = await desk.open(session_id, query="replay=everything")
    assert stream.status == 400
    assert b"bad_parameter" in stream.body


async def test_a_new_session_has_a_position(desk: Desk, session_id: str) -> None:
    """The first `ready` of a new session carries an id to resume from, and it is honoured."""
    async with await desk.open(session_id) as stream:
        cursor = (await stream.ready())["cursor"]
        assert cursor.endswith("-0")
        assert stream.parser.last_event_id == cursor
    first = desk.publish(session_id)
    async with await desk.open(session_id, desk.b, last_event_id=cursor) as stream:
        assert (await stream.ready())["complete"]
        assert ids(stream) == [first]


async def check_reset(
    desk: Desk, stream: SSEStream, session_id: str, reason: str, *, requested: str, oldest: str | None
) -> None:
    """Check a stream that began with a reset: reason and bounds, snapshot, `ready`, and life after it."""
    ready = await stream.ready()
    assert stream.status == 200
    assert shape(stream) == [
        "stream_reset", "permission_request one", "permission_request two", "tool_status", "tool_result",
        "ready+",
    ]  # fmt: skip
    [reset] = stream.named("stream_reset")
    top = ready["cursor"]
    assert reset == {"reason": reason, "requested": requested, "oldest": oldest, "latest": top}
    assert (ready["complete"], ready["replayed"]) == (False, 0)
    following = desk.publish(session_id)
    await stream.wait(lambda: ids(stream) == [following], "the next event, and only that")
    assert int(following.partition("-")[2]) == int(top.partition("-")[2]) + 1


def fill(desk: Desk, session_id: str, count: int) -> str:
    """Publish state, two open requests and `count` events; return the id of the last."""
    desk.publish(session_id, "tool_status", tool_call_id="c")
    desk.publish(session_id, "tool_result", tool_call_id="c")
    desk.ask(session_id, "one")
    desk.ask(session_id, "two")
    return [desk.publish(session_id, n=number) for number in range(count)][-1]


async def test_a_trimmed_cursor_is_told(desk: Desk, session_id: str) -> None:
    """A cursor whose following events are gone gets `stream_reset`, the snapshot and `ready`."""
    epoch, _, top = fill(desk, session_id, HISTORY_EVENTS + 10).partition("-")
    oldest = int(top) - HISTORY_EVENTS + 1
    cursor = f"{epoch}-{oldest - 2}"
    async with await desk.open(session_id, last_event_id=cursor) as stream:
        await check_reset(desk, stream, session_id, "trimmed", requested=cursor, oldest=f"{epoch}-{oldest}")
    # One further on is whole: what follows it is all there.
    cursor = f"{epoch}-{oldest + 1}"
    async with await desk.open(session_id, last_event_id=cursor) as stream:
        assert (await stream.ready())["complete"]
        assert [int(id.partition("-")[2]) for id in ids(stream)] == list(range(oldest + 2, int(top) + 2))


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        ("ffffffffff-3", "epoch"),
        ("ffffffffff-0", "epoch"),
        ("{epoch}-8", "ahead"),
        ("{epoch}-999999999999999", "ahead"),
        ("3", "malformed"),
        ("{epoch}", "malformed"),
        ("{epoch}-", "malformed"),
        ("{epoch}--1", "malformed"),
        ("{epoch}-1.5", "malformed"),
        ("{epoch}-1234567890123456", "malformed"),
        ("0-{epoch}-3", "malformed"),
        ("{epoch}-3 or so", "malformed"),
        ("null", "malformed"),
        ("%00", "malformed"),
        ("é" * 10 + "-3", "malformed"),
        ("x" * 150, "malformed"),
    ],
)
async def test_a_cursor_that_cannot_be_honoured_is_told(
    desk: Desk, session_id: str, cursor: str, reason: str
) -> None:
    """A foreign, future or malformed cursor is never a 400: `stream_reset`, snapshot, `ready`, and life."""
    epoch = fill(desk, session_id, 3).partition("-")[0]
    cursor = cursor.format(epoch=epoch)
    requested = "\0" if cursor == "%00" else cursor
    url = desk.a.events(session_id, f"last_event_id={cursor}".replace(" ", "%20").replace("é", "%C3%A9"))
    async with await desk.open(session_id, query=url.partition("?")[2]) as stream:
        await check_reset(desk, stream, session_id, reason, requested=requested, oldest=f"{epoch}-1")


@pytest.mark.parametrize("cursor", ["ffffffffff-3\udcff", "\udcff", "\udcff" * 150, "é"])
async def test_a_cursor_of_any_bytes_in_the_header_is_told(desk: Desk, session_id: str, cursor: str) -> None:
    """A header may hold bytes that are not UTF-8: malformed like any other, and told without them."""
    epoch = fill(desk, session_id, 3).partition("-")[0]
    requested = cursor.replace("\udcff", "?")
    async with await desk.open(session_id, last_event_id=cursor) as stream:
        await check_reset(desk, stream, session_id, "malformed", requested=requested, oldest=f"{epoch}-1")


@pytest.mark.parametrize("again", [0, 1, 2, 5])
async def test_a_rolled_back_cursor_is_told(own_server: RedisProcess, session_id: str, again: int) -> None:
    """After a server came back without its last writes, who had seen those is reset, and nobody else.

    Also when as many or more were published since, whose numbers are the same.
    """
    async with desk(own_server) as own:
        kept = fill(own, session_id, 3)
        own_server.save()
        lost = [own.publish(session_id, n="lost") for _ in range(2)][-1]
        own_server.restart()
        for gateway in (own.a, own.b):
            await gateway.answers("/readyz")
        published = [own.publish(session_id, n="again") for _ in range(again)]
        epoch = kept.partition("-")[0]
        async with await own.open(session_id, own.b, last_event_id=kept) as stream:
            ready = await stream.ready()
            assert (ready["complete"], ids(stream)) == (True, published)
            now = ready["cursor"].partition("-")[0]
            assert now != epoch
        async with await own.open(session_id, last_event_id=lost) as stream:
            await check_reset(own, stream, session_id, "rolled_back", requested=lost, oldest=f"{now}-1")


async def test_a_cursor_of_the_epoch_before_is_honoured(own_server: RedisProcess, session_id: str) -> None:
    """After a restart that lost nothing, everybody resumes, and a live stream goes on without a word."""
    async with desk(own_server) as own:
        first = own.publish(session_id, n=1)
        async with await own.open(session_id) as stream:
            await stream.ready()
            second = own.publish(session_id, n=2)
            await stream.wait(lambda: second in ids(stream), "the event before the restart")
            own_server.save()
            own_server.restart()
            for gateway in (own.a, own.b):
                await gateway.answers("/readyz")
            third = own.publish(session_id, n=3)
            assert third.partition("-")[0] != second.partition("-")[0]
            await stream.wait(lambda: third in ids(stream), "the event after the restart")
            assert ids(stream) == [second, third]
            assert not stream.named("stream_reset")
        async with await own.open(session_id, own.b, last_event_id=first) as stream:
            assert (await stream.ready())["complete"]
            assert ids(stream) == [second, third]


async def test_a_settled_request_is_replayed_by_name(desk: Desk, session_id: str) -> None:
    """A replayed request that is no longer open keeps place and id, and is no default event."""
    before = desk.publish(session_id)
    asked = [desk.ask(session_id, name) for name in ("one", "two")]
    desk.cancel(session_id, "one")
    async with await desk.open(session_id, last_event_id=before) as stream:
        await stream.ready()
        assert shape(stream) == [
            "settled_request one+", "permission_request two+", "permission_cleared one+", "ready+"
        ]  # fmt: skip
        assert ids(stream)[:2] == asked
        [settled] = stream.named("settled_request")
        assert (settled["id"], settled["type"]) == (asked[0], "permission_request")


async def test_a_live_request_is_never_shown_as_settled(desk: Desk, session_id: str) -> None:
    """Who is live sees the request and what became of it, each once and as a default event."""
    async with await desk.open(session_id) as stream:
        await stream.ready()
        desk.ask(session_id, "one")
        desk.cancel(session_id, "one")
        await stream.message("permission_cleared")
        assert shape(stream) == ["ready+", "permission_request one+", "permission_cleared one+"]


@pytest.mark.parametrize("query", ["", "replay=all", "replay=none"])
@pytest.mark.parametrize("at", [None, 0, 2, 4, 7], ids=["no-cursor", "before", "between", "behind", "top"])
async def test_every_connection_shows_the_open_requests_once(
    desk: Desk, session_id: str, query: str, at: int | None
) -> None:
    """Wherever a stream begins, each open request comes exactly once, in the order asked, before `ready`."""
    steps = ["note", "one", "two", "note", "three", "four", "-two", "note"]
    tops = [step_of(desk, session_id, step) for step in steps]
    cursor = tops[at] if at is not None else None
    for gateway in (desk.a, desk.b):
        async with await desk.open(session_id, gateway, query=query, last_event_id=cursor) as stream:
            await stream.ready()
            found = [
                item.split()[1].rstrip("+") for item in shape(stream) if item.startswith("permission_request")
            ]
            assert found == ["one", "three", "four"]


def step_of(desk: Desk, session_id: str, step: str) -> str:
    """Publish a note, ask, or cancel, and return the id of the event that made."""
    if step == "note":
        return desk.publish(session_id)
    if step.startswith("-"):
        desk.cancel(session_id, step[1:])
        return str(
            desk.server.client.xrevrange(f"sse:{{{session_id}}}:history", count=1)[0][1]["d"][7:]
        ).split('"')[0]
    return desk.ask(session_id, step)


async def test_requests_on_later_pages_come_once(desk: Desk, session_id: str) -> None:
    """Where the replay comes in pages of 1 MiB, a request on a later page is not also in the snapshot."""
    before = desk.publish(session_id)
    desk.ask(session_id, "old")
    cursor = desk.publish(session_id)
    for number in range(30):
        desk.publish(session_id, n=number, pad="x" * 90_000)
        if number in (3, 25):
            desk.ask(session_id, f"at-{number}")
    for start, expected in ((cursor, ["old", "at-3+", "at-25+"]), (before, ["old+", "at-3+", "at-25+"])):
        async with await desk.open(session_id, last_event_id=start) as stream:
            ready = await stream.ready()
            found = [item.split()[1] for item in shape(stream) if item.startswith("permission_request")]
            assert found == expected
            assert (
                ready["replayed"] == len(ids(stream)) == int(ready["cursor"].partition("-")[2]) - seq(start)
            )


def seq(id: str) -> int:
    """Return the number in an id."""
    return int(id.partition("-")[2])


async def test_what_a_pausing_stream_missed_is_counted(desk: Desk, session_id: str) -> None:
    """Who fell behind gets every durable event, and `skipped` counts the transient ones it did not."""
    async with await desk.open(session_id, receive_buffer=4096) as stream:
        await stream.ready()
        stream.pause()
        pad = "x" * 50_000
        durable, plain = [], 0
        for number in range(45):
            durable.append(desk.publish(session_id, n=number, pad=pad))
            desk.say(session_id, f'{{"type":"token","data":{{"n":{number}}}}}')
            plain += 1
        metrics = await desk.a.metrics()
        assert metrics["sse_gateway_buffered_bytes"] > 0
        stream.resume()
        await stream.wait(lambda: ids(stream) == durable, "every durable event")
        got = sum(message["type"] == "token" for message in stream.messages)
        skipped = await stream.wait(
            lambda: sum(data["transient"] for data in stream.named("skipped")), "the count of the skipped"
        )
        assert 0 < skipped == plain - got
        following = desk.publish(session_id)
        await stream.wait(lambda: following in ids(stream), "life afterwards")
        assert ids(stream) == [*durable, following]


async def test_transient_events_are_whole_from_ready_on(desk: Desk, session_id: str) -> None:
    """Behind `ready` no transient event is missed; those that passed during the hand-over were counted."""
    stop = asyncio.Event()

    async def talk() -> None:
        async with desk.server.connect() as client:
            number = 0
            while not stop.is_set():
                number += 1
                await client.publish(
                    f"sse_events:{session_id}", f'{{"type":"token","data":{{"n":{number}}}}}'
                )

    talking = asyncio.create_task(talk())
    counted = 0
    for _ in range(20):
        async with await desk.open(session_id) as stream:
            await stream.ready()
            await stream.message("token", count=20)
            kinds = [item for item in shape(stream) if item != "token"]
            assert kinds in (["ready+"], ["skipped", "ready+"])
            numbers = [message["data"]["n"] for message in stream.messages]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            counted += sum(data["transient"] for data in stream.named("skipped"))
    stop.set()
    await talking
    assert counted


async def test_positions_are_the_same_at_both_gateways(desk: Desk, session_id: str) -> None:
    """A cursor one gateway gave is good at the other."""
    async with await desk.open(session_id, desk.a) as first, await desk.open(session_id, desk.b) as second:
        assert (await first.ready())["cursor"] == (await second.ready())["cursor"]
        published = [desk.publish(session_id) for _ in range(3)]
        await until(lambda: ids(first) == ids(second) == published, "both streams to have all")
