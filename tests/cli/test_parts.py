"""The pure parts of `tail`: the stream's parser, and how events and requests are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click import unstyle
from hypothesis import given
from hypothesis import strategies as st

from sse_gateway.cli.answering import read_answer
from sse_gateway.cli.sse import EventParser, ServerEvent
from sse_gateway.cli.telling import columns, event_line, request_box, wrap
from sse_gateway.cli.token import read_ttl
from sse_gateway.core.wire import encode_event

# The stream's bytes → (event, data, last event id) of what is dispatched; mostly from the specification.
STREAMS = {
    "data: a\n\n": [("message", "a", "")],
    "data: YHOO\ndata: +2\ndata: 10\n\n": [("message", "YHOO\n+2\n10", "")],
    ": comment\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n": [
        ("message", "first", "1"),
        ("message", "second", ""),
        ("message", " third", ""),
    ],
    "data\n\ndata\ndata\n\ndata:": [("message", "", ""), ("message", "\n", "")],
    "data:test\n\ndata: test\n\n": [("message", "test", ""), ("message", "test", "")],
    "data: a\r\n\r\ndata: b\r\rdata: c\n\n": [
        ("message", "a", ""),
        ("message", "b", ""),
        ("message", "c", ""),
    ],
    "\ufeffevent: x\ndata: a\n\ndata: b\n\n": [("x", "a", ""), ("message", "b", "")],
    "id: 5\n\ndata: a\n\n": [("message", "a", "5")],
    "id: a\0b\ndata: a\n\n": [("message", "a", "")],
    "event: only\n\ndata: a\n\n": [("message", "a", "")],
    "retry: 12\ndata: ü世\n\n": [("message", "ü世", "")],
    "data: a:b\nfoo: bar\nDATA: no\n\n": [("message", "a:b", "")],
    "data: no end\n": [],
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_streams_are_parsed_alike_in_pieces_of_any_size(stream: str, piece: int) -> None:
    parser = EventParser()
    data = stream.encode()
    found = [event for at in range(0, len(data), piece) for event in parser.feed(data[at : at + piece])]
    assert [(event.event, event.data, event.id) for event in found] == STREAMS[stream]


def test_retry_and_the_last_id_are_kept_for_the_next_connection() -> None:
    parser = EventParser(last_id="e-1")
    parser.feed(b"retry: 2500\nretry: soon\n\n")
    assert (parser.retry_ms, parser.last_id) == (2500, "e-1")
    parser.feed(b"id: e-2\ndata: x\n")
    assert parser.last_id == "e-1", "an event that was cut off does not move the position"
    parser.feed(b"\n")
    assert parser.last_id == "e-2"


@given(st.text(), st.integers(1, 7))
def test_what_our_encoder_writes_comes_back(text: str, piece: int) -> None:
    wire = encode_event(json.dumps(text).encode(), id="e-1", event="note")
    parser = EventParser()
    found = [event for at in range(0, len(wire), piece) for event in parser.feed(wire[at : at + piece])]
    assert [(event.event, json.loads(event.data), event.id) for event in found] == [("note", text, "e-1")]


def test_a_line_without_end_is_given_up() -> None:
    parser = EventParser(max_line_chars=100)
    with pytest.raises(ValueError, match="too long"):
        parser.feed(b"data: " + b"x" * 101)


def line(type_: str, data: Any, width: int = 100) -> str:
    envelope = {"type": type_, "data": data, "timestamp": "2026-01-02T03:04:05.678Z"}
    return unstyle(event_line(ServerEvent("message", json.dumps(envelope), ""), width=width))


@pytest.mark.parametrize(
    ("type_", "data", "told"),
    [
        ("tool_status", {"tool_name": "bash", "status": "executing", "tool_call_id": "c"}, "bash executing"),
        (
            "tool_status",
            {"status": "executing", "parameters": {"a": 1}, "x": 2},
            'executing {"a": 1} {"x": 2}',
        ),
        ("tool_result", {"tool_name": "bash", "result": "16 passed"}, "bash ok 16 passed"),
        ("tool_result", {"success": False}, "failed"),
        ("tool_result", None, "ok"),
        ("permission_request", {"tool_name": "rm", "parameters": {"path": "/"}}, 'rm {"path": "/"}'),
        (
            "permission_cleared",
            {"outcome": "denied", "decided_by": "ann", "reason": "no"},
            "denied by ann: no",
        ),
        ("permission_cleared", {"outcome": "expired"}, "expired"),
        ("own.type", [1, "x"], '[1, "x"]'),
        ("own.type", "a\nb", "a\\nb"),
    ],
)
def test_events_in_words(type_: str, data: Any, told: str) -> None:
    assert line(type_, data)[13:].split(None, 1) == [type_, told]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.integers(60, 200))
def test_no_event_breaks_the_line_or_the_width(data: Any, width: int) -> None:
    for type_ in ("tool_status", "tool_result", "permission_request", "permission_cleared", "x" * 64):
        told = line(type_, {"status": data, "parameters": data, "outcome": data, "result": data}, width)
        assert columns(told) <= width
        assert told.replace("\u3000", "").isprintable()


@given(st.text(max_size=300), st.integers(10, 120))
def test_a_request_is_told_whole_in_an_even_frame(text: str, width: int) -> None:
    request = {
        "request_id": text,
        "tool_name": text,
        "parameters": {text: text},
        "description": text,
        "risk_level": text,
    }
    box = request_box(request, width=width)
    assert all(unstyle(row).replace("\u3000", "").isprintable() for row in box)
    assert len({columns(row) for row in box}) == 1


def test_a_wide_text_is_wrapped_by_columns_and_keeps_its_colours() -> None:
    assert wrap("世界ab", 3) == ["世", "界a", "b"]
    assert wrap("\x1b[1mabcd\x1b[0mef", 3) == ["\x1b[1mabc\x1b[0m", "\x1b[1md\x1b[0mef"]


REQUEST = {
    "request_id": "r1",
    "args_digest": "sha256:x",
    "options": [{"id": "2", "kind": "allow_session"}, {"id": "r", "kind": "reject_once"}],
}


@pytest.mark.parametrize(
    ("typed", "body"),
    [
        ("y", {"approved": True}),
        (" Yes  go on ", {"approved": True, "reason": "go on"}),
        ("n", {"approved": False}),
        ("no way", {"approved": False, "reason": "way"}),
        ("1", {"approved": True, "option_id": "2"}),
        ("2 because", {"approved": False, "option_id": "r", "reason": "because"}),
        ("r", None),
        ("", None),
        ("3", None),
        ("yn", None),
        ("approve it", {"approved": True, "reason": "it"}),
    ],
)
def test_what_a_typed_line_means(typed: str, body: dict[str, Any] | None) -> None:
    expected = None if body is None else body | {"request_id": "r1", "args_digest": "sha256:x"}
    assert read_answer(typed, REQUEST) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("8H", 28800), ("1d2h", 93600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert read_ttl(text) == seconds
