"""Format redacted records: one JSON object a line for machines, one coloured line for people.

A line is always one line: line ends and control characters of foreign text are escaped, so that nobody can
write a second log line, or drive a terminal, by naming a session cleverly.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from sse_gateway.core.events import iso_ms
from sse_gateway.core.visible import visible
from sse_gateway.logs.redact import fields_of

_OURS = frozenset({"time", "level", "logger", "message", "exception"})
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_PACKAGE = "sse_gateway."
_ENCODER = json.JSONEncoder(default=str, separators=(",", ":"))


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object in ASCII, which no pipe, terminal or collector misreads."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, Any] = {
            "time": iso_ms(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in fields_of(record).items():
            line[f"{name}_" if name in _OURS else name] = value
        if exception := exception_text(self, record):
            line["exception"] = exception
        return _ENCODER.encode(line)


class TextFormatter(logging.Formatter):
    """Write a record as `12:00:00.123 info  gateway  message  name=value …`, coloured where asked."""

    def __init__(self, *, colour: bool = False) -> None:
        """Colour the lines or not; whether a terminal shows them is decided by `configure`."""
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end; exceptions follow on lines of their own, indented."""
        moment = self.formatTime(record, "%H:%M:%S")
        parts = [
            self._paint("2", f"{moment}.{int(record.msecs):03d}"),
            self._paint(_COLOURS.get(record.levelname, "0"), f"{record.levelname.lower():<7}"),
            visible(record.getMessage()),
        ]
        parts += [
            self._paint("2", f"{visible(str(name))}=") + _field_text(value)
            for name, value in fields_of(record).items()
        ]
        parts.append(self._paint("2", f"[{record.name.removeprefix(_PACKAGE)}]"))
        line = " ".join(parts)
        exception = exception_text(self, record)
        if exception:
            shown = (visible(row) for row in exception.splitlines())
            line += "".join(f"\n    {self._paint('2', row)}" for row in shown)
        return line

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def exception_text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the record's traceback and stack as text, "" when it has neither."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return "\n".join(part for part in (record.exc_text, record.stack_info) if part)


def _field_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, str):
        text = visible(value)
        return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
    return visible(json.dumps(value, default=str, ensure_ascii=False))
