"""`ask` and `answer`: a shell script is gated by a human, and the exit code is the answer."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
from redis.asyncio import Redis

from sse_gateway.cli.ask import _ask as ask_in_process
from sse_gateway.config import Settings
from tests.agent.people import People
from tests.cli.command import Done, Terminal, sse_gateway
from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET
from tests.support.wait import until

DECISION = {
    *("request_id", "outcome", "approved", "reason", "option_id", "option_kind", "updated_input"),
    *("args_digest", "decided_by", "client_id", "source", "decided_at"),
}


async def ask(server: RedisProcess, *words: str) -> Done:
    return await asyncio.to_thread(sse_gateway, "ask", *words, redis_url=server.url)


async def answer(gateway: GatewayProcess, *words: str) -> Done:
    return await asyncio.to_thread(
        sse_gateway, "answer", *words, "--url", gateway.base, "--user", "ann", jwt_secret=SECRET
    )


@pytest.fixture
def people(server: RedisProcess) -> People:
    """An agent without the SDK on the gateway's server."""
    return People(server)


async def pending(redis: Redis, session_id: str) -> list[bytes]:
    found: list[bytes] = await redis.zrange(f"sse:{{{session_id}}}:pending", 0, -1)
    return found


@pytest.mark.parametrize(("said", "code", "told"), [("--approve", 0, "approved"), ("--deny", 1, "denied")])
async def test_the_answer_is_the_exit_code(
    server: RedisProcess,
    redis: Redis,
    gateway: GatewayProcess,
    session_id: str,
    said: str,
    code: int,
    told: str,
) -> None:
    """0 is approved and 1 denied; the answer names who gave it and why."""
    asking = asyncio.create_task(ask(server, session_id, "--tool", "deploy", "--parameters", '{"to":"prod"}'))
    await until(lambda: pending(redis, session_id), "the request to be open")
    listed = await answer(gateway, session_id)
    assert "deploy" in listed.out
    done = await answer(gateway, session_id, said, "--reason", "because\x1b[31m")
    assert done.code == 0, done
    asked = await asking
    assert asked.code == code, asked
    assert told in asked.out
    assert "by ann" in asked.out
    assert "\x1b" not in asked.out


async def test_an_answer_can_choose_and_edit(
    server: RedisProcess, gateway: GatewayProcess, people: People, session_id: str
) -> None:
    """`--option` and `--edit` reach the agent as they were given."""
    request = {
        "tool_name": "bash",
        "parameters": {"cmd": "rm -rf build"},
        "options": [{"id": "always", "label": "Always", "kind": "allow_always"}],
    }
    people.call("ask", session_id, json.dumps({"request_id": "r", "editable": True, **request}))
    edit = '{"cmd": "ls", "n": [1, "é"]}'
    done = await answer(gateway, session_id, "r", "--approve", "--option", "always", "--edit", edit)
    assert (done.code, done.out) == (0, "Permission approved.\n"), done
    decision = json.loads(people.call("decision", session_id, "r"))["decision"]
    assert (decision["option_id"], decision["option_kind"]) == ("always", "allow_always")
    assert decision["updated_input"] == json.loads(edit)
    assert decision["decided_by"] == "ann"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--approve", "--option", "never"), 1, "no option 'never'"),
        (("--deny", "--option", "always"), 1, "contradicts"),
        (("--approve", "--edit", '{"cmd": "ls"}'), 1, "not allow its input to be edited"),
        (("--approve", "--edit", '["ls"]'), 1, "an object"),
        (("--approve", "--edit", "{"), 2, "--edit"),
        (("--option", "always"), 2, "--approve or --deny"),
    ],
)
async def test_a_choice_or_edit_that_is_not_allowed_leaves_the_request_open(
    gateway: GatewayProcess, people: People, session_id: str, words: tuple[str, ...], code: int, says: str
) -> None:
    """What is wrong is told in a line, and nothing is answered."""
    option = {"id": "always", "label": "Always", "kind": "allow_always"}
    request = {"request_id": "r", "tool_name": "bash", "parameters": {"cmd": "rm"}, "options": [option]}
    people.call("ask", session_id, json.dumps(request))
    done = await answer(gateway, session_id, "r", *words)
    assert done.code == code, done
    assert says in done.err
    assert people.pending(session_id) == ["r"]


async def test_nobody_in_time_is_two_and_nobody_there_is_three(server: RedisProcess, session_id: str) -> None:
    """Expired is told apart from denied, and from a request that was given up for want of a viewer."""
    expired = await ask(server, session_id, "--tool", "x", "--timeout", "1", "--json")
    assert expired.code == 2
    told = json.loads(expired.out)
    assert (told["source"], set(told)) == ("timeout", DECISION)
    alone = await ask(server, session_id, "--tool", "x", "--on-no-viewer", "fail")
    assert (alone.code, alone.out) == (3, "cancelled: no_viewer\n")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--tool", "x", "--parameters", "[]"),
        ("--tool", "x", "--parameters", "{"),
        ("--tool", "x", "--risk", "?"),
    ],
)
async def test_what_cannot_be_asked_is_none_of_the_answers(
    server: RedisProcess, session_id: str, words: tuple[str, ...]
) -> None:
    """A script must not take a typing mistake for "nobody answered": it is 4, and told in a line."""
    done = await ask(server, session_id, *words)
    assert done.code == 4
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


async def test_without_redis_it_is_four() -> None:
    """Redis that cannot be reached is no answer either."""
    done = await asyncio.to_thread(
        sse_gateway, "ask", "s1", "--tool", "x", "--timeout", "5", redis_url="redis://127.0.0.1:1/0"
    )
    assert done.code == 4
    assert "Redis" in done.err


async def test_two_scripts_with_one_request_id_run_once(
    server: RedisProcess, redis: Redis, gateway: GatewayProcess, session_id: str
) -> None:
    """Of two callers that wait for the same request one gets 0 and the other 3."""
    words = (session_id, "--tool", "deploy", "--request-id", "deploy-42")
    asking = [asyncio.create_task(ask(server, *words)) for _ in range(2)]
    await until(lambda: pending(redis, session_id), "the request to be open")
    assert (await answer(gateway, session_id, "deploy-42", "--approve")).code == 0
    assert sorted([(await one).code for one in asking]) == [0, 3]
    assert (await answer(gateway, session_id, "deploy-42", "--deny")).code == 1


async def test_two_containers_that_look_alike_are_two(
    server: RedisProcess, redis: Redis, gateway: GatewayProcess, session_id: str
) -> None:
    """With one host name and one process id, as in two containers of one image, one still runs alone."""
    settings = Settings.model_validate({"redis_url": server.url})
    asked = {"request_id": "deploy-42"}
    asking = [
        asyncio.create_task(ask_in_process(settings, session_id, "deploy", {}, owner="", asked=asked))
        for _ in range(2)
    ]
    await until(lambda: pending(redis, session_id), "the request to be open")
    assert (await answer(gateway, session_id, "deploy-42", "--approve")).code == 0
    assert sorted([(await one)[1] for one in asking]) == [False, True]


async def test_ctrl_c_withdraws_the_request(server: RedisProcess, redis: Redis, session_id: str) -> None:
    """Who gives up asking leaves no dialog behind."""
    async with Terminal("ask", session_id, "--tool", "deploy", redis_url=server.url) as terminal:
        await until(lambda: pending(redis, session_id), "the request to be open")
        assert await terminal.ends(signal.SIGINT) == 130
    assert not await pending(redis, session_id)
