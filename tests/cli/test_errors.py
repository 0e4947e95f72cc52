"""What the command line says when something is wrong: one line, what to do, an exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import Done, Terminal, sse_gateway
from tests.support.gateway import COMMAND
from tests.support.ports import free_port
from tests.support.tokens import SECRET

COMMANDS = ("demo", "serve", "token", "publish", "tail", "check-config")


def refused(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert not done.out
    for word in words:
        assert word in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples(command: str) -> None:
    done = sse_gateway(command, "--help")
    assert done.code == 0
    assert f"sse-gateway {command}" in done.out.split("Examples:")[1].split("Options:")[0]
    assert "\x1b" not in done.out


def test_the_list_of_commands_and_the_version() -> None:
    done = sse_gateway("--help")
    assert done.code == 0
    assert [command for command in COMMANDS if command not in done.out] == []
    assert sse_gateway("--version").out.startswith("sse-gateway ")


def test_help_answers_at_once() -> None:
    """Nothing heavy may be imported for it; the best of five in CPU time, for the machine may be busy."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([COMMAND, "--help"], capture_output=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system)
        times[-1] -= before.children_user + before.children_system
    assert min(times) < 0.5
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, "--help"], capture_output=True, check=True, text=True
    ).stderr
    for module in ("aiohttp", "pydantic", "redis", "uvloop", "jwt"):
        assert f"| {module}\n" not in loaded


def test_a_misspelt_command_is_guessed() -> None:
    refused(sse_gateway("tial", "s1"), 2, "Did you mean tail?")


def test_serve_without_redis_and_without_a_key_names_both() -> None:
    done = sse_gateway("serve")
    refused(done, 2, "REDIS_URL: not set", "JWT_SECRET: not set", "JWT_PUBLIC_KEY_FILE", "serve --dev")


def test_every_wrong_setting_is_told_at_once_wherever_it_stands(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('namspace = "x"\nhistory_events = 0\n')
    done = sse_gateway(
        "serve", "--config", str(config), "--port", "http", env={"SSE_GATEWAY_JWT_SECRET": "hunter2-hunter2"}
    )
    refused(
        done, 2, "PORT", "HISTORY_EVENTS", "JWT_SECRET", "REDIS_URL", "namspace", "did you mean namespace?"
    )
    assert "hunter2" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("token",), "--user is missing"),
        (("token", "-u", "ann", "-s", "a*b"), "neither a session id nor a prefix"),
        (("token", "-u", "ann", "--ttl", "soon"), "is no time"),
        (("token", "-u", "a\nb"), "visible characters"),
        (("token", "--explain", "x"), "needs one --session"),
        (("publish", "s1"), "nothing to publish"),
        (("publish", "a b", "{}"), "session id"),
        (("publish", "s1", "{type:x}"), "not valid JSON"),
        (("publish", "s1", '{"type":"a","data":NaN}'), "not valid JSON"),
        (("publish", "s1", "[]"), "not a JSON object"),
        (("publish", "s1", '{"data":{}}'), "type is 1 to 64"),
        (("publish", "s1", '{"type":"heartbeat"}'), "Only the gateway"),
        (("publish", "s1", "{}", "--type", "a"), "either a whole EVENT or"),
        (("publish", "s1", "--type", "a", "--data", "{x"), "--data is not valid JSON"),
        (("publish", "s1", '{"type":"a"}', "--live", "--owner", "u"), "--live goes with neither"),
        (("tail", "a/b"), "session id"),
        (("tail", "s1", "--since", "yesterday"), "is no position"),
        (("tail", "s1", "--url", "gateway:8000"), "is no http://"),
        (("demo", "--session", "a b"), "session id"),
        (("serve", "--dev", "--host", "0.0.0.0"), "loopback only"),
        (("serve", "--redis-url", "redis://h?colour=red"), "unknown option 'colour'"),
        (("tail",), "Missing argument 'SESSION'"),
        (("serve", "--hots", "x"), "--hots"),
        (("demo", "--port", "http"), "--port"),
    ],
)
def test_wrong_arguments(words: tuple[str, ...], said: str) -> None:
    refused(sse_gateway(*words, jwt_secret=SECRET), 2, said)


def test_redis_that_is_not_there_is_said_with_what_to_look_at() -> None:
    url = f"redis://:opensesame@127.0.0.1:{free_port()}/0"
    done = sse_gateway("publish", "s1", '{"type":"a"}', redis_url=url)
    refused(done, 1, "Redis cannot be reached", "SSE_GATEWAY_REDIS_URL")
    assert "opensesame" not in done.err


def test_a_gateway_that_is_not_there_is_said_with_what_to_look_at() -> None:
    done = sse_gateway("tail", "s1", "--url", f"http://127.0.0.1:{free_port()}/x", jwt_secret=SECRET)
    refused(done, 1, "cannot be reached", "--url")


def test_tail_without_any_token_says_how_to_give_one() -> None:
    refused(sse_gateway("tail", "s1"), 2, "SSE_GATEWAY_TOKEN", "SSE_GATEWAY_JWT_SECRET")


async def test_errors_are_coloured_on_a_terminal_unless_no_color_is_set() -> None:
    async with Terminal("tail", "a/b") as coloured, Terminal("tail", "a/b", env={"NO_COLOR": "1"}) as plain:
        assert await coloured.ends() == 2
        assert await plain.ends() == 2
        await coloured.shows("session id")
        await plain.shows("session id")
        assert "\x1b[31m" in coloured.raw
        assert "\x1b" not in plain.raw
