"""Frames are read back by an independent parser exactly as they were meant."""

from __future__ import annotations

import json

import httpx
import httpx_sse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_gateway.core.events import dumps
from sse_gateway.core.wire import Frame, encode_durable, encode_event, encode_retry
from tests.support.sse import Event, EventParser

LARGE = "é" * (128 * 1024)


def parse(body: bytes, step: int | None = None) -> list[Event]:
    """Feed a stream whole, or `step` bytes at a time."""
    parser = EventParser()
    step = step or max(1, len(body))
    events = [event for at in range(0, len(body), step) for event in parser.feed(body[at : at + step])]
    assert not [complaint for complaint in parser.complaints if "retry" in complaint]
    return events


CASES = [
    ("one line", b"hello", "hello"),
    ("empty data", b"", ""),
    ("two lines", b"a\nb", "a\nb"),
    ("line ends of Windows", b"a\r\nb", "a\nb"),
    ("line ends of old Macs", b"a\rb", "a\nb"),
    ("LF CR is two line ends", b"a\n\rb", "a\n\nb"),
    ("trailing line end", b"a\n", "a\n"),
    ("only line ends", b"\n\n", "\n\n"),
    ("leading space is kept", b" a", " a"),
    ("colon first", b":not a comment", ":not a comment"),
    ("looks like a field", b"id: 7\nevent: x\ndata: y", "id: 7\nevent: x\ndata: y"),
    ("NUL", b"a\0b", "a\0b"),
    ("beyond ASCII", "żółć 🙂 \u2028 \ufeff".encode(), "żółć 🙂 \u2028 \ufeff"),
    ("pretty-printed JSON", json.dumps({"a": [1, {"b": 2}]}, indent=2).encode(), '{\n  "a": [\n    1,\n'
     '    {\n      "b": 2\n    }\n  ]\n}'),
    ("256 KiB", LARGE.encode(), LARGE),
]  # fmt: skip


@pytest.mark.parametrize("step", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_data_arrives_as_the_standard_has_it(data: bytes, expected: str, step: int | None) -> None:
    """Every line end starts a new data line and arrives as a single LF; nothing else changes."""
    if step and len(data) > 10_000:
        step = 1021
    (event,) = parse(encode_event(data), step)
    assert event == Event("message", expected, "", None)


def test_all_fields_arrive() -> None:
    """Name, id and retry of one event arrive with it."""
    parser = EventParser()
    (event,) = parser.feed(encode_event(b"{}", id="0123456789-7", event="ready", retry=1500))
    assert event == Event("ready", "{}", "0123456789-7", "0123456789-7")
    assert parser.retry == 1500


def test_a_retry_line_of_its_own_dispatches_nothing() -> None:
    """The first line of a stream sets the delay and is no event."""
    parser = EventParser()
    assert parser.feed(encode_retry(3000)) == []
    assert parser.retry == 3000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "a\nb"}, "id"),
        ({"id": "a\rb"}, "id"),
        ({"id": "a\0b"}, "id"),
        ({"event": "a\nb"}, "name"),
        ({"event": "a\rb"}, "name"),
        ({"retry": -1}, "retry"),
    ],
)
def test_what_the_standard_cannot_carry_is_refused(fields: dict[str, object], message: str) -> None:
    """A field that would become another field is an error, never an injection."""
    with pytest.raises(ValueError, match=message):
        encode_event(b"", **fields)  # type: ignore[arg-type]


def test_the_fast_way_writes_what_the_general_one_does() -> None:
    """A durable event read by the standard's rules has its id and data."""
    assert parse(encode_durable(b"00000000aa-3", b'{"x":1}')) == parse(
        encode_event(b'{"x":1}', id="00000000aa-3")
    )


def test_a_chunk_is_the_body_behind_its_length() -> None:
    """The chunked form is one chunk of HTTP/1.1 with the same bytes."""
    frame = Frame(b"data: x\n\n")
    assert frame.chunk == b"9\r\ndata: x\n\n\r\n"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(
    st.lists(st.dictionaries(st.text(), json_values, max_size=5), min_size=1, max_size=4), st.integers(1, 50)
)
def test_any_json_event_comes_back_equal(events: list[dict[str, object]], step: int) -> None:
    """Whatever JSON is framed, two parsers nobody here shares code with read it back equal."""
    body = b"".join(encode_event(dumps(event)) for event in events)
    assert [event.json for event in parse(body, step)] == events
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    assert [json.loads(sse.data) for sse in httpx_sse.EventSource(response).iter_sse()] == events
