"""Any JSON comes back as it was published, and what strict JSON refuses is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_strict
from tests.store.scripts import Refused, Scripts
from tests.support.modes import scaled
from tests.support.servers import RedisProcess

pytestmark = pytest.mark.scaled

SESSION = "s-1"
SPLICED = {"id", "session_id", "timestamp"}
several = settings(
    max_examples=scaled(30, 2000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)
types = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True).filter(
    lambda name: name not in ("heartbeat", "permission_cleared", "permission_request")
)
events = st.builds(
    lambda members, type_: members | {"type": type_},
    st.dictionaries(texts.filter(lambda name: name not in SPLICED), values, max_size=5),
    types,
)
layouts = st.sampled_from(
    [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"indent": "\t"}]
)
# What hands and generators get wrong: pieces of JSON and of almost JSON, in any order.
PIECES = [
    "{", "}", "[", "]", ":", ",", '"', "\\", '\\"', "\\u", "\\u00e9", "\\ud83d", "\\ude00", "0", "1", "-1",
    "01", "1.", ".5", "-.", "e", "E", "+", "-", "1e5", "-0", "0x1", "NaN", "nan", "inf", "Infinity", "true",
    "false", "null", "tru", "nul", '"a"', '"b":', '""', "'a'", "//", "\x00", "\x1f", "\x7f", "\t", "\n", "é",
    "\ufeff", "1.5", ".", "..", '"1. "', '"-.5"', "a", " ", "  ",
]  # fmt: skip
fragments = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def scripts(request: pytest.FixtureRequest) -> Scripts:
    """The scripts on a server that is not emptied between examples: they are sessions of a second."""
    server: RedisProcess = request.getfixturevalue(f"{request.param}_process")
    server.flush()
    return Scripts(server)


@several
@given(event=events, layout=layouts)
def test_any_event_comes_back_equal_apart_from_the_members_that_were_added(
    scripts: Scripts, event: dict[str, Any], layout: dict[str, Any]
) -> None:
    scripts.client.delete(scripts.keys.meta(SESSION))
    event_id = scripts.publish(SESSION, json.dumps(event, **layout))
    [raw] = scripts.read(SESSION, mode="all")["raw"]
    kept = json.loads(raw)
    assert {name: value for name, value in kept.items() if name not in SPLICED} == event
    assert (kept["id"], kept["session_id"]) == (event_id, SESSION)
    assert not any(ord(character) < 32 for character in raw)


@several
@given(data=fragments)
def test_what_strict_json_refuses_the_script_refuses_too(scripts: Scripts, data: str) -> None:
    text = '{"type":"x","data":' + data + "}"
    one_line = "".join(character if ord(character) > 31 else " " for character in text)
    try:
        loads_strict(one_line.encode())
    except GatewayError:
        with pytest.raises(Refused, match="SSE_"):
            scripts.publish(SESSION, text)


@several
@given(text=fragments)
def test_what_strict_json_takes_the_script_takes_too(scripts: Scripts, text: str) -> None:
    one_line = "".join(character if ord(character) > 31 else " " for character in text)
    try:
        loads_strict(one_line.encode())
    except GatewayError:
        return
    scripts.publish(SESSION, '{"type":"x","data":' + text + "}")


requests = st.fixed_dictionaries(
    {"tool_name": texts.filter(lambda name: 0 < len(name.encode()) <= 256)},
    optional={
        "parameters": st.dictionaries(texts, values, max_size=4),
        "risk_level": st.sampled_from(["low", "medium", "high", None]),
        "title": texts | st.none(),
        "timestamp": st.just("2026-01-01T00:00:00.000Z") | st.none(),
        "expires_in": st.floats(60, 80_000) | st.none(),
        "extra": values,
    },
)


@several
@given(
    request=requests,
    layout=layouts,
    envelope=st.dictionaries(texts, values, max_size=3),
    wrapped=st.booleans(),
)
def test_any_request_comes_back_equal_apart_from_the_members_that_were_added(
    scripts: Scripts,
    request: dict[str, Any],
    layout: dict[str, Any],
    envelope: dict[str, Any],
    wrapped: bool,
) -> None:
    scripts.client.flushdb()
    if wrapped:
        rest = {name: value for name, value in envelope.items() if name not in SPLICED | {"type", "data"}}
        event = rest | {"type": "permission_request", "data": request}
        reply = scripts.publish(SESSION, json.dumps(event, **layout))
    else:
        reply = scripts.call("ask", SESSION, json.dumps(request, **layout), "")
    request_id = json.loads(reply)["request_id"]
    _, kept, *_ = scripts.call("request", SESSION, request_id)
    stored = json.loads(kept)
    assert stored["request_id"] == request_id
    assert stored["status"] == "pending"
    given = {name: value for name, value in request.items() if value is not None}
    added = {"request_id", "expires_at", "status", "timestamp"}
    left = {name: value for name, value in stored.items() if name in given or name not in added}
    assert {name: value for name, value in left.items() if name in given or value is not None} == given
    [event_kept] = scripts.events(SESSION)
    assert event_kept["data"] == stored
    if wrapped:
        assert {name: event_kept[name] for name in rest} == rest
