"""A feed writes each event to each live stream once and in order, and lets nobody in across a gap.

Nothing but asyncio: the messages are what the script publishes, the streams write into buffers.
"""

from __future__ import annotations

import asyncio

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.wire import Frame, durable_chunk
from sse_gateway.delivery import feed as feed_module
from sse_gateway.delivery.feed import Feed
from tests.streams.outbox import EPOCH, OTHER_EPOCH, Outbox, event


def placed(seq: int = 0, epoch: str = EPOCH) -> Feed:
    """Return a feed that stands at `seq` and takes messages."""
    feed = Feed("s", b"sse_events:s")
    feed.place(Cursor(epoch, seq))
    feed.parked = None
    return feed


def live(feed: Feed, **options: object) -> Outbox:
    """Return a stream that was let in where the feed stands."""
    outbox = Outbox(**options)
    assert feed.admit(feed.join(), outbox.stream, feed.position) is None
    return outbox


def publish(feed: Feed, *seqs: int) -> None:
    for seq in seqs:
        assert feed.deliver_next(event(seq)) is not None


@pytest.mark.parametrize(
    ("payload", "is_next"),
    [
        (event(8), True),
        (event(7), False),
        (event(9), False),
        (event(80), False),
        (event(8, epoch=OTHER_EPOCH), False),
        (b" " + event(8), False),
        (b'{"session_id":"s",' + event(8)[1:], False),
        (b'{"id": "' + event(8)[7:], False),
        (f'{{"id":"{EPOCH}-8"}}'.encode(), False),
        (f'{{"id":"{EPOCH}-08","x":1}}'.encode(), False),
        (b"", False),
    ],
    ids=[
        "next", "repeated", "gap", "longer-number", "other-epoch", "space-in-front", "id-not-first",
        "space-in-id", "nothing-but-the-id", "leading-zero", "empty",
    ],
)  # fmt: skip
def test_the_next_event_is_recognised_by_its_first_bytes(payload: bytes, is_next: bool) -> None:
    """Only a message that begins with exactly the next id is taken for a durable event."""
    assert (placed(7).deliver_next(payload) is not None) is is_next


async def test_an_event_goes_to_every_live_stream_under_its_id() -> None:
    """Every live stream gets the bytes that were published, with the id they were published under."""
    feed = placed(7)
    first, second = live(feed), live(feed, chunked=True)
    publish(feed, 8)
    frame = b"id: " + EPOCH.encode() + b"-8\ndata: " + event(8) + b"\n\n"
    assert first.text == frame
    assert second.text == b"%x\r\n%b\r\n" % (len(frame), frame)
    assert feed.position == Cursor(EPOCH, 8)


async def test_a_replayed_entry_keeps_the_id_of_its_epoch() -> None:
    """An event read from history goes out under the id it was published with, also after a failover."""
    feed = placed(7)
    outbox = live(feed)
    feed.deliver_entry(8, event(8), settled=False)
    feed.adopt_epoch(OTHER_EPOCH)
    assert feed.deliver_next(event(9, epoch=OTHER_EPOCH)) is not None
    assert f"id: {EPOCH}-8\n".encode() in outbox.text
    assert f"id: {OTHER_EPOCH}-9\n".encode() in outbox.text


async def test_a_settled_request_read_from_history_is_named() -> None:
    """A request that is no longer open is never delivered as a default event from history."""
    feed = placed(7)
    outbox = live(feed)
    feed.deliver_entry(8, event(8, kind="permission_request"), settled=True)
    assert outbox.names == ["settled_request"]
    assert outbox.seqs == [8]


@pytest.mark.parametrize("behind_by", [0, 1, 5])
async def test_a_join_is_let_in_with_what_passed_meanwhile(behind_by: int) -> None:
    """A stream that read up to where the tail begins gets the tail, each event once."""
    feed = placed(7)
    join = feed.join()
    publish(feed, *range(8, 13))
    outbox = Outbox()
    assert feed.admit(join, outbox.stream, Cursor(EPOCH, 12 - behind_by)) is None
    publish(feed, 13)
    assert outbox.seqs == list(range(13 - behind_by, 14))
    assert not feed.joining


@pytest.mark.parametrize(
    "position",
    [Cursor(EPOCH, 6), Cursor(EPOCH, 13), Cursor(OTHER_EPOCH, 12), Cursor(OTHER_EPOCH, 9)],
    ids=["before-the-tail", "ahead", "other-epoch-at-the-top", "other-epoch-in-the-tail"],
)
async def test_nobody_is_let_in_where_contiguity_is_not_proven(position: Cursor) -> None:
    """A stream whose position does not meet feed or tail stays out, and nothing is written to it."""
    feed = placed(7)
    join = feed.join()
    publish(feed, *range(8, 13))
    outbox = Outbox()
    assert feed.admit(join, outbox.stream, position) == position
    assert (outbox.text, feed.joining) == (b"", {join})


async def test_nobody_is_let_in_while_the_feed_catches_up() -> None:
    """While the feed's own position is in doubt, no stream is let in, even at that position."""
    feed = placed(7)
    feed.parked = feed_module.Parked()
    join = feed.join()
    assert feed.admit(join, Outbox().stream, feed.position) == feed.position


async def test_a_join_without_room_for_the_tail_goes_on_from_where_it_got() -> None:
    """A joining stream that is full half-way reports the last event it did take."""
    feed = placed(0)
    join = feed.join()
    publish(feed, *range(1, 21))
    outbox = Outbox(reads=False, queue_events=5)
    assert feed.admit(join, outbox.stream, Cursor(EPOCH, 10)) == Cursor(EPOCH, 15)
    assert outbox.seqs == [11, 12, 13, 14, 15]
    outbox.buffer.take()
    assert feed.admit(join, outbox.stream, Cursor(EPOCH, 15)) is None
    assert outbox.seqs == list(range(11, 21))


@pytest.mark.parametrize("bound", ["TAIL_EVENTS", "TAIL_BYTES"])
async def test_the_tail_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for joining streams has a bound; who needs more of it is sent back to the history."""
    size = len(durable_chunk(f"{EPOCH}-1".encode(), event(1)))
    monkeypatch.setattr(feed_module, bound, 3 if bound == "TAIL_EVENTS" else 3 * size)
    feed = placed(0)
    join = feed.join()
    publish(feed, *range(1, 9))
    assert feed.admit(join, Outbox().stream, Cursor(EPOCH, 4)) == Cursor(EPOCH, 4)
    outbox = Outbox()
    assert feed.admit(join, outbox.stream, Cursor(EPOCH, 5)) is None
    assert outbox.seqs == [6, 7, 8]


async def test_the_tail_is_kept_only_while_somebody_joins() -> None:
    """When the last joining stream is in or gone the tail is dropped, and a later one starts its own."""
    feed = placed(0)
    first, second = feed.join(), feed.join()
    publish(feed, 1)
    feed.leave(first)
    publish(feed, 2)
    outbox = Outbox()
    assert feed.admit(second, outbox.stream, Cursor(EPOCH, 0)) is None
    assert outbox.seqs == [1, 2]
    late = feed.join()
    publish(feed, 3)
    assert feed.admit(late, Outbox().stream, Cursor(EPOCH, 1)) == Cursor(EPOCH, 1)
    assert feed.admit(late, Outbox().stream, Cursor(EPOCH, 2)) is None
    feed.leave(late)
    assert not feed.joining


async def test_a_stream_that_is_behind_is_named_and_gets_nothing() -> None:
    """An event that a full stream does not take is reported with that stream, and the others get it."""
    feed = placed(0)
    slow, fast = live(feed, reads=False, queue_events=2), live(feed)
    publish(feed, 1, 2)
    assert feed.deliver_next(event(3)) == [slow.stream]
    assert (slow.seqs, fast.seqs) == ([1, 2], [1, 2, 3])


async def test_transient_events_pass_joins_and_are_counted_for_them() -> None:
    """An event without a place in history reaches live streams, and joining ones count what they missed."""
    feed = placed(0)
    outbox = live(feed)
    join = feed.join()
    feed.deliver_transient(Frame(b"data: plain\n\n"))
    publish(feed, 1)
    assert (outbox.text.startswith(b"data: plain\n\n"), join.skipped) == (True, 1)
    assert feed.position == Cursor(EPOCH, 1)


@pytest.mark.parametrize("way", ["place", "adopt_epoch"])
async def test_another_epoch_keeps_out_who_stands_in_the_old_one(way: str) -> None:
    """A join of before a change of epoch is not let in by the old tail; it has to read again."""
    feed = placed(0)
    join = feed.join()
    publish(feed, 1, 2)
    feed.place(Cursor(OTHER_EPOCH, 2)) if way == "place" else feed.adopt_epoch(OTHER_EPOCH)
    assert feed.admit(join, Outbox().stream, Cursor(EPOCH, 2)) == Cursor(EPOCH, 2)
    assert feed.admit(join, Outbox().stream, Cursor(EPOCH, 1)) == Cursor(EPOCH, 1)
    assert feed.admit(join, Outbox().stream, Cursor(OTHER_EPOCH, 2)) is None


def test_after_placing_at_another_position_the_old_tail_lets_nobody_in() -> None:
    """When history is no longer continued, no event of before can reach a stream by the tail."""
    feed = placed(0)
    join = feed.join()
    publish(feed, 1, 2, 3)
    feed.place(Cursor(EPOCH, 5))
    assert feed.admit(join, Outbox().stream, Cursor(EPOCH, 2)) == Cursor(EPOCH, 2)


def test_each_late_message_is_late_once() -> None:
    """A message that the history told of first is expected once and in order, and never after a later one."""
    feed = placed(10)
    assert [feed.is_late(seq) for seq in (8, 9, 9, 8, 10, 10, 11)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
    ]

    feed = placed(10)
    publish(feed, 11)
    assert not feed.is_late(9)


def test_pages_of_one_catch_up_leave_one_window_for_late_messages() -> None:
    """After a catch-up in pages, the messages of all its pages may come late, and those before may not."""
    feed = placed(0)
    publish(feed, 1, 2)
    for page in ((3, 4), (5, 6)):
        began_at = feed.last
        for seq in page:
            feed.deliver_entry(seq, event(seq), settled=False)
        feed.caught_up(began_at=began_at)
    assert [feed.is_late(seq) for seq in (2, 3, 5, 6)] == [False, True, True, True]


def test_the_first_doubt_stands_until_it_is_looked_into() -> None:
    """What was delivered under a number used twice is kept for comparison while the feed moves on."""
    feed = placed(7)
    feed.doubt()
    assert feed.doubted is None
    publish(feed, 8)
    feed.doubt()
    publish(feed, 9)
    feed.doubt()
    assert feed.doubted == (8, event(8))
    feed.place(Cursor(EPOCH, 9))
    assert feed.doubted is None


async def test_waiting_for_the_position_ends_when_it_moves() -> None:
    """Who waits for a feed to advance is released by the next event, a reset, or its own limit."""
    feed = placed(0)
    loop = asyncio.get_running_loop()
    for move in (lambda: publish(feed, 1), lambda: feed.place(Cursor(OTHER_EPOCH, 0)), feed.wake):
        waiting = [asyncio.ensure_future(feed.advance(5)) for _ in range(3)]
        await asyncio.sleep(0)
        began_at = loop.time()
        move()
        await asyncio.gather(*waiting)
        assert loop.time() - began_at < 1
    began_at = loop.time()
    await feed.advance(0.05)
    assert loop.time() - began_at >= 0.04
