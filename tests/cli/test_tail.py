"""`tail`: the stream in a terminal or a pipe, and answers that fall to the request that was on the screen."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from sse_gateway.cli.following import Gateway, Lost
from sse_gateway.cli.sse import ServerEvent
from tests.cli.command import READ_SECONDS, Terminal, sse_gateway
from tests.support.gateway import COMMAND, GatewayProcess, environment
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET, token
from tests.support.wait import until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    """A server of this module's, on which each test has a session of its own."""
    with RedisProcess() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(server: RedisProcess) -> AsyncIterator[GatewayProcess]:
    """The module's gateway: starting one takes longer than most of these tests."""
    gateway = GatewayProcess(server.url, heartbeat_seconds=1)
    try:
        yield await gateway.start()
    finally:
        gateway.close()


async def publish(redis: Redis, session_id: str, type_: str, data: Any) -> Any:
    return await redis.fcall("sse_publish", 1, session_id, json.dumps({"type": type_, "data": data}))


async def ask(redis: Redis, session_id: str, **request: Any) -> str:
    whole = {"tool_name": "bash", "parameters": {"command": "ls"}, "risk_level": "high"} | request
    return str(json.loads(await redis.fcall("sse_ask", 1, session_id, json.dumps(whole)))["request_id"])


async def decided(redis: Redis, session_id: str, request_id: str) -> dict[str, Any]:
    async def decision() -> Any:
        standing = json.loads(await redis.fcall("sse_decision", 1, session_id, request_id))
        return standing.get("decision")

    found: dict[str, Any] = await until(decision, "a decision")
    return found


def tail(gateway: GatewayProcess, session_id: str, *words: str, **more: Any) -> Terminal:
    return Terminal(
        "tail", session_id, "--url", gateway.base, "--user", "ann", *words, jwt_secret=SECRET, **more
    )


async def test_events_are_shown_one_a_line_with_time_type_and_summary(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("live at")
        await publish(redis, session_id, "tool_status", {"tool_name": "bash", "status": "executing"})
        await publish(
            redis, session_id, "tool_result", {"tool_name": "bash", "success": False, "error": "no disk"}
        )
        await publish(redis, session_id, "note", {"text": "x" * 500})
        await terminal.shows("note")
        assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} tool_status +bash executing$", terminal.text, re.MULTILINE)
        assert re.search(r"tool_result +bash failed no disk$", terminal.text, re.MULTILINE)
        assert re.search(r"note +\{.*…$", terminal.text, re.MULTILINE)
        assert max(map(len, terminal.text.splitlines())) <= 100
        assert await terminal.ends(signal.SIGINT) == 130


async def test_a_request_is_shown_in_full_and_approved_with_y(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    long = " && ".join(f"step-{number}" for number in range(60))
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("live at")
        before = terminal.settings()[3]
        request_id = await ask(redis, session_id, parameters={"command": long}, title="Sixty steps")
        await terminal.shows("bash: y, n")
        shown = terminal.text.split("╭")[1].split("╰")[0]
        assert "high risk" in shown
        assert "Sixty steps" in shown
        joined = "".join(line[2:-2] for line in shown.splitlines()[1:])
        assert long in joined, "arguments are never cut"
        await asyncio.sleep(READ_SECONDS)
        terminal.type("y\r")
        decision = await decided(redis, session_id, request_id)
        assert (decision["outcome"], decision["decided_by"]) == ("approved", "ann")
        await terminal.shows("You approved bash.")
        await terminal.shows("permission_cleared")
        assert await terminal.ends(signal.SIGINT) == 130
        assert terminal.settings()[3] != before, "the keyboard is given back as it was"


async def test_a_reason_goes_with_a_denial_and_typing_can_be_corrected(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    request_id = await ask(redis, session_id)
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("bash: y, n")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("maybe\r")
        await terminal.shows("Type y or n")
        terminal.type("y\x15n not on Fri\x7f\x7f\x7fprodüction \x1b[A世界\r")
        decision = await decided(redis, session_id, request_id)
        assert decision["outcome"] == "denied"
        assert decision["reason"] == "not on prodüction 世界"


async def test_what_was_typed_before_the_request_was_read_is_no_answer(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """Attack: have a second request appear just when a person confirms the first."""
    first = await ask(redis, session_id, request_id="first")
    second = await ask(redis, session_id, request_id="second", parameters={"command": "rm -rf /"})
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("first")
        await terminal.shows("bash: y, n")
        terminal.type("y\r")
        await terminal.shows("once more, please")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("y\ry\ry\r")
        assert (await decided(redis, session_id, first))["outcome"] == "approved"
        await terminal.shows("rm -rf /")
        await asyncio.sleep(1)
        assert json.loads(await redis.fcall("sse_decision", 1, session_id, second))["status"] == "pending"


async def test_a_request_that_was_settled_elsewhere_takes_its_question_along(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    request_id = await ask(redis, session_id)
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("bash: y, n")
        terminal.type("y half typ")
        await redis.fcall("sse_cancel", 1, session_id, request_id, "the agent gave up")
        await terminal.shows("permission_cleared")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("\r")
        await publish(redis, session_id, "note", {})
        await terminal.shows("note")
        assert "You approved" not in terminal.text


async def test_an_offered_answer_is_chosen_by_its_number(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    options = [
        {"id": "once", "label": "This time", "kind": "allow_once"},
        {"id": "never", "label": "Never in this session", "kind": "reject_always"},
    ]
    request_id = await ask(redis, session_id, options=options)
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("2) Never in this session")
        await terminal.shows("1-2")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("2\r")
        decision = await decided(redis, session_id, request_id)
        assert (decision["approved"], decision["option_id"]) == (False, "never")


async def test_attack_option_whose_id_is_the_number_of_another(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """Attack: have the number that is shown beside "Reject" be the id of what approves for ever."""
    options = [
        {"id": "2", "label": "Approve always", "kind": "allow_always"},
        {"id": "r", "label": "Reject", "kind": "reject_once"},
    ]
    request_id = await ask(redis, session_id, options=options)
    listed = await asyncio.to_thread(
        sse_gateway, "answer", session_id, "--url", gateway.base, "--user", "ann", jwt_secret=SECRET
    )
    assert "--option 2: Approve always [allow_always]" in listed.out, "where ids are given, ids are shown"
    assert "2) Reject" not in listed.out
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("2) Reject")
        await terminal.shows("1-2")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("2\r")
        decision = await decided(redis, session_id, request_id)
        assert (decision["outcome"], decision["option_id"]) == ("denied", "r")


async def test_attack_options_exchanged_under_the_question(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """Attack: guess the next id, and publish the open request again with other ids under its numbers."""
    once = {"id": "once", "label": "This time", "kind": "allow_once"}
    always = {"id": "always", "label": "Always", "kind": "allow_always"}
    await ask(redis, session_id, request_id="asked", options=[once, always])
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("2) Always")
        await terminal.shows("1-2")
        epoch, _, seq = (await publish(redis, session_id, "note", {})).decode().partition("-")
        await terminal.shows("note")
        options = [always | {"label": "This time"}, once]
        forged = {"tool_name": "bash", "request_id": "asked", "options": options}
        envelope = {"type": "permission_request", "session_id": session_id, "data": forged}
        line = json.dumps({"id": f"{epoch}-{int(seq) + 1}"} | envelope, separators=(",", ":"))
        await redis.publish(f"sse_events:{session_id}", line)
        await terminal.shows("2) This time")
        assert "[allow_always]" in terminal.text.rpartition("1) This time")[2].partition("2)")[0]


async def test_a_viewer_without_the_right_to_answer_is_told_so(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    request_id = await ask(redis, session_id)
    reading = token(session_id=session_id, scope="sse:read")
    async with tail(gateway, session_id, "--token", reading) as terminal:
        await terminal.shows("bash: y, n")
        await asyncio.sleep(READ_SECONDS)
        terminal.type("y\r")
        await terminal.shows("sse:respond")
        assert json.loads(await redis.fcall("sse_decision", 1, session_id, request_id))["status"] == "pending"


async def test_text_made_to_deceive_is_written_out(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """Attack: hide or reorder what is to be approved by control, bidirectional and invisible characters."""
    evil = "rm -rf ~ \x1b[2K\x1b[1A\rls #\u202etxt.exe\u200b\u2066\x9b2J\nfake ╮"
    async with tail(gateway, session_id) as terminal:
        await terminal.shows("live at")
        await publish(redis, session_id, "note", {"text": evil, evil: 1})
        await ask(
            redis, session_id, tool_name="bash\x1b[8m", title=evil, parameters={"command": evil, evil: 1}
        )
        await terminal.shows("y, n")
        for hidden in ("\x1b[2K\x1b[1A", "\x1b[8m", "\u202e", "\u200b", "\u2066", "\x9b"):
            assert hidden not in terminal.raw
        for escape in (r"\x1b[2K\x1b[1A\rls", r"\u202etxt.exe\u200b\u2066\x9b2J\nfake"):
            assert escape in terminal.text.replace("│\n│", "").replace(" ", "")
            assert escape in terminal.text


async def test_in_a_pipe_it_is_plain_text_or_json(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    await publish(redis, session_id, "note", {"text": "ü\u202e"})
    await redis.fcall("sse_end", 1, session_id)
    words = ("tail", session_id, "--url", gateway.base, "--replay", "all")
    plain = sse_gateway(*words, jwt_secret=SECRET)
    as_json = sse_gateway(*words, "--json", jwt_secret=SECRET)
    assert (plain.code, as_json.code) == (0, 0), (plain, as_json)
    assert r"ü\u202e" in plain.out
    assert "\x1b" not in plain.out
    assert "the session has ended" in plain.err
    lines = [json.loads(line) for line in as_json.out.splitlines()]
    assert lines[0]["data"] == {"text": "ü\u202e"}
    assert lines[0]["id"].endswith("-1")
    assert [line["event"] for line in lines[1:]] == ["ready", "closing"]
    assert as_json.out.isascii()


async def test_since_goes_on_after_a_position(gateway: GatewayProcess, redis: Redis, session_id: str) -> None:
    ids = [await publish(redis, session_id, "note", {"n": number}) for number in range(4)]
    await redis.fcall("sse_end", 1, session_id)
    done = sse_gateway(
        *("tail", session_id, "--url", gateway.base, "--json", "--since", ids[1].decode()), jwt_secret=SECRET
    )
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [event["data"]["n"] for event in found if "type" in event] == [2, 3]


async def test_it_comes_back_with_its_cursor_and_misses_nothing(
    gateway: GatewayProcess, redis: Redis, session_id: str
) -> None:
    """Guarantee: whatever happens to the gateway, each event is shown once and in order."""
    seen: list[int] = []
    process = subprocess.Popen(
        [COMMAND, "tail", session_id, "--url", gateway.base, "--json"],
        stdout=subprocess.PIPE,
        env=environment({"jwt_secret": SECRET}),
    )
    try:
        assert process.stdout is not None
        stdout = process.stdout

        async def up_to(number: int) -> None:
            while not seen or seen[-1] < number:
                line = json.loads(await asyncio.wait_for(asyncio.to_thread(stdout.readline), 20))
                if line.get("type") == "note":
                    seen.append(line["data"]["n"])

        json.loads(await asyncio.to_thread(stdout.readline))
        for number in range(3):
            await publish(redis, session_id, "note", {"n": number})
        await up_to(2)
        gateway.kill()
        for number in range(3, 6):
            await publish(redis, session_id, "note", {"n": number})
        await gateway.start()
        await up_to(5)
        await gateway.restart()
        await publish(redis, session_id, "note", {"n": 6})
        await up_to(6)
        assert seen == list(range(7))
    finally:
        process.kill()
        process.wait()
        stdout.close()


async def test_a_refusal_no_retry_can_cure_ends_it(gateway: GatewayProcess, session_id: str) -> None:
    foreign = sse_gateway("tail", session_id, "--url", gateway.base, "--token", token(session_id="other"))
    garbage = sse_gateway("tail", session_id, "--url", gateway.base, env={"SSE_GATEWAY_TOKEN": "garbage"})
    elsewhere = sse_gateway("tail", session_id, "--url", gateway.origin, jwt_secret=SECRET)
    assert (foreign.code, garbage.code, elsewhere.code) == (1, 1, 1)
    assert "The session rule refused" in foreign.err
    assert "--explain" in foreign.err
    assert "JWT" in garbage.err
    assert "base path" in elsewhere.err


async def test_with_the_secret_at_hand_it_goes_on_when_its_token_expires(
    server: RedisProcess, gateways: Callable[..., Awaitable[GatewayProcess]], redis: Redis, session_id: str
) -> None:
    gateway = await gateways(server, jwt_leeway_seconds=0)
    short = token(session_id=session_id, exp=int(time.time()) + 3)
    client = Gateway(gateway.base, session_id, token=short, fresh_token=lambda: token(session_id=session_id))
    names: list[str] = []
    async with client, asyncio.timeout(20):
        async for step in client.follow():
            if isinstance(step, Lost):
                assert step.seconds == 0
            elif isinstance(step, ServerEvent):
                names.append(step.event)
            if names.count("ready") == 2:
                break
    assert names[0] == "ready"
    assert "closing" in names
