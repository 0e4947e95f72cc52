"""Events that come without the script are checked as strictly as the script's, and completed."""

from __future__ import annotations

import json
import time

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import check_plain, dumps, iso_ms, loads_strict, member_place
from sse_gateway.core.keys import Keys, check_session_id

MAX = 256 * 1024


def test_missing_members_are_spliced_and_the_rest_is_untouched() -> None:
    """The publisher's own bytes go out as they came: no re-encoding changes `[]` or a large number."""
    event = check_plain(b'{"type":"x","data":{"list":[],"big":12345678901234567890.0}}', "s1", max_bytes=MAX)
    assert event.data.endswith(b'"type":"x","data":{"list":[],"big":12345678901234567890.0}}')
    members = json.loads(event.data)
    assert members["session_id"] == "s1"
    assert members["timestamp"].endswith("Z")


def test_what_is_there_is_not_spliced_twice() -> None:
    """An envelope that is complete goes out byte for byte."""
    whole = b'{"session_id":"s1","type":"x","data":1,"timestamp":"2026-01-01T00:00:00.000Z"}'
    assert check_plain(whole, "s1", max_bytes=MAX).data == whole


def test_pretty_printed_json_becomes_one_line() -> None:
    """Line ends and tabs between members become spaces, so one data line carries the event."""
    event = check_plain(b'\n{\r\n\t"type": "x",\n  "data": {}\n}\n', "s1", max_bytes=MAX)
    assert b"\n" not in event.data
    assert json.loads(event.data)["type"] == "x"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed_json"),
        (b"not json", "malformed_json"),
        (b'{"type":"x","data":NaN}', "malformed_json"),
        (b'{"type":"x","data":Infinity}', "malformed_json"),
        (b'{"type":"x","data":01}', "malformed_json"),
        (b'{"type":"x"} trailing', "malformed_json"),
        (b'{"type":"x","data":"\xff"}', "malformed_json"),
        (b"\xef\xbb\xbf{}", "malformed_json"),
        (b'{"type":"x","data":' + b"[" * 65 + b"]" * 65 + b"}", "malformed_json"),
        (b"[" * 100_000, "malformed_json"),
        (b'{"type":"x","n":' + b"9" * 5000 + b"}", "malformed_json"),
        (b'{"type":"x","data":"\\ud83d"}', "malformed_json"),
        (b'{"type":"x","\\uDE00":1}', "malformed_json"),
        (b"[]", "invalid_event"),
        (b'"text"', "invalid_event"),
        (b"{}", "invalid_event"),
        (b'{"type":1}', "invalid_event"),
        (b'{"type":""}', "invalid_event"),
        (b'{"type":"a b"}', "invalid_event"),
        (b'{"type":"' + b"x" * 65 + b'"}', "invalid_event"),
        (b'{"type":"heartbeat"}', "invalid_event"),
        (b'{"type":"permission_cleared","data":{}}', "invalid_event"),
        (b'{"id":"0123456789-1","type":"x"}', "invalid_event"),
        (b'{"type":"x","session_id":"other"}', "invalid_event"),
        (b'{"type":"x","data":"' + b"a" * MAX + b'"}', "payload_too_large"),
    ],
)
def test_what_must_not_reach_a_browser_is_refused(data: bytes, code: str) -> None:
    """Each fault has its code, and the message says what is wrong."""
    with pytest.raises(GatewayError) as refused:
        check_plain(data, "s1", max_bytes=MAX)
    assert refused.value.code == code
    assert refused.value.message


def test_a_surrogate_pair_is_a_character() -> None:
    """Only half of one is refused: ASCII-only encoders write every emoji as a pair."""
    assert loads_strict(b'["\\ud83d\\ude00",1e400]')[0] == "\U0001f600"
    for half in (b'"\\ud83d"', b'{"\\uDE00":1}'):
        with pytest.raises(GatewayError, match="half of a surrogate pair"):
            loads_strict(half)


def test_sixty_four_levels_are_allowed() -> None:
    """The bound of the depth is inclusive."""
    loads_strict(b"[" * 64 + b"]" * 64)
    with pytest.raises(GatewayError):
        loads_strict(b"[" * 65 + b"]" * 65)


def test_a_member_named_twice_is_refused_where_it_matters() -> None:
    """Two readers of an answer could each take another of two equal members."""
    with pytest.raises(GatewayError, match="twice"):
        loads_strict(b'{"approved":false,"approved":true}', unique_keys=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"data":{"a":1}}', b'{"a":1}'),
        (b'{ "type" : "x" , "data" :  [1, 2] }', b"[1, 2]"),
        (b'{"data":1,"data":"\\"data\\":2"}', b'"\\"data\\":2"'),
        (b'{"x":{"data":1}}', None),
        ('{"é":"data","data":"ü"}'.encode(), '"ü"'.encode()),
        (b"{}", None),
    ],
)
def test_a_members_own_bytes_are_found(line: bytes, expected: bytes | None) -> None:
    """Only the top level counts, and the last of two equal names, as parsers have it."""
    place = member_place(line, "data")
    assert (line[place] if place is not None else None) == expected


def test_a_members_place_is_found_in_time_that_grows_with_the_line() -> None:
    """Attack: many members, and one character beyond ASCII, so that each look copies the line."""

    def seconds(members: int) -> float:
        line = b"{" + b'"a":1,' * members + '"é😀":1,"data":{}}'.encode()
        took = []
        for _ in range(5):
            began_at = time.process_time()
            member_place(line, "data")
            took.append(time.process_time() - began_at)
        return min(took)

    # Four times the length took sixteen times as long.
    assert seconds(40_000) < 8 * seconds(10_000)


def test_times_are_what_browsers_read() -> None:
    """ISO-8601 in UTC with milliseconds and Z."""
    assert iso_ms(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"


def test_a_lone_surrogate_is_written_escaped() -> None:
    """It has no UTF-8 form, and must not become an error in the middle of an answer."""
    assert dumps({"a": "\ud800é"}) == b'{"a":"\\ud800\\u00e9"}'


@pytest.mark.parametrize("text", ["0123456789-0", "abcdef0123-999999999999999"])
def test_a_cursor_reads_and_writes_itself(text: str) -> None:
    """Parsing and writing are each other's inverse."""
    cursor = Cursor.parse(text)
    assert cursor is not None
    assert str(cursor) == text


@pytest.mark.parametrize(
    "text", ["", "1", "0123456789", "0123456789-", "0123456789-x", "ABCDEF0123-1", "012345678-1",
             "0123456789-1234567890123456", " 0123456789-1", "0123456789-1\n", "0123456789--1",
             "０123456789-1"]
)  # fmt: skip
def test_anything_else_is_no_cursor(text: str) -> None:
    """Malformed is a value, not an exception: it ends in a reset."""
    assert Cursor.parse(text) is None


@pytest.mark.parametrize("text", ["a", "A.b_c:d-1", "x" * 128, "...", "s1"])
def test_session_ids(text: str) -> None:
    """The alphabet leaves out all that means something in a key, a glob, a path or a header."""
    assert check_session_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a b", "a/b", "a{b", "a}b{c", "a*", "a?", "a[", "é", "x" * 129, "a\n", "a\0", "a%20b"],
)
def test_no_session_ids(text: str) -> None:
    """Everything else is refused before it is part of any name."""
    with pytest.raises(GatewayError) as refused:
        check_session_id(text)
    assert refused.value.status == 400


def test_all_keys_of_a_session_share_a_hash_tag() -> None:
    """In Cluster they live in one slot; channels carry the bare id; the namespace stands in front."""
    keys = Keys("prod_")
    assert keys.meta("s1") == "prod_sse:{s1}:meta"
    assert keys.answers_stream("s1") == "prod_permission_responses:{s1}"
    assert keys.events_channel("s1") == "prod_sse_events:s1"
    assert keys.answers_channel("s1") == "prod_permission_response:s1"
    assert keys.function("sse_publish") == "prod_sse_publish"
    with pytest.raises(ValueError, match="namespace"):
        Keys("Prod:")
