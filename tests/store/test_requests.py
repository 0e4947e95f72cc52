"""Asking: what a request must be, what is added to it, and what the same request id means later."""

from __future__ import annotations

import hashlib
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.store.scripts import Refused, Scripts

SESSION = "s-1"
SAME: dict[str, Any] = {"request_id": "r", "parameters": {"cmd": "ls"}}
OPTION = {"id": "once", "label": "Once", "kind": "allow_once"}


def iso(seconds_from_now: float, zone: str = "+00:00") -> str:
    """Return a time as ISO-8601, as it is written in a zone."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
    if len(zone) > 1:
        sign = -1 if zone[0] == "-" else 1
        moment += sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return moment.isoformat()[:-6] + zone


def placed(request: dict[str, Any]) -> dict[str, Any]:
    """Put a time in the place of a number of seconds from now, given as (seconds, zone)."""
    return {name: iso(*value) if isinstance(value, tuple) else value for name, value in request.items()}


@pytest.mark.parametrize(
    "request_",
    [
        {"tool_name": None},
        {"tool_name": ""},
        {"tool_name": 1},
        {"tool_name": "x" * 257},
        {"request_id": ""},
        {"request_id": 5},
        {"request_id": "a b"},
        {"request_id": "a/b"},
        {"request_id": ".."},
        {"request_id": "x" * 129},
        {"parameters": []},
        {"parameters": "ls"},
        {"parameters": None},
        {"risk_level": "huge"},
        {"risk_level": 1},
        {"status": "approved"},
        {"args_digest": ""},
        {"args_digest": "a b"},
        {"args_digest": 5},
        {"editable": "yes"},
        {"title": 5},
        {"title": "x" * 1025},
        {"description": []},
        {"tool_call_id": 5},
        {"timestamp": 5},
        {"options": {}},
        {"options": {"a": 1}},
        {"options": "x"},
        {"options": [1]},
        {"options": [{"id": "a", "label": "A"}]},
        {"options": [{"id": "a", "label": "A", "kind": "maybe"}]},
        {"options": [{"id": "", "label": "A", "kind": "allow_once"}]},
        {"options": [{"id": "a", "label": 1, "kind": "allow_once"}]},
        {"options": [OPTION, OPTION]},
        {"options": [OPTION | {"id": str(number)} for number in range(33)]},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": "5"},
        {"expires_in": 82_801},
        {"expires_in": 1e300},
        {"expires_at": 5},
        {"expires_at": "tomorrow"},
        {"expires_at": "2030-02-30T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "2030-01-01T00:00:00.Z"},
        {"expires_at": "2030-01-01"},
        {"expires_at": "2030-01-01T24:00:00Z"},
        {"expires_at": (-1,)},
        {"expires_at": (23 * 3600 + 60,)},
    ],
    ids=lambda request: json.dumps(request)[:50],
)
def test_a_malformed_request_is_refused_and_leaves_nothing_behind(
    scripts: Scripts, request_: dict[str, Any]
) -> None:
    with pytest.raises(Refused) as refused:
        scripts.ask(SESSION, **placed(request_))
    assert refused.value.code == "SSE_BAD_REQUEST"
    assert scripts.everything(SESSION) == {}


@pytest.mark.parametrize(
    ("call", "text", "code"),
    [
        ("ask", "[]", "SSE_NOT_AN_OBJECT"),
        ("ask", "", "SSE_INVALID_JSON"),
        ("ask", '{"tool_name":"x"},"id":"forged","x":{}', "SSE_INVALID_JSON"),
        ("ask", '{"tool_name":"x","parameters":{"a":1.}}', "SSE_INVALID_JSON"),
        ("ask", '{"tool_name":"x","tool_name":"y"}', "SSE_BAD_REQUEST"),
        ("ask", '{"tool_name":"x","parameters":{},"p\\u0061rameters":{"a":1}}', "SSE_BAD_REQUEST"),
        ("ask", '{"tool_name":"x","parameters":{"a":' + "[" * 62 + "]" * 62 + "}}", "SSE_INVALID_JSON"),
        ("ask", '{"tool_name":"x","description":"' + "y" * 256 * 1024 + '"}', "SSE_TOO_LARGE"),
        ("publish", '{"type":"permission_request"}', "SSE_BAD_REQUEST"),
        ("publish", '{"type":"permission_request","data":[]}', "SSE_BAD_REQUEST"),
        ("publish", '{"type":"permission_request","data":{}}', "SSE_BAD_REQUEST"),
        ("publish", '{"type":"permission_request","data":{"tool_name":"x"},"data":{}}', "SSE_BAD_REQUEST"),
        ("publish", '{"type":"x","type":"permission_request","data":{"tool_name":"x"}}', "SSE_BAD_REQUEST"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(
    scripts: Scripts, call: str, text: str, code: str
) -> None:
    with pytest.raises(Refused) as refused:
        scripts.call(call, SESSION, text, "")
    assert refused.value.code == code
    assert scripts.everything(SESSION) == {}


def test_the_least_request_is_completed_at_its_head(scripts: Scripts) -> None:
    asked = scripts.ask(SESSION)
    [event] = scripts.events(SESSION)
    request = event["data"]
    assert list(request) == ["request_id", "expires_at", "status", "timestamp", "tool_name"]
    assert request["request_id"] == asked["request_id"] == f"r-{event['id']}"
    assert request["status"] == "pending"
    assert asked == {
        "status": "pending",
        "request_id": request["request_id"],
        "expires_at": request["expires_at"],
        "id": event["id"],
        "viewers": 0,
    }
    lasts = datetime.fromisoformat(request["expires_at"]) - datetime.fromisoformat(request["timestamp"])
    assert lasts == timedelta(seconds=300)


def test_what_the_asker_gave_stays_and_null_is_replaced_in_place(scripts: Scripts) -> None:
    text = '{"tool_name":"x", "expires_at": null ,"request_id":null,"timestamp":"t", "status":null}'
    scripts.call("ask", SESSION, text)
    [event] = scripts.read(SESSION, mode="all")["raw"]
    assert re.search(
        r'"data":\{"tool_name":"x", "expires_at": "[^"]*Z" ,"request_id":"r-[^"]*","timestamp":"t", '
        r'"status":"pending"\}\}$',
        event,
    )


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 300),
        ({"expires_in": 1.5}, 1.5),
        ({"expires_in": 82_800}, 82_800),
        ({"expires_in": None}, 300),
        ({"expires_at": (60,)}, 60),
        ({"expires_at": (60,), "expires_in": 5}, 60),
        ({"expires_at": (60, "Z")}, 60),
        ({"expires_at": (60, "z")}, 60),
        ({"expires_at": (60, "+02:00")}, 60),
        ({"expires_at": (60, "-0330")}, 60),
    ],
)
def test_the_deadline_is_the_askers_or_the_settings(
    scripts: Scripts, given: dict[str, Any], seconds: float
) -> None:
    scripts.ask(SESSION, request_id="r", **placed(given))
    _, _, asked_ms, expires_ms, *_ = scripts.call("request", SESSION, "r")
    slack = 30_000 if "expires_at" in given else 0
    assert abs(expires_ms - asked_ms - seconds * 1000) <= slack


@pytest.mark.parametrize(
    "moment",
    [
        "1970-01-01T00:00:00.000Z",
        "1999-12-31T23:59:59.999Z",
        "2000-02-29T12:00:00.001Z",
        "2024-02-29T00:00:00.000Z",
        "2025-03-01T00:00:00.000Z",
        "2100-02-28T23:59:59.000Z",
        "2100-03-01T00:00:00.000Z",
        "2400-02-29T06:30:00.500Z",
    ],
)
def test_the_scripts_know_the_calendar_both_ways(scripts: Scripts, moment: str) -> None:
    milliseconds = round(datetime.fromisoformat(moment).timestamp() * 1000)
    library = scripts.library.eval_text("version").rpartition("return run(")[0]
    text, number = scripts.client.eval(
        library + "return {clock.iso(tonumber(ARGV[1])), clock.parse(ARGV[2])}", 0, milliseconds, moment
    )
    assert (text, number) == (moment, milliseconds)


@pytest.mark.parametrize("wrapped", [False, True])
def test_ask_and_publish_make_the_same_request(scripts: Scripts, wrapped: bool) -> None:
    request = {"request_id": "r", "tool_name": "bash", "parameters": {"cmd": "ls"}, "risk_level": "high"}
    if wrapped:
        reply = json.loads(
            scripts.publish(SESSION, {"type": "permission_request", "data": request}, "", "user-1")
        )
    else:
        reply = scripts.ask(SESSION, "user-1", **request)
    assert (reply["status"], reply["request_id"]) == ("pending", "r")
    reading = scripts.read(SESSION)
    assert reading["owner"] == "user-1"
    [(request_id, event, _, seq)] = reading["pending"]
    assert (request_id, seq) == ("r", 1)
    assert {name: event["data"][name] for name in request} == request
    [entry] = scripts.entries(SESSION)
    assert entry[1]["r"] == "r"
    state, stored, *_ = scripts.call("request", SESSION, "r")
    assert (state, json.loads(stored)) == ("pending", event["data"])


def test_further_members_of_the_envelope_stay(scripts: Scripts) -> None:
    scripts.publish(
        SESSION,
        '{ "trace" : "a,}\\"{" , "type":"permission_request", "data" : {"tool_name":"x"} , "more":[{}] }',
    )
    [event] = scripts.events(SESSION)
    assert (event["trace"], event["more"], event["data"]["tool_name"]) == ('a,}"{', [{}], "x")
    assert scripts.read(SESSION)["pending"][0][1] == {name: event[name] for name in event if name != "id"}


class TestAskedAgain:
    """The same request id: the same request, or a refusal."""

    def test_with_the_same_tool_and_arguments_it_is_the_same_pending_request(self, scripts: Scripts) -> None:
        first = scripts.ask(SESSION, **SAME)
        again = scripts.ask(SESSION, **SAME, description="worded anew", expires_in=5)
        assert again == first
        assert len(scripts.events(SESSION)) == 1

    @pytest.mark.parametrize(
        "changed",
        [
            {"parameters": {"cmd": "rm"}},
            {"parameters": {}},
            {"tool_name": "python"},
            {"args_digest": "sha256:0"},
        ],
        ids=json.dumps,
    )
    @pytest.mark.parametrize("settled", [False, True])
    def test_with_another_tool_or_arguments_it_is_refused_and_nothing_changes(
        self, scripts: Scripts, changed: dict[str, Any], settled: bool
    ) -> None:
        scripts.ask(SESSION, **SAME)
        if settled:
            scripts.answer(SESSION, "r")
        before = scripts.everything(SESSION)
        with pytest.raises(Refused) as refused:
            scripts.ask(SESSION, **SAME | changed)
        assert refused.value.code == "SSE_REQUEST_MISMATCH"
        assert scripts.everything(SESSION) == before

    def test_parameters_missing_and_empty_are_different_arguments(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r")
        with pytest.raises(Refused):
            scripts.ask(SESSION, request_id="r", parameters={})

    def test_the_askers_digest_decides_where_there_is_one(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r", parameters={"a": 1, "b": 2}, args_digest="sha256:ab")
        again = scripts.ask(SESSION, request_id="r", parameters={"b": 2, "a": 1}, args_digest="sha256:ab")
        assert again["status"] == "pending"

    def test_without_one_the_raw_bytes_of_the_parameters_do(self, scripts: Scripts) -> None:
        scripts.call("ask", SESSION, '{"request_id":"r","tool_name":"x","parameters": {"a" :1}}')
        digest = scripts.call("request", SESSION, "r")[6]
        assert digest == "sha1:" + hashlib.sha1(b'{"a" :1}').hexdigest()
        scripts.call("ask", SESSION, '{"parameters":{"a" :1},"tool_name":"x","request_id":"r","title":"t"}')
        with pytest.raises(Refused):
            scripts.call("ask", SESSION, '{"request_id":"r","tool_name":"x","parameters":{"a":1}}')

    @pytest.mark.parametrize("approved", [True, False])
    def test_after_the_answer_it_returns_the_stored_decision(self, scripts: Scripts, approved: bool) -> None:
        scripts.ask(SESSION, **SAME)
        _, decision, _ = scripts.answer(SESSION, "r", approved=approved, reason="because")
        scripts.call("claim", SESSION, "r", "w")
        assert scripts.ask(SESSION, **SAME) == {"status": "decided", "decision": decision}
        assert scripts.standing("decision", SESSION, "r") == {"status": "decided", "decision": decision}

    def test_past_its_deadline_it_returns_that_it_expired(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, **SAME)
        scripts.make_due(SESSION, "r")
        assert scripts.ask(SESSION, **SAME)["decision"]["outcome"] == "expired"

    def test_an_absolute_deadline_that_has_passed_does_not_hide_the_decision(self, scripts: Scripts) -> None:
        deadline = iso(1)
        scripts.ask(SESSION, **SAME, expires_at=deadline)
        scripts.answer(SESSION, "r")
        time.sleep(1.05)
        assert scripts.ask(SESSION, **SAME, expires_at=deadline)["decision"]["outcome"] == "approved"


def test_another_owner_may_not_ask(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "x"}, "", "user-1")
    before = scripts.everything(SESSION)
    with pytest.raises(Refused) as refused:
        scripts.ask(SESSION, "user-2")
    assert refused.value.code == "SSE_OWNER_CONFLICT"
    assert scripts.everything(SESSION) == before


def test_asking_reopens_an_ended_session(scripts: Scripts) -> None:
    scripts.call("end", SESSION)
    scripts.ask(SESSION)
    assert scripts.read(SESSION)["ended"] == ""


def test_the_101st_open_request_is_refused_until_one_is_settled(scripts: Scripts) -> None:
    for number in range(100):
        scripts.ask(SESSION, request_id=f"r-{number}")
    with pytest.raises(Refused) as refused:
        scripts.ask(SESSION, request_id="one-more")
    assert refused.value.code == "SSE_TOO_MANY_PENDING"
    assert scripts.ask(SESSION, request_id="r-5")["status"] == "pending", "one asked before is no further one"
    scripts.standing("cancel", SESSION, "r-7")
    assert scripts.ask(SESSION, request_id="one-more")["status"] == "pending"


def test_asking_forgets_decisions_older_than_an_hour_twenty_at_a_time(scripts: Scripts) -> None:
    for number in range(45):
        scripts.ask(SESSION, request_id=f"r-{number}")
        scripts.answer(SESSION, f"r-{number}")
    seconds, _ = scripts.client.time()
    settled = scripts.keys.session_key(SESSION) + ":settled"
    for number in range(44):
        scripts.client.zadd(settled, {f"r-{number}": (seconds - 3601) * 1000 + number})
    fields_each = scripts.client.hlen(scripts.keys.permissions(SESSION)) // 45
    left = []
    for number in range(4):
        scripts.ask(SESSION, request_id=f"next-{number}")
        left.append(scripts.client.zcard(settled))
    assert left == [25, 5, 1, 1]
    assert scripts.client.hlen(scripts.keys.permissions(SESSION)) <= 5 * fields_each
    with pytest.raises(Refused) as refused:
        scripts.standing("decision", SESSION, "r-0")
    assert refused.value.code == "SSE_UNKNOWN_REQUEST"
    assert scripts.standing("decision", SESSION, "r-44")["status"] == "decided"


@pytest.mark.parametrize("call", ["decision", "request", "cancel", "claim"])
def test_a_request_nobody_asked_is_unknown(scripts: Scripts, call: str) -> None:
    scripts.publish(SESSION, {"type": "x"})
    with pytest.raises(Refused) as refused:
        scripts.call(call, SESSION, "r", *(["w"] if call == "claim" else []))
    assert refused.value.code == "SSE_UNKNOWN_REQUEST"


@pytest.mark.parametrize("call", ["decision", "request", "cancel", "claim"])
@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, ".."])
def test_a_malformed_request_id_is_refused(scripts: Scripts, call: str, request_id: str) -> None:
    with pytest.raises(Refused) as refused:
        scripts.call(call, SESSION, request_id, *(["w"] if call == "claim" else []))
    assert refused.value.code == "SSE_BAD_REQUEST"


def test_a_large_request_of_many_strings_is_scanned_in_time(scripts: Scripts) -> None:
    parameters = {"text": ['a "quoted" \\ string {[' for _ in range(6_000)]}
    began = time.monotonic()
    scripts.ask(SESSION, request_id="r", parameters=parameters)
    assert time.monotonic() - began < 2
    _, stored, *_ = scripts.call("request", SESSION, "r")
    assert json.loads(stored)["parameters"] == parameters
