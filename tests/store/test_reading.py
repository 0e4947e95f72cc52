"""Reading: what a stream gets to begin with or to go on, judged by its cursor."""

from __future__ import annotations

from typing import Any

import pytest

from sse_gateway.store.library import Limits
from tests.store.scripts import Refused, Scripts

SESSION = "s-1"


def publish(scripts: Scripts, count: int, session_id: str = SESSION) -> str:
    """Publish events numbered from 1, and return the epoch."""
    for number in range(1, count + 1):
        event_id = scripts.publish(session_id, {"type": "x", "data": number})
    return event_id.partition("-")[0]


@pytest.mark.parametrize(
    ("cursor", "verdict", "seqs"),
    [
        ("{epoch}-0", "ok", [1, 2, 3, 4, 5]),
        ("{epoch}-3", "ok", [4, 5]),
        ("{epoch}-5", "ok", []),
        ("{epoch}-6", "ahead", []),
        ("{epoch}-999999999999999", "ahead", []),
        ("0123456789-5", "epoch", []),
        ("{epoch}-05", "ok", []),
        ("{epoch}-1234567890123456", "malformed", []),
        ("{epoch}", "malformed", []),
        ("{epoch}-", "malformed", []),
        ("-5", "malformed", []),
        ("{epoch}--5", "malformed", []),
        ("{epoch}-5 ", "malformed", []),
        ("{epoch}-5\n", "malformed", []),
        ("{EPOCH}-5", "malformed", []),
        ("0{epoch}-5", "malformed", []),
        ("{epoch}-1e2", "malformed", []),
        ("{epoch}-0x5", "malformed", []),
        ("lg-5", "malformed", []),
        ("é", "malformed", []),
    ],
)
def test_a_cursor_is_honoured_or_the_reason_is_named(
    scripts: Scripts, cursor: str, verdict: str, seqs: list[int]
) -> None:
    epoch = publish(scripts, 5)
    # An epoch of digits alone is the same in capitals.
    cursor = cursor.replace("{EPOCH}", "ABCDEF0123").replace("{epoch}", epoch)
    reading = scripts.read(SESSION, cursor)
    assert (reading["verdict"], reading["seqs"]) == (verdict, seqs)
    assert (reading["epoch"], reading["top"]) == (epoch, 5)
    assert reading["oldest"] == (0 if verdict == "ok" else 1)


def test_a_cursor_behind_the_oldest_entry_is_trimmed_and_one_just_before_it_is_not(
    scripts: Scripts,
) -> None:
    scripts = Scripts(scripts.server, limits=Limits(history_events=3))
    epoch = publish(scripts, 10)
    trimmed = scripts.read(SESSION, f"{epoch}-6")
    assert (trimmed["verdict"], trimmed["oldest"], trimmed["entries"]) == ("trimmed", 8, [])
    honoured = scripts.read(SESSION, f"{epoch}-7")
    assert (honoured["verdict"], honoured["seqs"]) == ("ok", [8, 9, 10])


def test_without_history_only_a_cursor_at_the_top_is_honoured(scripts: Scripts) -> None:
    epoch = publish(scripts, 3)
    scripts.client.delete(scripts.keys.history(SESSION))
    assert scripts.read(SESSION, f"{epoch}-3")["verdict"] == "ok"
    below = scripts.read(SESSION, f"{epoch}-2")
    assert (below["verdict"], below["oldest"]) == ("trimmed", 4)


def test_a_session_nobody_has_published_to_gets_a_numbering_that_lasts(scripts: Scripts) -> None:
    first = scripts.read(SESSION)
    assert (first["top"], first["verdict"], first["entries"]) == (0, "none", [])
    assert scripts.read(SESSION)["epoch"] == first["epoch"]
    assert scripts.publish(SESSION, {"type": "x"}) == f"{first['epoch']}-1"
    assert scripts.read(SESSION, f"{first['epoch']}-0")["seqs"] == [1]


def test_status_never_creates_a_session(scripts: Scripts) -> None:
    epoch, top, owner, ended, pending, streams, viewers, now = scripts.call("status", SESSION)
    assert (epoch, top, owner, ended, pending, streams, viewers) == ("", 0, "", "", 0, 0, 0)
    assert now > 1_600_000_000_000
    assert scripts.call("pending", SESSION)[1:] == [0, "", [], []]
    assert scripts.call("beat", SESSION, "g-1", 1, 1) == [1, 1]
    assert scripts.client.exists(scripts.keys.meta(SESSION)) == 0


def test_status_tells_where_a_session_stands(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"}, "", "user-1")
    scripts.ask(SESSION)
    scripts.call("beat", SESSION, "g-1", 3, 2)
    epoch, top, owner, ended, pending, streams, viewers, _ = scripts.call("status", SESSION)
    assert (top, owner, ended, pending, streams, viewers) == (2, "user-1", "", 1, 3, 2)
    assert scripts.meta(SESSION)["epoch"] == epoch


class TestModes:
    """What comes without a cursor."""

    @pytest.fixture(autouse=True)
    def session(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "tool_status", "data": {"tool_call_id": "a", "status": "begun"}})
        scripts.publish(SESSION, {"type": "tool_result", "data": {"of": "a"}})
        scripts.ask(SESSION, request_id="r-1")

    def test_snapshot_has_state_and_no_entries(self, scripts: Scripts) -> None:
        reading = scripts.read(SESSION)
        assert reading["entries"] == []
        assert [event["type"] for event in reading["state"]] == ["tool_status", "tool_result"]
        assert [request_id for request_id, *_ in reading["pending"]] == ["r-1"]

    def test_all_has_entries_and_no_state(self, scripts: Scripts) -> None:
        reading = scripts.read(SESSION, mode="all")
        assert reading["seqs"] == [1, 2, 3]
        assert reading["request_ids"] == ["", "", "r-1"]
        assert reading["state"] == []
        assert len(reading["pending"]) == 1

    def test_none_has_neither(self, scripts: Scripts) -> None:
        reading = scripts.read(SESSION, mode="none")
        assert (reading["entries"], reading["state"], len(reading["pending"])) == ([], [], 1)

    def test_with_an_honoured_cursor_there_are_entries_and_no_state(self, scripts: Scripts) -> None:
        epoch = scripts.meta(SESSION)["epoch"]
        reading = scripts.read(SESSION, f"{epoch}-1")
        assert (reading["seqs"], reading["state"], len(reading["pending"])) == ([2, 3], [], 1)

    def test_with_a_cursor_that_cannot_be_honoured_the_snapshot_comes(self, scripts: Scripts) -> None:
        reading = scripts.read(SESSION, "0123456789-1", mode="none")
        assert (reading["entries"], len(reading["state"]), len(reading["pending"])) == ([], 2, 1)

    def test_another_mode_is_refused(self, scripts: Scripts) -> None:
        with pytest.raises(Refused) as refused:
            scripts.read(SESSION, mode="everything")
        assert refused.value.code == "SSE_BAD_REQUEST"

    def test_what_the_snapshot_shows_is_the_published_event_without_its_id(self, scripts: Scripts) -> None:
        reading = scripts.read(SESSION)
        shown = [*reading["state"], reading["pending"][0][1]]
        for event in scripts.events(SESSION):
            del event["id"]
            assert event in shown


class TestState:
    """The last status of each of the last 50 tool calls, and the last result."""

    def status(self, scripts: Scripts, call: Any, text: str) -> None:
        data = {"status": text} | ({"tool_call_id": call} if call is not None else {})
        scripts.publish(SESSION, {"type": "tool_status", "data": data})

    def shown(self, scripts: Scripts) -> list[str]:
        return [event["data"]["status"] for event in scripts.read(SESSION)["state"]]

    def test_only_the_last_status_of_a_call_is_kept_in_the_order_published(self, scripts: Scripts) -> None:
        for call, text in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("c", "c2")]:
            self.status(scripts, call, text)
        assert self.shown(scripts) == ["b1", "a2", "c2"]

    def test_the_call_touched_longest_ago_goes_first(self, scripts: Scripts) -> None:
        for number in range(50):
            self.status(scripts, str(number), str(number))
        self.status(scripts, "0", "again")
        self.status(scripts, "new", "new")
        assert self.shown(scripts) == [*map(str, range(2, 50)), "again", "new"]
        fields = scripts.client.hkeys(scripts.keys.state(SESSION))
        assert len(fields) == 51, "50 statuses and their order: nothing is left of those that went"

    @pytest.mark.parametrize("call", [None, "", 5, {"x": 1}])
    def test_statuses_without_a_call_share_a_slot(self, scripts: Scripts, call: Any) -> None:
        self.status(scripts, call, "first")
        self.status(scripts, None, "second")
        assert self.shown(scripts) == ["second"]

    def test_only_the_last_result_is_kept(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "tool_result", "data": {"status": "1"}})
        self.status(scripts, "a", "2")
        scripts.publish(SESSION, {"type": "tool_result", "data": {"status": "3"}})
        assert self.shown(scripts) == ["2", "3"]

    def test_a_snapshot_larger_than_a_page_leaves_out_the_oldest(self, scripts: Scripts) -> None:
        for number in range(5):
            self.status(scripts, str(number), str(number) * 1000)
        reading = scripts.read(SESSION, page_bytes=2500)
        assert [event["data"]["status"][0] for event in reading["state"]] == ["3", "4"]

    def test_other_types_leave_no_state(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "message", "data": {"tool_call_id": "a"}})
        assert scripts.client.exists(scripts.keys.state(SESSION)) == 0


def test_pages_follow_each_other_without_gap_or_repetition(scripts: Scripts) -> None:
    for number in range(200):
        epoch = scripts.publish(SESSION, {"type": "x", "data": "y" * (number * 7 % 900)}).partition("-")[0]
    seen: list[int] = []
    cursor, more = f"{epoch}-0", 1
    while more:
        reading = scripts.read(SESSION, cursor, page_bytes=10_000)
        assert sum(map(len, reading["raw"])) <= 10_000
        assert reading["verdict"] == "ok"
        seen += reading["seqs"]
        cursor, more = f"{epoch}-{seen[-1]}", reading["more"]
    assert seen == list(range(1, 201))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129])
def test_a_page_that_ends_with_the_history_says_that_nothing_follows(scripts: Scripts, count: int) -> None:
    epoch = publish(scripts, count)
    reading = scripts.read(SESSION, f"{epoch}-0")
    assert (len(reading["seqs"]), reading["more"]) == (count, 0)
    assert scripts.read(SESSION, mode="all")["seqs"] == reading["seqs"]


def test_an_entry_larger_than_the_page_comes_alone(scripts: Scripts) -> None:
    publish(scripts, 2)
    reading = scripts.read(SESSION, mode="all", page_bytes=1)
    assert (reading["seqs"], reading["more"]) == ([1], 1)


def test_open_requests_come_in_the_order_asked_and_settled_ones_never(scripts: Scripts) -> None:
    for name in ("r-3", "r-1", "r-2"):
        scripts.ask(SESSION, request_id=name)
    scripts.answer(SESSION, "r-1")
    reading = scripts.read(SESSION)
    assert [(request_id, seq) for request_id, _, _, seq in reading["pending"]] == [("r-3", 1), ("r-2", 3)]
    for request_id, event, expires_ms, _ in reading["pending"]:
        assert event["data"]["request_id"] == request_id
        assert expires_ms > reading["now_ms"]
        assert "id" not in event
