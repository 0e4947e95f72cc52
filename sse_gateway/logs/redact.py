"""Cut tokens, tickets and passwords out of whatever is about to be logged.

By form, not by trust in callers: a JWT is recognised wherever it stands, the rest by the name before it (a
query parameter, a header, a JSON member) or by its place in a URL. `Redactor` also knows the configured
secrets themselves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

REDACTED = "[redacted]"
MAX_CHARACTERS = 16_384
MIN_KNOWN_SECRET = 6

_NAMES = r"(?:access_|id_|refresh_|auth_)?token|ticket|jwt|password|passwd|secret|api_?key|authorization"

# The head of a JWT is base64 of `{"`, nearly always; other JSON white space shifts it, hence the second form.
_JWT = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    r"|(?<![A-Za-z0-9_-])e[w-z0-9][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"
)
_QUERY = re.compile(
    rf"(?i)(?:(?<![a-z0-9])|(?<=%3f)|(?<=%26))({_NAMES})(=|%3d)(?!\[redacted\])[^\s&\"'<>#;,)\]}}]+"
)
_MEMBER = re.compile(rf"(?i)([\"'](?:[a-z_]*_)?(?:{_NAMES})[\"']\s*[:,]\s*b?)([\"'])(?:(?!\2).)+\2")
_HEADER = re.compile(
    r"(?i)(authorization[\"']?\s*[:=,]\s*+(?:b?[\"'])?+(?:[a-z]++\s++)?+)(?!\[redacted\])[^\s\"',;)]+"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+(?=[^\s\"',;)]*[0-9._=-]|[^\s\"',;)]{20})[^\s\"',;)]{8,}")
_USERINFO = re.compile(r"(://[^\s/@:\"']*):[^\s/@\"']+@")
# Each of the forms above has one of these somewhere, or is a token of three parts.
_MARKS = ("token", "ticket", "jwt", "passw", "secret", "api", "authoriz", "bearer", "basic", "://", "eyj")
_SHORTEST_TOKEN = 36
_SECRET_FIELD = re.compile(rf"(?i)(?:.*_)?(?:{_NAMES})(?:_previous)?")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with whatever gives access to something replaced by `[redacted]`."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if _is_harmless(text):
        return text
    text = _JWT.sub(REDACTED, text)
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    text = _QUERY.sub(rf"\1\2{REDACTED}", text)
    text = _MEMBER.sub(rf"\1\2{REDACTED}\2", text)
    return _USERINFO.sub(r"\1:***@", text)


def _is_harmless(text: str) -> bool:
    """Tell, without the expressions, that none of them can match: so it is with most texts."""
    if not text.isascii() or (len(text) >= _SHORTEST_TOKEN and text.count(".") > 1):
        return False
    return not _has_mark(text)


def _has_mark(text: str) -> bool:
    lower = text.lower()
    for mark in _MARKS:  # noqa: SIM110 (three times as fast as any())
        if mark in lower:
            return True
    return False


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_FIELD.fullmatch(name) is not None


class Redactor(logging.Filter):
    """Rewrite records so that no formatter behind it can print a secret.

    As a filter on the handler, because records of other libraries' loggers reach the root's handlers without
    passing the root's own filters.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Remember secrets to cut out by value; very short ones would garble every line."""
        super().__init__()
        self._secrets = tuple(secret for secret in secrets if len(secret) >= MIN_KNOWN_SECRET)
        self._formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record in place; every record passes."""
        message, fields = _message(record), fields_of(record)
        record.msg, record.args = message, None
        if not (record.exc_info or record.exc_text or record.stack_info) and self._is_plain(message, fields):
            return True
        record.msg = self._text(message)
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._text(record.exc_text)
        if record.stack_info:
            record.stack_info = self._text(record.stack_info)
        for name, value in fields.items():
            _put_field(record, name, self._value(name, value))
        return True

    def _is_plain(self, message: str, fields: Mapping[str, Any]) -> bool:
        """Tell, in one look at all of it, that nothing has to be cut out: so it is with most records."""
        texts = [message]
        for name, value in fields.items():
            if isinstance(value, str):
                texts.append(value)
            elif not (value is None or isinstance(value, bool | int | float)):
                return False
            if _is_secret_name(name):
                return False
        joined = "\n".join(texts)
        if len(joined) > MAX_CHARACTERS or not joined.isascii() or _has_mark(joined):
            return False
        if any(secret in joined for secret in self._secrets):
            return False
        return not any(len(text) >= _SHORTEST_TOKEN and text.count(".") > 1 for text in texts)

    def _text(self, text: str) -> str:
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]}… ({len(text)} characters)"
        return redact(text, self._secrets)

    def _value(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if _is_secret_name(name):
            return REDACTED
        if isinstance(value, Mapping):
            return {str(key): self._value(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value("", inner) for inner in value]
        return self._text(value if isinstance(value, str) else str(value))


_ALWAYS = len(vars(logging.makeLogRecord({})))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "fields"}


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the structured fields of a record: `extra={"fields": {…}}` and other extra attributes."""
    attributes = vars(record)
    fields = attributes.get("fields")
    if isinstance(fields, dict) and len(attributes) == _ALWAYS + 1:
        # Our own records, nearly all there are.
        return fields
    found = {name: attributes[name] for name in attributes.keys() - _STANDARD}
    if isinstance(fields, Mapping):
        found.update(fields)
    return found


def _put_field(record: logging.LogRecord, name: str, value: Any) -> None:
    """Replace a field where it came from; the caller's own mapping is not touched, it may be used again."""
    fields = getattr(record, "fields", None)
    if isinstance(fields, Mapping) and name in fields:
        record.fields = {**fields, name: value}
    else:
        setattr(record, name, value)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  a wrong format string must not lose the line, nor print its arguments raw
        return f"{record.msg} (its arguments do not fit)"
