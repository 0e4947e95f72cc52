"""Logs: one line a record, structured fields, and never a token, ticket or password in any of it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from sse_gateway.core.visible import visible
from sse_gateway.logs import configure, redact

TOKEN = jwt.encode({"sub": "u", "exp": 2_000_000_000}, "x" * 32, algorithm="HS256")
SECRET = "the-configured-secret-value-0123456789"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    before, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_the_fields_as_members() -> None:
    stream = io.StringIO()
    configure("info", "auto", stream=stream)
    logger = logging.getLogger("sse_gateway.web.events")
    logger.info("SSE stream opened", extra={"fields": {"session": "s1", "seconds": 1.5, "level": "x"}})
    logger.info("embedded server started", extra={"url": "redis://127.0.0.1:1/0"})
    first, second = lines(stream)
    assert first["message"] == "SSE stream opened"
    assert (first["session"], first["seconds"], first["level"], first["level_"]) == ("s1", 1.5, "info", "x")
    assert first["time"].endswith("Z")
    assert second["url"] == "redis://127.0.0.1:1/0"


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure("warning", "json", stream=stream)
    logging.getLogger("x").info("not this")
    logging.getLogger("x").warning("this")
    assert [line["message"] for line in lines(stream)] == ["this"]


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", stream=first)
    configure("info", "json", stream=second)
    logging.getLogger("x").info("once")
    assert not first.getvalue()
    assert len(lines(second)) == 1


def test_text_is_coloured_on_a_terminal_and_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain, piped = Terminal(), Terminal(), io.StringIO()
    configure("info", "auto", stream=coloured)
    logging.getLogger("x").info("hello")
    monkeypatch.setenv("NO_COLOR", "1")
    configure("info", "auto", stream=plain)
    logging.getLogger("x").info("hello")
    monkeypatch.delenv("NO_COLOR")
    configure("info", "text", stream=piped)
    logging.getLogger("x").info("hello")
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" not in piped.getvalue()
    assert "hello" in plain.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_nobody_writes_a_second_line_or_drives_the_terminal(log_format: str) -> None:
    stream = io.StringIO()
    configure("info", log_format, stream=stream)
    evil = "s\r\n12:00:00.000 info SSE stream opened session=forged\x1b[2J\u202e\u2028\x00"
    logging.getLogger("x").info("refused %s", evil, extra={"fields": {"session": evil, evil: 1}})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert not set(text) & set("\r\x1b\x00\u202e\u2028")


LEAKS = [
    f"bare {TOKEN} in a sentence",
    f"cut short {TOKEN[:60]}",
    f'"GET /events/s1?token={TOKEN}&replay=all HTTP/1.1" 200',
    "GET /events/s1?ticket=OPAQUE-9x HTTP/1.1",
    "GET /x?next=%2Fevents%3Ftoken%3DOPAQUE-9x%26a=1",
    f"Authorization: Bearer {TOKEN}",
    "Authorization: Bearer OPAQUE-9x",
    "authorization=Basic OPAQUE-9xOg==",
    "{'Authorization': 'Bearer OPAQUE-9x', 'Host': 'h'}",
    "[('Authorization', 'Bearer OPAQUE-9x')]",
    "b'Authorization', b'Bearer OPAQUE-9x'",
    '{"token": "OPAQUE-9x", "a": 1}',
    '{"ticket":"OPAQUE-9x"}',
    "connecting to redis://user:OPAQUE-9x@host:6379/0",
    "jwt_secret=OPAQUE-9x",
    f"by value {SECRET}!",
]


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_is_written_whichever_way_it_is_logged(leak: str, log_format: str) -> None:
    """Attack: get a token into the logs by message, argument, field, exception or stack."""
    stream = io.StringIO()
    configure("debug", log_format, stream=stream, secrets=(SECRET,))
    logger = logging.getLogger("sse_gateway.test")
    logger.info(leak)
    logger.info("argument %s", leak)
    logger.info("argument %r", {"deep": [leak]})
    logger.info("does not fit %d", leak)
    logger.info(leak, extra={"fields": {"text": leak, "deep": {"list": [leak]}, "object": Exception(leak)}})
    logger.info("direct", extra={"text": leak})
    try:
        try:
            raise ValueError(leak)
        except ValueError as error:
            raise RuntimeError(f"wrapped: {leak}") from error
    except RuntimeError:
        logger.exception("failed")
    logger.info("stack", stack_info=True)
    text = stream.getvalue()
    for secret in (TOKEN, TOKEN[:60], TOKEN.split(".")[1], "OPAQUE-9x", SECRET):
        assert secret not in text
    assert "[redacted]" in text or ":***@" in text


def test_fields_named_after_secrets_are_cut_whatever_they_hold() -> None:
    stream = io.StringIO()
    configure("info", "json", stream=stream)
    given = {"token": "abc", "access_token": "abc", "ticket": b"abc", "jwt_secret": "abc", "tokens": 3}
    logging.getLogger("x").info("fields", extra={"fields": given})
    line = lines(stream)[0]
    assert {name: line[name] for name in given} == {
        "token": "[redacted]",
        "access_token": "[redacted]",
        "ticket": "[redacted]",
        "jwt_secret": "[redacted]",
        "tokens": 3,
    }
    assert given["token"] == "abc", "the caller's own mapping is not changed"


@pytest.mark.parametrize(
    "text",
    [
        "SSE stream closed reason=token_expired",
        "the token is missing: send it in the Authorization header as Bearer",
        "File sse_gateway/web/extensions.py in external_service_runner.submit_everything",
        "exceptions.ConnectionResetError e3b0c44298fc1c149afbf4c8996fb924",
        "GET /agent_backend/api/sse/events/s1?last_event_id=0123456789-42 HTTP/1.1",
        "redis://127.0.0.1:6379/0",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_a_very_long_message_is_cut_with_its_length_told() -> None:
    stream = io.StringIO()
    configure("info", "json", stream=stream)
    logging.getLogger("x").info("a" * 100_000)
    assert lines(stream)[0]["message"].endswith("… (100000 characters)")
    assert len(stream.getvalue()) < 20_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ASCII", "plain ASCII"),
        ("Grüße, 世界 \u3000 👍", "Grüße, 世界 \u3000 👍"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("rm \u202etxt.exe", "rm \\u202etxt.exe"),
        ("zero\u200bwidth\u2060\ufeff", "zero\\u200bwidth\\u2060\\ufeff"),
        ("no\u00a0break", "no\\xa0break"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("filler\u3164\u2800", "filler\\u3164\\u2800"),
        ("⚠\ufe0f ok, a\ufe0f not", "⚠\ufe0f ok, a\\ufe0f not"),
        ("lone \ud800", "lone \\ud800"),
        ("e\u0301 e" + 6 * "\u0336", "e\u0301 e" + 4 * "\u0336" + 2 * "\\u0336"),
    ],
)
def test_hidden_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_escapes_can_be_marked_and_line_ends_kept() -> None:
    assert visible("a\nb\x00", keep="\n", before="<", after=">") == "a\nb<\\x00>"
