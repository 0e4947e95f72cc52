"""Publishing: what is refused, what is added, and what is kept, byte by byte."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest

from tests.store.scripts import Refused, Scripts

SESSION = "s-1"
KIB = 1024


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ("", "SSE_INVALID_JSON"),
        ("   ", "SSE_INVALID_JSON"),
        ("{", "SSE_INVALID_JSON"),
        ("nope", "SSE_INVALID_JSON"),
        ('{"type":"x"} {}', "SSE_INVALID_JSON"),
        ('{"type":"x",}', "SSE_INVALID_JSON"),
        ("{'type':'x'}", "SSE_INVALID_JSON"),
        ('{"type":"x","data":"\\q"}', "SSE_INVALID_JSON"),
        ('{"type":"x","data":"\\u12g4"}', "SSE_INVALID_JSON"),
        ('{"type":"x","data":' + nested(64) + "}", "SSE_INVALID_JSON"),
        ("[]", "SSE_NOT_AN_OBJECT"),
        ('"type"', "SSE_NOT_AN_OBJECT"),
        ("1", "SSE_NOT_AN_OBJECT"),
        ("null", "SSE_NOT_AN_OBJECT"),
        ("{}", "SSE_NO_TYPE"),
        ('{"data":{"type":"x"}}', "SSE_NO_TYPE"),
        ('{"type":null}', "SSE_BAD_TYPE"),
        ('{"type":1}', "SSE_BAD_TYPE"),
        ('{"type":""}', "SSE_BAD_TYPE"),
        ('{"type":"a b"}', "SSE_BAD_TYPE"),
        ('{"type":"a\\u000ab"}', "SSE_BAD_TYPE"),
        ('{"type":"é"}', "SSE_BAD_TYPE"),
        ('{"type":"' + "a" * 65 + '"}', "SSE_BAD_TYPE"),
        ('{"type":"x","id":"1"}', "SSE_HAS_ID"),
        ('{"type":"x","id":null}', "SSE_HAS_ID"),
        ('{"type":"x","\\u0069d":1}', "SSE_HAS_ID"),
        ('{"type":"x","session_id":"s-2"}', "SSE_FOREIGN_SESSION"),
        ('{"type":"x","session_id":null}', "SSE_FOREIGN_SESSION"),
        ('{"type":"permission_cleared","data":{}}', "SSE_RESERVED_TYPE"),
        ('{"type":"heartbeat"}', "SSE_RESERVED_TYPE"),
        ('{"type":"x","type":"heartbeat"}', "SSE_RESERVED_TYPE"),
        ('{"type":"x","data":"' + "a" * 256 * KIB + '"}', "SSE_TOO_LARGE"),
    ],
)
def test_what_may_not_be_published_is_refused_by_name_and_leaves_nothing_behind(
    scripts: Scripts, event: str, code: str
) -> None:
    with pytest.raises(Refused) as refused:
        scripts.publish(SESSION, event)
    assert refused.value.code == code
    assert len(refused.value.sentence) > 15
    assert scripts.everything(SESSION) == {}


@pytest.mark.parametrize(
    "value",
    [
        "NaN", "nan", "-nan", "Infinity", "-Infinity", "inf", "0x10", "-0x1F", "01", "-01", "00", "+1",
        "1.", "1.e5", ".5", "-.5", "-.", "-", "1e", "1e+", "0.", "-0.", "--1", "1_0", "truex", "tru",
        "TRUE", "undefined", "nullx", "'x'", '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', "[1,]",
        "[,1]", "[1,,2]", "{,}", '{"a"}', '{"a":}', '{"a":1,}', "{1:2}", "{a:1}", "1x", "1-1", "1d",
        "0b1", "nan(1)", '"\\U0041"', "//", "/**/",
    ],
)  # fmt: skip
def test_json_that_a_browser_would_not_parse_never_becomes_durable(scripts: Scripts, value: str) -> None:
    with pytest.raises(Refused) as refused:
        scripts.publish(SESSION, '{"type":"x","data":' + value + "}")
    assert refused.value.code == "SSE_INVALID_JSON"
    assert scripts.everything(SESSION) == {}


@pytest.mark.parametrize(
    "value",
    [
        "0", "-0", "1e5", "1E+5", "0.5", "-0.25e-3", "9007199254740993", "1" * 300, "1e999", "{}", "[]",
        "[[],{}]", '""', '"\\u0000"', '"\\ud83d\\ude00"', '"\x7f"', '"é😀\u2028"', '"1. Then -.5 and 2.e5."',
        '"a\\"1.,\\\\"', '"\\\\"', '[1.5,"."]', '{"":{"":1}}', '{"a":1,"a":2}', nested(63),
    ],
)  # fmt: skip
def test_json_is_kept_in_the_publishers_own_bytes(scripts: Scripts, value: str) -> None:
    scripts.publish(SESSION, '{"type":"x","data":' + value + "}")
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert kept.endswith(',"type":"x","data":' + value + "}")


def test_an_event_of_the_greatest_size_is_kept_whole(scripts: Scripts) -> None:
    event = '{"type":"x","data":"' + "é" * (128 * KIB - 15) + '"}'
    event += " " * (256 * KIB - len(event.encode()))
    scripts.publish(SESSION, event)
    [kept] = scripts.events(SESSION)
    assert kept["data"] == "é" * (128 * KIB - 15)


@pytest.mark.parametrize("character", [chr(code) for code in range(32)], ids=repr)
def test_a_raw_control_character_becomes_a_space_so_that_an_event_is_one_line(
    scripts: Scripts, character: str
) -> None:
    scripts.publish(SESSION, f'{character}{{"type":{character}"x","data":"a{character}b"}}{character}')
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert kept.endswith('"type": "x","data":"a b"}')


def test_pretty_printed_json_is_published_as_one_line(scripts: Scripts) -> None:
    scripts.publish(SESSION, json.dumps({"type": "x", "data": {"a": [1, {"b": None}]}}, indent=4))
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert "\n" not in kept
    assert json.loads(kept)["data"] == {"a": [1, {"b": None}]}


def test_white_space_in_bulk_costs_no_quadratic_time(scripts: Scripts) -> None:
    spaces = " " * 100_000
    scripts.publish(SESSION, spaces + '{"type":' + spaces + '"x"}')
    assert scripts.events(SESSION)[0]["type"] == "x"


def test_an_event_is_given_id_session_and_time_in_front(scripts: Scripts) -> None:
    event_id = scripts.publish(SESSION, {"type": "x", "data": 1})
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert re.fullmatch(
        rf'{{"id":"{event_id}","session_id":"s-1","timestamp":"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z",'
        r'"type": "x", "data": 1}',
        kept,
    )
    assert re.fullmatch(r"[0-9a-f]{10}-1", event_id)


def test_what_the_publisher_gave_is_not_added_twice(scripts: Scripts) -> None:
    event = {"session_id": SESSION, "timestamp": "yesterday", "type": "x"}
    event_id = scripts.publish(SESSION, event)
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert kept == f'{{"id":"{event_id}",' + json.dumps(event)[1:]


def test_ids_count_up_from_one_within_one_epoch(scripts: Scripts) -> None:
    ids = [scripts.publish(SESSION, {"type": "x"}).split("-") for _ in range(5)]
    assert [seq for _, seq in ids] == ["1", "2", "3", "4", "5"]
    assert len({epoch for epoch, _ in ids}) == 1


def test_the_published_message_is_the_kept_event(scripts: Scripts) -> None:
    with scripts.client.pubsub() as listener:
        listener.subscribe(scripts.keys.events_channel(SESSION))
        listener.get_message(timeout=5)
        event_id = scripts.publish(SESSION, {"type": "x", "data": {"text": "Grüße"}})
        message = listener.get_message(timeout=5)
    [kept] = scripts.read(SESSION, mode="all")["raw"]
    assert message["data"] == kept
    assert kept.startswith(f'{{"id":"{event_id}",')


def test_the_timestamp_is_redis_time(scripts: Scripts) -> None:
    seconds, _ = scripts.client.time()
    scripts.publish(SESSION, {"type": "x"})
    stamp = scripts.events(SESSION)[0]["timestamp"]
    assert abs(datetime.fromisoformat(stamp).timestamp() - seconds) < 5


@pytest.mark.parametrize("session_id", ["a", "A.b_c:d-e", "0" * 128, "...", "-"])
def test_a_session_is_named_bare_or_by_its_key(scripts: Scripts, session_id: str) -> None:
    for key in (session_id, f"sse:{{{session_id}}}"):
        scripts.send(("FCALL", "sse_publish", 1, key, '{"type":"x"}'))
    assert [event["session_id"] for event in scripts.events(session_id)] == [session_id] * 2


@pytest.mark.parametrize(
    "key",
    [
        "",
        ".",
        "..",
        "a b",
        "a/b",
        "a}b{c",
        "sse:{a",
        "sse:{}",
        "sse:{a}}",
        "sse:{a}:meta",
        "x" * 129,
        "é",
        "a\nb",
    ],
)
def test_a_name_that_could_reach_another_sessions_keys_is_refused(scripts: Scripts, key: str) -> None:
    with pytest.raises(Refused) as refused:
        scripts.send(("FCALL", "sse_publish", 1, key, '{"type":"x"}'))
    assert refused.value.code == "SSE_BAD_SESSION"
    assert scripts.client.dbsize() == 0


@pytest.mark.parametrize("keys", [(), ("a", "a")])
def test_exactly_one_key_is_given(scripts: Scripts, keys: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as refused:
        scripts.send(("FCALL", "sse_publish", len(keys), *keys, '{"type":"x"}'))
    assert refused.value.code == "SSE_BAD_SESSION"


def test_a_namespace_keeps_two_deployments_apart_on_one_server(scripts: Scripts) -> None:
    other = Scripts(scripts.server, namespace="blue_")
    scripts.publish(SESSION, {"type": "x", "data": "ours"})
    other.publish(SESSION, {"type": "x", "data": "theirs"})
    other.ask(SESSION, request_id="r")
    other.answer(SESSION, "r")
    assert [event["data"] for event in scripts.events(SESSION)] == ["ours"]
    assert other.events(SESSION)[0]["data"] == "theirs"
    ours = set(scripts.client.keys("*")) - set(scripts.client.keys("blue_*"))
    assert ours == {"sse:{s-1}:meta", "sse:{s-1}:history"}


def test_the_owner_is_set_once_and_another_is_refused(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"})
    scripts.publish(SESSION, {"type": "x"}, "", "user-1")
    scripts.publish(SESSION, {"type": "x"}, "", "user-1")
    scripts.publish(SESSION, {"type": "x"})
    with pytest.raises(Refused) as refused:
        scripts.publish(SESSION, {"type": "x"}, "", "user-2")
    assert refused.value.code == "SSE_OWNER_CONFLICT"
    assert scripts.read(SESSION)["owner"] == "user-1"
    assert scripts.read(SESSION)["top"] == 4


@pytest.mark.parametrize(
    ("owner", "is_text"),
    [
        ("é€\U0010ffff", True),
        ("a\0b", True),
        (b"u\xff", False),
        (b"\xc0\xaf", False),
        (b"\xe0\x80\x80", False),
        (b"\xed\xa0\x80", False),
        (b"\xf4\x90\x80\x80", False),
        (b"\xe2\xc3\xa9\x82\xac", False),
        ("é".encode()[:1], False),
    ],
)
def test_an_owner_that_is_not_utf8_is_refused(scripts: Scripts, owner: str | bytes, is_text: bool) -> None:
    if is_text:
        scripts.publish(SESSION, {"type": "x"}, "", owner)
        assert scripts.read(SESSION)["owner"] == owner
    else:
        with pytest.raises(Refused) as refused:
            scripts.publish(SESSION, {"type": "x"}, "", owner)
        assert refused.value.code == "SSE_BAD_REQUEST"
        with pytest.raises(Refused):
            scripts.call("ask", SESSION, '{"tool_name":"bash"}', owner)
        assert scripts.client.keys("*") == []


def test_publishing_reopens_an_ended_session(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"})
    scripts.call("end", SESSION)
    assert scripts.read(SESSION)["ended"] == "1"
    scripts.publish(SESSION, {"type": "x"})
    assert scripts.read(SESSION)["ended"] == ""


class TestIdempotency:
    """The same key within 300 s publishes once."""

    def test_the_first_id_is_returned_again_and_nothing_is_published(self, scripts: Scripts) -> None:
        first = scripts.publish(SESSION, {"type": "x"}, "key-1")
        assert scripts.publish(SESSION, {"type": "x"}, "key-1") == first
        assert scripts.publish(SESSION, {"type": "x"}, "key-2") != first
        assert len(scripts.events(SESSION)) == 2

    def test_the_key_for_another_event_is_refused(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "x"}, "key-1")
        with pytest.raises(Refused) as refused:
            scripts.publish(SESSION, {"type": "y"}, "key-1")
        assert refused.value.code == "SSE_IDEMPOTENCY_MISMATCH"
        assert len(scripts.events(SESSION)) == 1

    def test_a_refused_event_does_not_use_up_its_key(self, scripts: Scripts) -> None:
        with pytest.raises(Refused):
            scripts.publish(SESSION, {"type": "heartbeat"}, "key-1")
        assert scripts.publish(SESSION, {"type": "x"}, "key-1").endswith("-1")

    def test_a_key_is_the_sessions_own_and_forgotten_after_300_seconds(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "x"}, "key-1")
        assert scripts.publish("s-2", {"type": "y"}, "key-1").endswith("-1")
        assert 299 <= scripts.client.ttl(scripts.keys.idem(SESSION, "key-1")) <= 300

    @pytest.mark.parametrize("key", ["a b", "\x00", "é", "k" * 257])
    def test_a_malformed_key_is_refused(self, scripts: Scripts, key: str) -> None:
        with pytest.raises(Refused) as refused:
            scripts.publish(SESSION, {"type": "x"}, key)
        assert refused.value.code == "SSE_BAD_REQUEST"

    def test_a_request_published_again_returns_how_it_stands_now(self, scripts: Scripts) -> None:
        event: Any = {"type": "permission_request", "data": {"tool_name": "bash"}}
        first = json.loads(scripts.publish(SESSION, event, "key-1"))
        again = json.loads(scripts.publish(SESSION, event, "key-1"))
        assert again == first
        scripts.answer(SESSION, first["request_id"])
        settled = json.loads(scripts.publish(SESSION, event, "key-1"))
        assert settled["decision"]["request_id"] == first["request_id"]
        assert len(scripts.events(SESSION)) == 2
