"""Heartbeats keep a quiet stream alive and move nobody's position."""

from __future__ import annotations

from tests.web.site import HEARTBEAT_SECONDS, Site, Tab


async def test_heartbeats_come_at_their_interval(site: Site, tab: Tab, session_id: str) -> None:
    """A quiet stream gets a heartbeat each interval, as a default event without id and session."""
    stream = await tab(site.a, session_id)
    event = site.publish(session_id, "tool_status")
    await stream.message("tool_status")

    def beats() -> list[int]:
        found = enumerate(stream.events)
        return [place for place, event in found if event.type == "message" and "heartbeat" in event.data]

    await stream.wait(lambda: len(beats()) >= 6, "six heartbeats")
    first, *_, last = beats()
    assert stream.events[first].json.keys() == {"type", "data", "timestamp"}
    assert stream.events[first].json["type"] == "heartbeat"
    assert stream.events[first].json["data"] == {}
    assert stream.events[last].id is None
    assert stream.events[last].last_event_id == event
    # Five intervals; only lateness is the machine's to choose.
    assert stream.arrivals[last] - stream.arrivals[first] > 5 * HEARTBEAT_SECONDS * 0.8
