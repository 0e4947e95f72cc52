"""Attack: text made to deceive who approves, or who reads the answer, in `answer` and `ask`.

The same in `tail` is in `test_tail.py`, in the console in `tests/browser/test_console.py`.
"""

from __future__ import annotations

import asyncio
import json

from redis.asyncio import Redis

from sse_gateway.core.visible import is_hidden
from tests.cli.command import Terminal, sse_gateway
from tests.cli.test_ask import pending
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET
from tests.support.wait import until

HOSTILE = (
    "rm -rf ~ \x1b[2K\x1b[1A\rls #\u202etxt.exe\u202c a\u200bb\u2060c \u2066isolate\u2069 \ufeff \u00ad\u3164"
    " \u2800 \x9b2J\x07\x08\x7f \U000e0041 nbsp\u00a0 a" + "\u0338" * 9 + "\nfake ╮"
)
SHOWN = (r"\x1b[2K\x1b[1A\rls", r"#\u202etxt.exe\u202c", r"a\u200bb\u2060c", r"\x9b2J\x07\x08\x7f", r"\nfake")


def check(text: str) -> None:
    """Check that nothing hidden is left, and that it stands there written out."""
    hidden = {hex(ord(character)) for character in text if is_hidden(character) and character != "\n"}
    assert not hidden
    assert "\u0338" * 5 not in text
    flat = text.replace("│\n│", "").replace("\n", "").replace(" ", "")
    for escape in SHOWN:
        assert escape.replace(" ", "") in flat, escape


async def test_the_list_of_requests_shows_what_is_hidden(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """`answer SESSION` writes out every hidden character of tool, title, description and parameters."""
    await until(lambda: redis.execute_command("FCALL", "sse_version", 0), "the functions")
    request = {
        "request_id": "r-1",
        "tool_name": "b\u0430sh\x1b[8m",
        "title": HOSTILE,
        "description": HOSTILE,
        "parameters": {HOSTILE: HOSTILE, "lines": ["one", HOSTILE]},
        "risk_level": "low",
    }
    await redis.fcall("sse_ask", 1, session_id, json.dumps(request))
    words = ("answer", session_id, "--url", gateway.base, "--user", "ann")
    listed = await asyncio.to_thread(sse_gateway, *words, jwt_secret=SECRET)
    assert listed.code == 0, listed
    check(listed.out)
    assert r"b\u0430sh" not in listed.out, "a letter that can be seen is shown, however alike another"
    assert r"sh\x1b[8m" in listed.out
    # On a terminal our own colours are there, and nothing of the request's.
    async with Terminal(*words, jwt_secret=SECRET) as terminal:
        await terminal.shows("request id: r-1")
        for evil in ("\x1b[2K", "\x1b[1A", "\x1b[8m", "\u202e", "\u200b", "\u2066", "\x9b", "\x07"):
            assert evil not in terminal.raw, evil
        check(terminal.text)


async def test_who_asked_reads_the_answer_as_it_was_written(
    server: RedisProcess, redis: Redis, gateway: GatewayProcess, session_id: str
) -> None:
    """`ask` writes out what is hidden in the answer's reason, and the question's own tool on a terminal."""
    words = ("ask", session_id, "--tool", "deploy\u202e\u200b", "--timeout", "20")
    async with Terminal(*words, redis_url=server.url) as terminal:
        await terminal.shows(r"waiting for an answer to deploy\u202e\u200b in session")
        await until(lambda: pending(redis, session_id), "the request to be open")
        answered = await asyncio.to_thread(
            sse_gateway, "answer", session_id, "--deny", "--reason", HOSTILE, "--url", gateway.base,
            "--user", "ann", jwt_secret=SECRET,
        )  # fmt: skip
        assert answered.code == 0, answered
        await terminal.shows("denied by ann")
        assert await terminal.ends() == 1
        for evil in ("\x1b[2K", "\u202e", "\u200b", "\u2066", "\x9b", "\x07"):
            assert evil not in terminal.raw, evil
        check(terminal.text)
