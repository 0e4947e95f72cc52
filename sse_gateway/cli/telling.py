"""Tell events and permission requests in a terminal's words: pure text, nothing is printed here.

Everything that came from outside passes `visible`, and what was escaped stands out in reverse colours: a
person who approves must see what is really there. Lines of events are cut to the width; a permission request
never is.
"""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime
from typing import Any

import click

from sse_gateway.cli.sse import ServerEvent, read_object
from sse_gateway.core.visible import visible

TYPE_WIDTH = 18
MIN_WIDTH = 56
MAX_RISK_COLUMNS = 10

_RISKS = {"low": "green", "medium": "yellow", "high": "red"}
_OUTCOMES = {"approved": "green", "denied": "red", "expired": "yellow", "cancelled": "yellow"}
_PLAIN = "\x1b[0m"
_QUIET = {"ready", "skipped", "heartbeat"}


def show(text: Any) -> str:
    """Return foreign text on one line, with hidden characters written out in reverse."""
    return visible(text if isinstance(text, str) else compact(text), before="\x1b[7m", after="\x1b[27m")


def compact(value: Any) -> str:
    """Write a JSON value on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def event_line(event: ServerEvent, *, width: int) -> str:
    """Tell one event in one line: time, type, summary."""
    if event.event == "message":
        envelope = read_object(event.data)
        kind, data, moment = str(envelope.get("type", "?")), envelope.get("data"), envelope.get("timestamp")
    else:
        envelope = read_object(event.data)
        kind, data, moment = event.event, envelope, envelope.get("server_time") or envelope.get("timestamp")
        if kind == "settled_request":
            data, moment = envelope.get("data"), envelope.get("timestamp")
    members = data if isinstance(data, dict) else {}
    colour, summary = _summary(kind, members, data)
    head = f"{click.style(clock(moment), dim=True)} "
    head += click.style(f"{_cut(show(kind), TYPE_WIDTH):<{TYPE_WIDTH}}", fg=colour, dim=kind in _QUIET) + " "
    return head + _cut(summary, width - 13 - TYPE_WIDTH - 1)


def clock(moment: Any) -> str:
    """Return an event's time of day where the reader is; the present for one that tells none."""
    try:
        when = datetime.fromisoformat(str(moment)).astimezone()
    except (ValueError, OverflowError):
        when = datetime.now().astimezone()
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03d}"


def _summary(kind: str, data: dict[str, Any], whole: Any) -> tuple[str | None, str]:
    match kind:
        case "tool_status":
            return "cyan", _named(data, "tool_name", "status", "message")
        case "tool_result":
            failed = data.get("success") is False or bool(data.get("error"))
            result = (
                data.get("error") if failed and data.get("error") else data.get("result", data.get("output"))
            )
            tool = f"{show(data['tool_name'])} " if data.get("tool_name") else ""
            text = "" if result is None else f" {show(result)}"
            return "red" if failed else "green", f"{tool}{'failed' if failed else 'ok'}{text}"
        case "permission_request" | "settled_request":
            return "yellow", f"{show(data.get('tool_name', '?'))} {show(data.get('parameters', {}))}"
        case "permission_cleared":
            outcome = str(data.get("outcome", "?"))
            by = f" by {show(data['decided_by'])}" if data.get("decided_by") else ""
            why = f": {show(data['reason'])}" if data.get("reason") else ""
            return _OUTCOMES.get(outcome), f"{show(outcome)}{by}{why}"
        case "ready":
            return None, f"live at {show(data.get('cursor'))}, {show(data.get('replayed', 0))} replayed"
        case "stream_reset":
            return "magenta", f"{show(data.get('reason'))}: what follows does not continue what came before"
        case "closing":
            return "magenta", show(data.get("reason", "?"))
        case "permission_expiring" | "token_expiring":
            return "yellow", f"{show(data.get('request_id', ''))} at {clock(data.get('expires_at'))}".strip()
        case "skipped":
            return None, f"{show(data.get('transient'))} transient events while this stream was behind"
        case _:
            return "blue", show(whole)


def _named(data: dict[str, Any], *names: str) -> str:
    told = [show(data[name]) for name in names if data.get(name) not in (None, "")]
    rest = {name: value for name, value in data.items() if name not in (*names, "tool_call_id")}
    parameters = rest.pop("parameters", None)
    told += [show(value) for value in (parameters, rest) if value]
    return " ".join(told)


def request_box(
    request: dict[str, Any], *, width: int, number: int = 1, count: int = 1, by_id: bool = False
) -> list[str]:
    """Tell a permission request in full, in a frame as wide as the terminal allows.

    An option stands under the name that chooses it: its number, or `by_id` its id.
    """
    width = max(MIN_WIDTH, min(width, 100))
    risk = str(request.get("risk_level", "?"))
    colour = _RISKS.get(risk, "yellow")
    which = f" {number} of {count}" if count > 1 else ""
    title = f" permission request{which} · {_cut(show(risk), MAX_RISK_COLUMNS)} risk "
    lines = [_edge("╭", title, "╮", width, colour)]
    for text in _request_text(request, by_id=by_id):
        for piece in wrap(text, width - 4):
            padding = " " * (width - 4 - columns(piece))
            lines.append(f"{click.style('│', fg=colour)} {piece}{padding} {click.style('│', fg=colour)}")
    lines.append(_edge("╰", "", "╯", width, colour))
    return lines


def _request_text(request: dict[str, Any], *, by_id: bool) -> list[str]:
    text = [click.style(show(request.get("tool_name", "?")), bold=True)]
    text += [show(request["title"])] if request.get("title") else []
    text += [show(line) for line in _text_of(request.get("description")).split("\n") if line]
    parameters = request.get("parameters", {})
    # Indented JSON is how people read arguments; its line ends are ours, so each line is shown by itself.
    text += [show(line) for line in json.dumps(parameters, ensure_ascii=False, indent=2).splitlines()]
    for position, option in enumerate(request_options(request), 1):
        name = f"--option {show(option['id'])}:" if by_id else f"{position})"
        text.append(f"{name} {show(option.get('label', option['id']))} [{show(option.get('kind', '?'))}]")
    identity = f"{show(request.get('request_id', '?'))} · until {clock(request.get('expires_at'))}"
    return [*text, click.style(identity, dim=True)]


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else compact(value)


def request_options(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers a request offers beside yes and no."""
    options = request.get("options")
    if not isinstance(options, list):
        return []
    return [option for option in options if isinstance(option, dict) and isinstance(option.get("id"), str)]


def _edge(left: str, title: str, right: str, width: int, colour: str) -> str:
    line = "─" * (width - 2 - columns(title))
    return click.style(f"{left}{title}{line}{right}", fg=colour)


def columns(text: str) -> int:
    """Return how many columns a text takes; colours take none, wide characters two."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    return sum(_columns(character) for character in plain)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Mn":
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def wrap(text: str, width: int) -> list[str]:
    """Break a text into pieces of at most `width` columns; colours that are on go on in the next piece."""
    pieces = [""]
    used = 0
    active: list[str] = []
    for part in _parts(text):
        if part.startswith("\x1b"):
            active = [] if part == _PLAIN else [*active, part]
        wide = 0 if part.startswith("\x1b") else _columns(part)
        if used + wide > width:
            pieces[-1] += _PLAIN if active else ""
            pieces.append("".join(active))
            used = 0
        pieces[-1] += part
        used += wide
    pieces[-1] += _PLAIN if active else ""
    return pieces


def _parts(text: str) -> list[str]:
    """Split a text into its characters and its colour codes."""
    parts = []
    position = 0
    while position < len(text):
        end = text.find("m", position) + 1 if text[position] == "\x1b" else position + 1
        parts.append(text[position : end or len(text)])
        position = end or len(text)
    return parts


def _cut(text: str, width: int) -> str:
    if columns(text) <= width:
        return text
    pieces = wrap(text, max(width - 1, 1))
    return f"{pieces[0]}…"
