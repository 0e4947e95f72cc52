"""The envelope `{"id"?, "session_id", "type", "data", "timestamp"}`: checking, completing, times.

JSON is checked as strictly as the browsers that will read it: what `JSON.parse` refuses is refused at
the edge, since a durable event is read again at every replay. Events are never re-encoded: members
that are missing are spliced in front of the publisher's own bytes.
"""

from __future__ import annotations

import functools
import json
import re
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from sse_gateway.core.errors import GatewayError

EVENT_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RESERVED_TYPES = frozenset({"permission_cleared", "heartbeat"})
"""Types that only the gateway and its scripts make."""
MAX_DEPTH = 64
MOST_DIGITS = 4000
"""Python converts no integer of more than 4,300, since the time for it grows with their square."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ESCAPING_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_CONTROL_TO_SPACE = bytes.maketrans(bytes(range(32)), b" " * 32)


class PlainEvent(NamedTuple):
    """A checked event that came without an id."""

    type: str
    members: dict[str, Any]
    data: bytes
    """The complete envelope as one line of JSON."""


def iso_ms(ms: int) -> str:
    """Return `ms` (milliseconds since 1970, UTC) as ISO-8601 with milliseconds and `Z`."""
    seconds, millis = divmod(ms, 1000)
    return f"{_iso_second(seconds)}.{millis:03d}Z"


@functools.lru_cache(maxsize=8)
def _iso_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def now_iso() -> str:
    """Return the present as ISO-8601 UTC with milliseconds."""
    return iso_ms(time.time_ns() // 1_000_000)


def dumps(value: Any) -> bytes:
    """Return compact UTF-8 JSON; raises ValueError for NaN and Infinity.

    A lone surrogate has no UTF-8 form: a value that holds one is written with escapes instead.
    """
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return _ESCAPING_ENCODER.encode(value).encode()


def loads_strict(data: bytes, *, unique_keys: bool = False) -> Any:
    """Parse JSON as RFC 8259 has it, else raise `malformed_json` saying where.

    Refused besides syntax errors: NaN and Infinity, other encodings than UTF-8, halves of surrogate pairs
    (they have no UTF-8 form, so not every reader can read them, nor can they be sent on), more than 64
    levels, numbers beyond what Python converts, and with `unique_keys` an object that names a member twice
    (two readers could each take another one).
    """
    try:
        text = data.decode()
        value = (_UNIQUE_DECODER if unique_keys else _DECODER).decode(text)
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _malformed(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _malformed(str(error).partition(";")[0]) from None
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _malformed(f"nested deeper than {MAX_DEPTH} levels")
    if _SURROGATE.search(data) and _has_lone_surrogate(value):
        raise _malformed("half of a surrogate pair")
    return value


def _has_lone_surrogate(value: Any) -> bool:
    try:
        # Not `_ENCODER`: a number such as 1e400 has become infinite by now.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def loads_kept(data: bytes) -> Any:
    """Parse JSON out of Redis that is not ours to refuse any more; raises ValueError only if it is none.

    What is not UTF-8 becomes replacement characters, and an integer of more digits than Python converts an
    infinite number: such an event exists, and must not take the others along.
    """
    try:
        return _LENIENT_DECODER.decode(data.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice in one object")
    return members


# Made once: json.loads would make a decoder for each call that wants anything but its defaults.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_LENIENT_DECODER = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) < MOST_DIGITS else float(digits)
)
_UNIQUE_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_members)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _malformed(why: str) -> GatewayError:
    return GatewayError("malformed_json", f"The body is not valid JSON: {why}.")


def check_plain(data: bytes, session_id: str, *, max_bytes: int) -> PlainEvent:
    """Check an event that was published without the script, and complete its envelope.

    The rules are the script's (REDIS.md, "Publish"), so that both ways accept the same events. Raises
    GatewayError: `payload_too_large`, `malformed_json` or `invalid_event`.
    """
    if len(data) > max_bytes:
        raise GatewayError("payload_too_large", f"An event may have at most {max_bytes} bytes.")
    line = data.translate(_CONTROL_TO_SPACE).strip(b" ")
    members = loads_strict(line)
    if not isinstance(members, dict):
        raise _invalid("An event is a JSON object.")
    type_ = members.get("type")
    if not isinstance(type_, str) or EVENT_TYPE.fullmatch(type_) is None:
        raise _invalid("An event has a 'type' of 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    if type_ in RESERVED_TYPES:
        raise _invalid(f"Events of type {type_} are made by the gateway alone.")
    if "id" in members:
        raise _invalid("An event is given its 'id' by the gateway; publish it without one.")
    if members.get("session_id", session_id) != session_id:
        raise _invalid("The event's 'session_id' names another session than the channel.")
    missing = b""
    if "session_id" not in members:
        missing += b'"session_id":"%b",' % session_id.encode()
    if "timestamp" not in members:
        missing += b'"timestamp":"%b",' % now_iso().encode()
    return PlainEvent(type_, members, b"{" + missing + line[1:] if missing else line)


def event_id(data: bytes) -> bytes:
    """Return the id of a durable event: the script puts it first (REDIS.md, "Publish")."""
    return data[7 : data.index(b'"', 7)]


def member_place(line: bytes, name: str) -> slice | None:
    """Return where a top-level member's value stands in a valid JSON object, or None without such a member.

    Where a member is named twice the last one counts, as it does for the parsers.
    """
    text = line.decode()
    decoder = json.JSONDecoder()
    found = None
    at = text.index("{") + 1
    while (key_at := text.find('"', at)) >= 0:
        key, at = decoder.raw_decode(text, key_at)
        start = text.index(":", at) + 1
        while text[start] == " ":
            start += 1
        _, at = decoder.raw_decode(text, start)
        if key == name:
            found = start, at
    # Bytes are counted, and the text is copied, once and not for each member: there may be thousands.
    return slice(*(len(text[:place].encode()) for place in found)) if found else None


def _invalid(message: str) -> GatewayError:
    return GatewayError("invalid_event", message)
