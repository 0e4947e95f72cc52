"""The invariant of every test here.

What a page was shown is exactly the history, in order, without a gap and without a repetition; or it was told
by `stream_reset` that it is not, and then given the snapshot and the position that what follows goes on from.
"""

from __future__ import annotations

from typing import Any

from sse_gateway.core.cursor import Cursor
from tests.chaos.agent import Agent
from tests.chaos.page import Page
from tests.support.sse import Event


class Story:
    """What one page was shown, read from its beginning."""

    def __init__(self, cursor: str) -> None:
        self.position = Cursor.parse(cursor) if cursor else None
        self.since_reset: list[Any] = []
        """The durable events after the last reset."""
        self.reset_at: Cursor | None = None
        """The position the last reset named as the latest."""
        self.snapshot: list[Any] = []
        """What came with the last reset."""
        self.transient: list[Any] = []
        self._ids: set[str] = set()
        self._resetting = False

    def take(self, event: Event) -> None:
        """Take the next event that came, whatever it is; AssertionError when it does not go on from here."""
        if event.type == "stream_reset":
            self._reset(event.json)
        elif event.type == "ready":
            self._ready(event)
        elif event.id is not None:
            self._durable(event)
        elif event.type == "message" and event.json["type"] != "heartbeat":
            (self.snapshot if self._resetting else self.transient).append(event.json)

    def _reset(self, told: Any) -> None:
        if self.position is not None:
            assert Cursor.parse(told["requested"]) == self.position, (told, self.position)
        self.reset_at = self.position = Cursor.parse(told["latest"])
        self._resetting = True
        self.since_reset, self.snapshot = [], []

    def _ready(self, event: Event) -> None:
        assert event.json["complete"] is not self._resetting, event
        assert event.id == event.json["cursor"]
        cursor = Cursor.parse(event.id or "")
        assert cursor is not None
        if self.position is not None:
            # Another epoch over the same numbers: a failover that lost nothing.
            assert cursor.seq == self.position.seq, f"ready at {cursor}, but {self.position} was the last"
        self.position = cursor
        self._resetting = False

    def _durable(self, event: Event) -> None:
        cursor = Cursor.parse(event.id or "")
        assert cursor is not None, event
        assert event.json["id"] == event.id, event
        assert event.id not in self._ids, f"{event.id} came twice"
        if self.position is not None:
            assert cursor.seq == self.position.seq + 1, f"{event.id} came after {self.position}"
        self._ids.add(str(cursor))
        self.position = cursor
        self.since_reset.append(event.json)


async def assert_whole(page: Page, agent: Agent) -> Story:
    """Check the page's whole story against the session's history as it is now."""
    assert page.gave_up is None, page.gave_up
    for stream in page.streams:
        assert not stream.parser.complaints, stream.parser.complaints
    story = Story(page.began_at)
    for event in page.events:
        story.take(event)
    top = await agent.top(page.session_id)
    history = {Cursor.parse(event["id"]).seq: event for event in await agent.history(page.session_id)}  # type: ignore[union-attr]
    assert story.position is not None
    assert story.position.seq == top.seq, f"it stands at {story.position}, the session at {top}"
    for event in story.since_reset:
        seq = int(event["id"].partition("-")[2])
        assert seq < min(history) or history[seq] == event, (event, history.get(seq))
    for event in page.durable():
        assert agent.kept.get(event["id"]) in (None, event["data"].get("n")), event
    if story.reset_at is not None:
        _check_snapshot(story, history.get(story.reset_at.seq), await agent.open_requests(page.session_id))
    return story


def _check_snapshot(story: Story, latest: Any, open_requests: list[str]) -> None:
    """The snapshot shows the state after the very event it names as the latest, and what is open."""
    statuses = [event for event in story.snapshot if event["type"] == "tool_status"]
    asked = [event["data"]["request_id"] for event in story.snapshot if event["type"] == "permission_request"]
    assert len(statuses) + len(asked) == len(story.snapshot)
    assert asked == open_requests
    if latest is not None and latest["type"] == "tool_status":
        assert statuses[-1] == {key: value for key, value in latest.items() if key != "id"}
    elif latest is None:
        assert not statuses
