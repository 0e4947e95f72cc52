"""Turn Python values into JSON at the edge, and say which value it is that has no JSON form.

A durable event is read again at every replay, so what a browser could not parse is refused here, with the
path to it, and not somewhere behind Redis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sse_gateway.core.errors import GatewayError

_SAFE_INTEGER = 2**53 - 1
_DEEPEST = 62
"""Levels that are left of the scripts' 64 once an event is put around a value."""


def encode(value: Any, what: str, *, max_bytes: int) -> bytes:
    """Return compact UTF-8 JSON; raises `invalid_event` or `payload_too_large`, naming the place."""
    try:
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GatewayError("invalid_event", f"{what}: {_fault(value) or error}.") from None
    if len(data) > max_bytes:
        raise GatewayError(
            "payload_too_large",
            f"{what}: {len(data)} bytes of JSON, and at most {max_bytes} are allowed; "
            "send a shorter form, or a reference to where the rest is.",
        )
    return data


def check_text(text: str, what: str) -> str:
    """Return `text` if it has a UTF-8 form."""
    if not isinstance(text, str):
        raise GatewayError("bad_request", f"{what} must be a string, not {_kind(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GatewayError("bad_request", f"{what} has {_surrogate(error)}.") from None
    return text


def fault_in_parameters(parameters: Any) -> str | None:
    """Return what keeps parameters from being shown, byte for byte, to whoever is to approve them."""
    return _fault(parameters, exact=True)


def _fault(value: Any, path: str = "", *, exact: bool = False, depth: int = 0) -> str | None:
    """Find the first value without a JSON form; with `exact` also numbers a browser would round."""
    place = path or "the value"
    if depth > _DEEPEST:
        return f"{place} is nested too deeply, or contains itself"
    if isinstance(value, Mapping if exact else dict):
        return _fault_in_members(value, path, exact=exact, depth=depth)
    if isinstance(value, list | tuple):
        faults = (
            _fault(inner, f"{path}[{at}]", exact=exact, depth=depth + 1) for at, inner in enumerate(value)
        )
        return next(filter(None, faults), None)
    if isinstance(value, str):
        return _fault_in_text(value, place)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place} is {value}, which JSON does not have"
    if exact and isinstance(value, int) and abs(value) > _SAFE_INTEGER:
        return f"{place} is {value}, which a browser would round: send it as a string"
    if value is not None and not isinstance(value, int | float):
        return f"{place} is of type {_kind(value)}, which has no JSON form: convert it first"
    return None


def _fault_in_members(value: Mapping[Any, Any], path: str, *, exact: bool, depth: int) -> str | None:
    for key, inner in value.items():
        if isinstance(key, str):
            fault = _fault_in_text(key, f"a key of {path or 'the value'}")
        elif exact or not isinstance(key, int | float | None):
            fault = f"{path or 'the value'} has the key {key!r:.60}, and keys must be strings"
        else:
            fault = None
        fault = fault or _fault(inner, f"{path}.{key}" if path else str(key), exact=exact, depth=depth + 1)
        if fault is not None:
            return fault
    return None


def _fault_in_text(text: str, place: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{place} has {_surrogate(error)}"
    return None


def _surrogate(error: UnicodeEncodeError) -> str:
    return f"half of a surrogate pair at character {error.start}, which has no UTF-8 form"


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
