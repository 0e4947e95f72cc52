"""From what was read to the frames a stream gets: order, what stands in for what, proof of contiguity."""

from __future__ import annotations

from typing import Any

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.events import dumps
from sse_gateway.gateway.replay import Gap, Replay, make_replay
from sse_gateway.store.history import Entry, Pending, Reading
from tests.streams.outbox import EPOCH, OTHER_EPOCH, event
from tests.support.sse import Event, EventParser

CURSOR = f"{EPOCH}-5"


def request(seq: int, request_id: str | None = None) -> Entry:
    request_id = request_id or f"r{seq}"
    return Entry(seq, event(seq, kind="permission_request", request_id=request_id), request_id)


def note(seq: int, epoch: str = EPOCH) -> Entry:
    return Entry(seq, event(seq, epoch=epoch), None)


def open_request(request_id: str, seq: int) -> Pending:
    data = dumps({"session_id": "s", "type": "permission_request", "data": {"request_id": request_id}})
    return Pending(request_id, data, 0, seq)


STATUS = dumps({"session_id": "s", "type": "tool_status", "data": {}})


def read(verdict: str, *entries: Entry, top: int, **more: Any) -> Reading:
    values: dict[str, Any] = {
        "owner": None, "ended": False, "epoch": EPOCH, "oldest": 0, "more": False, "pending": [], "state": [],
        "now_ms": 0,
    }  # fmt: skip
    return Reading(verdict=verdict, entries=list(entries), top=top, **values | more)


def shown(replay: Replay) -> list[Event]:
    return EventParser().feed(b"".join(frame.body for frame in replay.parts))


def asked(events: list[Event]) -> list[str]:
    """The requests shown, in order, by what made them appear."""
    return [
        f"{event.json['data']['request_id']}{'' if event.id else ' (snapshot)'}"
        for event in events
        if event.type == "message" and event.json["type"] == "permission_request"
    ]


@pytest.mark.parametrize(
    ("reading", "cursor", "seqs", "position"),
    [
        (read("ok", top=5), CURSOR, [], 5),
        (read("ok", note(6), note(7), top=7), CURSOR, [6, 7], 7),
        (read("ok", note(6), note(7), top=9, more=True), CURSOR, [6, 7], 7),
        (read("ok", note(6, OTHER_EPOCH), note(7), top=7), f"{OTHER_EPOCH}-5", [6, 7], 7),
        (read("none", top=7), None, [], 7),
        (read("none", note(3), note(4), top=4), None, [3, 4], 4),
        (read("none", note(3), top=9, more=True), None, [3], 3),
        (read("none", top=0), None, [], 0),
    ],
    ids=[
        "at-the-top",
        "some",
        "first-page",
        "over-epochs",
        "snapshot",
        "all",
        "all-first-page",
        "new-session",
    ],
)
def test_what_was_read_is_replayed_in_order(
    reading: Reading, cursor: str | None, seqs: list[int], position: int
) -> None:
    """The entries read become frames under their own ids, and the position is that of the last one."""
    replay = make_replay(reading, cursor, resumed=False)
    ids = [event.id for event in shown(replay)]
    assert ids == [event.json["id"] for event in shown(replay)]
    assert [int(str(id).partition("-")[2]) for id in ids] == seqs
    assert replay.position == Cursor(EPOCH, position)
    assert (replay.replayed, replay.reset, replay.more) == (len(seqs), False, reading.more)
    assert sum(frame.events for frame in replay.parts) == len(seqs)


@pytest.mark.parametrize(
    "reading",
    [
        read("ok", note(7), top=7),
        read("ok", note(6), note(8), top=8),
        read("ok", note(6), note(6), top=6),
        read("ok", note(7), note(6), top=7),
        read("ok", note(6), top=7),
        read("ok", top=6),
        read("none", note(2), note(4), top=4),
        read("none", note(2), note(3), top=4),
    ],
    ids=[
        "first-missing", "one-missing", "twice", "out-of-order", "last-missing", "all-missing", "all-hole",
        "all-last-missing",
    ],
)  # fmt: skip
def test_a_hole_is_never_replayed(reading: Reading) -> None:
    """Entries that do not follow the cursor and each other up to the top are refused."""
    with pytest.raises(Gap):
        make_replay(reading, CURSOR if reading.verdict == "ok" else None, resumed=False)


def test_a_request_no_longer_open_is_replayed_as_settled() -> None:
    """A replayed request keeps its place and id, as a default event only while it is open."""
    reading = read("ok", request(6), note(7), request(8), top=8, pending=[open_request("r8", 8)])
    events = shown(make_replay(reading, CURSOR, resumed=False))
    assert [(event.type, event.id) for event in events] == [
        ("settled_request", f"{EPOCH}-6"), ("message", f"{EPOCH}-7"), ("message", f"{EPOCH}-8")
    ]  # fmt: skip
    assert events[0].json == event_json(request(6))


def event_json(entry: Entry) -> Any:
    return EventParser().feed(b"data: " + entry.data + b"\n\n")[0].json


@pytest.mark.parametrize(
    ("reading", "cursor", "resumed", "expected"),
    [
        (read("none", top=9), None, False, ["a (snapshot)", "r7 (snapshot)"]),
        (read("ok", top=9), f"{EPOCH}-9", False, ["a (snapshot)", "r7 (snapshot)"]),
        (read("ok", note(6), request(7), top=7), CURSOR, False, ["a (snapshot)", "r7"]),
        (read("ok", note(6), top=9, more=True), CURSOR, False, ["a (snapshot)"]),
        (read("ok", note(6), request(7), top=9, more=True), CURSOR, False, ["a (snapshot)", "r7"]),
        (read("none", *map(note, range(4, 7)), request(7), top=7), None, False, ["a (snapshot)", "r7"]),
        (read("ok", note(6), request(7), top=7), CURSOR, True, ["r7"]),
        (read("ok", top=5), CURSOR, True, []),
        (read("trimmed", top=9), CURSOR, True, ["a (snapshot)", "r7 (snapshot)"]),
        (read("trimmed", top=9), CURSOR, False, ["a (snapshot)", "r7 (snapshot)"]),
    ],
    ids=[
        "no-cursor", "cursor-at-the-top", "in-the-replay", "on-a-later-page", "on-this-page-of-more", "all",
        "resumed", "resumed-nothing-new", "resumed-reset", "reset",
    ],
)  # fmt: skip
def test_open_requests_come_once_in_the_order_asked(
    reading: Reading, cursor: str | None, resumed: bool, expected: list[str]
) -> None:
    """Every connection shows each open request once: in the replay where that contains it, else before it."""
    reading.pending.extend((open_request("a", 2), open_request("r7", 7)))
    assert asked(shown(make_replay(reading, cursor, resumed=resumed))) == expected


def test_an_open_request_of_another_numbering_is_shown() -> None:
    """A request whose number is beyond the history, which was lost since, is in the snapshot."""
    reading = read("ok", note(6), top=9, more=True, pending=[open_request("old", 400)])
    assert asked(shown(make_replay(reading, CURSOR, resumed=False))) == ["old (snapshot)"]


@pytest.mark.parametrize("verdict", ["trimmed", "epoch", "rolled_back", "ahead", "malformed"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_cursor_that_cannot_be_honoured_ends_in_a_reset_and_the_snapshot(
    verdict: str, resumed: bool
) -> None:
    """A reset names its reason and the bounds, and the snapshot follows without ids: requests, then state."""
    reading = read(verdict, top=9, oldest=3, pending=[open_request("a", 2)], state=[STATUS])
    replay = make_replay(reading, "what was asked", resumed=resumed)
    reset, request_event, status = shown(replay)
    assert (reset.type, reset.id) == ("stream_reset", None)
    assert reset.json == {
        "reason": verdict, "requested": "what was asked", "oldest": f"{EPOCH}-3", "latest": f"{EPOCH}-9"
    }  # fmt: skip
    assert (request_event.id, request_event.json["data"]["request_id"]) == (None, "a")
    assert (status.id, status.json["type"]) == (None, "tool_status")
    assert (replay.reset, replay.position, sum(frame.events for frame in replay.parts)) == (
        True,
        Cursor(EPOCH, 9),
        3,
    )


def test_a_reset_with_an_empty_history_has_no_oldest() -> None:
    """Where no event is kept, `oldest` is null and not an event that will never have existed."""
    events = shown(make_replay(read("trimmed", top=9, oldest=10), CURSOR, resumed=False))
    assert events[0].json["oldest"] is None


def test_the_state_goes_only_to_who_has_nothing() -> None:
    """A stream without cursor gets the state behind the open requests, as default events without id."""
    reading = read("none", top=9, pending=[open_request("a", 2)], state=[STATUS, STATUS])
    events = shown(make_replay(reading, None, resumed=False))
    assert [(event.type, event.id, event.json["type"]) for event in events] == [
        ("message", None, "permission_request"), ("message", None, "tool_status"),
        ("message", None, "tool_status"),
    ]  # fmt: skip
