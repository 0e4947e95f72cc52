"""How long keys live, and which must not die before which."""

from __future__ import annotations

import time

import pytest

from sse_gateway.store.library import BEAT_SECONDS, Limits
from tests.store.scripts import Scripts
from tests.support.servers import RedisProcess

SESSION = "s-1"
HOUR, DAY = 3600, 86400


def ttl(scripts: Scripts, key: str) -> float:
    """Return a key's remaining life in seconds, by its name in `Keys`."""
    name = scripts.keys.session_key(SESSION) + f":{key}"
    milliseconds: int = scripts.client.pttl(
        scripts.keys.answers_stream(SESSION) if key == "answers" else name
    )
    return milliseconds / 1000


def test_history_and_state_live_600_seconds_after_the_last_write(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    assert 600 <= ttl(scripts, "history") <= 606
    assert 600 <= ttl(scripts, "state") <= 606
    assert DAY - 1 <= ttl(scripts, "meta") <= DAY


@pytest.fixture
def short_lived(scripts: Scripts) -> Scripts:
    """The scripts with lives of 30 s, which are prolonged after 0.4 s: a hundredth of 600 would take long."""
    scripts.server.flush()
    return Scripts(scripts.server, limits=Limits(history_seconds=30))


def test_every_publish_prolongs_them(short_lived: Scripts) -> None:
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        short_lived.publish(SESSION, {"type": "tool_status", "data": {}})
        assert 29.9 <= ttl(short_lived, "history") <= 30.4
        assert 29.9 <= ttl(short_lived, "state") <= 30.4
        time.sleep(0.03)


def test_a_life_of_600_seconds_is_prolonged_once_a_hundredth_of_it_is_gone(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    meta = scripts.keys.meta(SESSION)
    for gone_ms, prolonged in ((5_000, False), (6_001, True)):
        # That much later, the lives have this much less left.
        alive_until = int(scripts.client.time()[0]) * 1000 + 606_000 - gone_ms
        scripts.client.hset(meta, "alive_until", alive_until)
        scripts.client.expire(scripts.keys.history(SESSION), 100)
        scripts.publish(SESSION, {"type": "x"})
        assert (ttl(scripts, "history") > 600) is prolonged


@pytest.mark.parametrize("kind", ["tool_status", "tool_result"])
def test_a_state_that_begins_between_two_prolongations_has_a_life_too(scripts: Scripts, kind: str) -> None:
    scripts.publish(SESSION, {"type": "x"})
    scripts.publish(SESSION, {"type": kind, "data": {}})
    assert 600 <= ttl(scripts, "state") <= 606


def test_a_plain_event_prolongs_the_state_with_the_history(short_lived: Scripts) -> None:
    short_lived.publish(SESSION, {"type": "tool_status", "data": {}})
    time.sleep(0.5)
    short_lived.publish(SESSION, {"type": "x"})
    assert ttl(short_lived, "state") >= 29.9


def test_the_history_outlives_the_longest_open_request_and_then_shrinks(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="long", expires_in=2 * HOUR)
    scripts.ask(SESSION, request_id="short", expires_in=60)
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    assert 2 * HOUR < ttl(scripts, "history") < 2 * HOUR + 120
    assert 2 * HOUR < ttl(scripts, "state") < 2 * HOUR + 120
    scripts.answer(SESSION, "short")
    assert ttl(scripts, "history") > 2 * HOUR
    scripts.answer(SESSION, "long")
    assert 600 <= ttl(scripts, "history") <= 606
    assert 600 <= ttl(scripts, "state") <= 606


def test_lives_that_were_just_set_are_prolonged_for_a_longer_request(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    scripts.ask(SESSION, request_id="r-1", expires_in=2 * HOUR)
    for key in ("history", "state"):
        assert 2 * HOUR < ttl(scripts, key) < 2 * HOUR + 120
    # There is no slack left from the first, but more than enough for an event.
    scripts.ask(SESSION, request_id="r-2", expires_in=3 * HOUR)
    for key in ("history", "state"):
        assert 3 * HOUR < ttl(scripts, key) < 3 * HOUR + 120


def test_meta_outlives_a_long_request_asked_while_another_is_about_to_expire(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="old", expires_in=23 * HOUR)
    # 22 hours later.
    meta, now = scripts.keys.meta(SESSION), int(scripts.client.time()[0])
    scripts.client.hset(scripts.keys.permissions(SESSION), "expires:old", (now + HOUR) * 1000)
    deadlines = {"next_due": (now + HOUR) * 1000, "open_until": (now + HOUR) * 1000}
    scripts.client.hset(meta, mapping={"alive_until": (now + HOUR + 60) * 1000, **deadlines})
    for key, left in {"meta": 2, "history": 1, "permissions": 2, "pending": 2, "settled": 2}.items():
        scripts.client.expire(f"{scripts.keys.session_key(SESSION)}:{key}", left * HOUR)
    scripts.ask(SESSION, request_id="new", expires_in=23 * HOUR)
    assert ttl(scripts, "history") > 23 * HOUR
    assert ttl(scripts, "meta") >= ttl(scripts, "permissions") - 0.01 > 24 * HOUR - 2
    assert ttl(scripts, "meta") >= ttl(scripts, "history")


@pytest.mark.parametrize("expires_in", [1, 300, 23 * HOUR])
def test_requests_live_an_hour_past_their_deadline_and_meta_never_shorter(
    scripts: Scripts, expires_in: int
) -> None:
    scripts.ask(SESSION, request_id="r", expires_in=expires_in)
    for key in ("permissions", "pending"):
        assert expires_in + HOUR - 1 <= ttl(scripts, key) <= expires_in + HOUR
    assert ttl(scripts, "meta") >= ttl(scripts, "permissions") - 0.01
    assert ttl(scripts, "meta") >= ttl(scripts, "history")


def test_a_short_request_does_not_shorten_the_life_of_a_long_one(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="long", expires_in=5 * HOUR)
    scripts.ask(SESSION, request_id="short", expires_in=5)
    assert ttl(scripts, "permissions") > 6 * HOUR - 2
    scripts.answer(SESSION, "long")
    scripts.answer(SESSION, "short")
    assert ttl(scripts, "permissions") > 6 * HOUR - 2
    assert abs(ttl(scripts, "settled") - ttl(scripts, "permissions")) < 1


def test_the_answers_stream_lives_600_seconds_after_the_last_decision(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    scripts.answer(SESSION, "r")
    assert 599 <= ttl(scripts, "answers") <= 600


def test_a_beat_prolongs_meta_and_lives_three_beats(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"})
    scripts.client.expire(scripts.keys.meta(SESSION), 100)
    scripts.call("beat", SESSION, "g-1", 1, 1)
    assert ttl(scripts, "meta") > DAY - 2
    assert 3 * BEAT_SECONDS - 1 < ttl(scripts, "streams") <= 3 * BEAT_SECONDS


def test_meta_outlives_a_history_of_many_days(valkey_process: RedisProcess) -> None:
    valkey_process.flush()
    scripts = Scripts(valkey_process, limits=Limits(history_seconds=5 * DAY))
    scripts.publish(SESSION, {"type": "x"})
    scripts.call("beat", SESSION, "g-1", 1, 1)
    assert ttl(scripts, "meta") >= ttl(scripts, "history") - 1 > 4 * DAY


def test_every_key_of_a_used_session_has_a_life(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}}, "key", "user-1")
    scripts.publish(SESSION, {"type": "tool_result", "data": {}})
    scripts.ask(SESSION, request_id="r-1")
    scripts.ask(SESSION, request_id="r-2")
    scripts.make_due(SESSION, "r-1")
    scripts.answer(SESSION, "r-2", key="key-2")
    scripts.call("claim", SESSION, "r-2", "w")
    scripts.call("beat", SESSION, "g-1", 1, 1)
    scripts.call("end", SESSION)
    keys = scripts.client.keys("*")
    assert len(keys) == 9, keys
    assert {key: scripts.client.ttl(key) for key in keys if scripts.client.ttl(key) < 0} == {}
