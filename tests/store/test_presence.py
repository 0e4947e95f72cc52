"""Presence: streams and viewers over all gateways, in one hash per session."""

from __future__ import annotations

import pytest

from sse_gateway.store.library import BEAT_SECONDS
from tests.store.scripts import Refused, Scripts

SESSION = "s-1"


def test_counts_add_up_over_gateways_and_a_beat_replaces_the_gateways_last(scripts: Scripts) -> None:
    assert scripts.call("beat", SESSION, "g-1", 3, 2) == [3, 2]
    assert scripts.call("beat", SESSION, "g-2", 1, 0) == [4, 2]
    assert scripts.call("beat", SESSION, "g-1", 1, 1) == [2, 1]


def test_a_count_of_zero_takes_the_gateway_out(scripts: Scripts) -> None:
    scripts.call("beat", SESSION, "g-1", 3, 2)
    scripts.call("beat", SESSION, "g-2", 1, 0)
    assert scripts.call("beat", SESSION, "g-1", 0, 0) == [1, 0]
    assert scripts.client.hkeys(scripts.keys.streams(SESSION)) == ["g-2"]
    scripts.call("beat", SESSION, "g-2", 0, 0)
    assert scripts.client.exists(scripts.keys.streams(SESSION)) == 0


def test_a_gateway_that_stopped_beating_is_ignored_and_the_next_beat_removes_it(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"})
    seconds, _ = scripts.client.time()
    old = (seconds - 3 * BEAT_SECONDS - 1) * 1000
    recent = (seconds - 3 * BEAT_SECONDS + 5) * 1000
    scripts.client.hset(
        scripts.keys.streams(SESSION), mapping={"gone": f"9:9:{old}", "slow": f"2:1:{recent}", "odd": "x"}
    )
    assert scripts.call("status", SESSION)[5:7] == [2, 1]
    assert scripts.ask(SESSION)["viewers"] == 1
    assert scripts.call("beat", SESSION, "g-1", 1, 1) == [3, 2]
    assert set(scripts.client.hkeys(scripts.keys.streams(SESSION))) == {"slow", "g-1"}


def test_the_asker_is_told_how_many_viewers_there_are(scripts: Scripts) -> None:
    assert scripts.ask(SESSION, request_id="r")["viewers"] == 0
    scripts.call("beat", SESSION, "g-1", 3, 2)
    scripts.call("beat", SESSION, "g-2", 4, 1)
    assert scripts.ask(SESSION, request_id="r")["viewers"] == 3
    assert scripts.standing("decision", SESSION, "r")["viewers"] == 3


@pytest.mark.parametrize("beat", [("", 1, 1), ("g" * 129, 1, 1), ("g", "x", 1), ("g", 1)])
def test_a_malformed_beat_is_refused(scripts: Scripts, beat: tuple[object, ...]) -> None:
    with pytest.raises(Refused) as refused:
        scripts.call("beat", SESSION, *beat)
    assert refused.value.code == "SSE_BAD_REQUEST"
